"""Many clusters side by side: one program that runs a batch of designs to their ends.

The tables that designs share, workloads and step times, are not batched: a design names its rows (see `simjax.engine.params`). The loop is
around the batch, not inside it: `vmap` of a `while_loop` would select between the old and the new state of every design in every trip, to
freeze those that are done, where a tick of a design that is done changes nothing anyway. Where loops are compiled whole, designs with
prefix caches run one after the other instead (`run_in_turn`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.accounting.leap_log import NoLog
from simjax.engine.control.whole_loops import loops_are_whole
from simjax.engine.params import ClusterParams
from simjax.engine.programs import Effort, compiled
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import pending, start
from simjax.engine.state import ClusterState
from simjax.engine.tick import tick

# As many ticks take at most half a second longer in a program that is compiled in some seconds less.
BRIEF_TICKS, MEDIUM_TICKS = 16_384, 262_144
BRIEF_TICKS_IN_TURN = 65_536  # whole loops compiled briefly take some 60 microseconds a tick, and ten seconds less to compile
_SHARED = ("requests", "step_time")  # tables, of which a design names rows
_AXES: dict[str, Any] = {name: None if name in _SHARED else 0 for name in ClusterParams.__dataclass_fields__}
BATCH_AXES: Any = ClusterParams(**_AXES)
"""`in_axes` of a batch: every design has parameters of its own but for the tables, of which it names rows."""


def run_batch(shape: EngineShape, stride: int, params: ClusterParams, max_ticks: Array) -> tuple[ClusterState, Array]:
    """Run a batch of designs until every one has finished or stalled, or for `max_ticks` ticks.

    Args:
        shape: static sizes; no log is kept (`log_rows` must be 0).
        stride: ticks between two looks at whether the batch is done. On an accelerator every look waits for the host. `max_ticks` is
            rounded up to a multiple of it.
        params: leaves with a leading axis B as `BATCH_AXES` says.
        max_ticks: int32[].

    Returns:
        The final states, leaves [B, ...], and which of them could go on, bool[B].
    """
    if shape.log_rows:
        raise ValueError("a batch keeps no log: log_rows must be 0")
    shape = dataclasses.replace(shape, side_by_side=True)
    still_pending = jax.vmap(pending, in_axes=(BATCH_AXES, 0))

    def one(params: ClusterParams, state: ClusterState, going: Array) -> ClusterState:
        after, _ = tick(shape, params, state, NoLog())
        return dataclasses.replace(after, ticks=state.ticks + going.astype(jnp.int32))

    def step(_: Any, carry: tuple[ClusterState, Array]) -> tuple[ClusterState, Array]:
        state = jax.vmap(one, in_axes=(BATCH_AXES, 0, 0))(params, *carry)
        return state, still_pending(params, state)

    def trip(carry: tuple[ClusterState, Array, Array]) -> tuple[ClusterState, Array, Array]:
        state, going, ticks = carry
        batch = (state, going)
        state, going = step(0, batch) if stride == 1 else jax.lax.fori_loop(0, stride, step, batch)
        return state, going, ticks + stride

    def unfinished(carry: tuple[ClusterState, Array, Array]) -> Array:
        _, going, ticks = carry
        return (ticks < max_ticks) & jnp.any(going)

    begin = jax.vmap(partial(start, shape), in_axes=(BATCH_AXES,))(params)
    state, going, _ = jax.lax.while_loop(unfinished, trip, (begin, still_pending(params, begin), jnp.zeros((), jnp.int32)))
    return state, going


def run_in_turn(shape: EngineShape, params: ClusterParams, max_ticks: Array) -> tuple[ClusterState, Array]:
    """What `run_batch` gives, by running one design to its end after the other.

    Every design is a loop that XLA compiles whole for a CPU (`simjax.engine.control.whole_loops`), and pays for what it does itself: side
    by side, a loop within a tick goes on for all designs while one of them needs it, and a branch that one takes is taken for all.
    """
    if shape.log_rows:
        raise ValueError("a batch keeps no log: log_rows must be 0")

    def one(of_design: dict[str, Any]) -> tuple[ClusterState, Array]:
        mine = dataclasses.replace(params, **of_design)

        def more(state: ClusterState) -> Array:
            return pending(mine, state) & (state.ticks < max_ticks)

        state = jax.lax.while_loop(more, lambda state: tick(shape, mine, state, NoLog())[0], start(shape, mine))
        return state, pending(mine, state)

    return jax.lax.map(one, {name: getattr(params, name) for name, axis in _AXES.items() if axis is not None})


def compiled_batch(
    shape: EngineShape, stride: int, params: ClusterParams, ticks: float = math.inf
) -> Callable[..., tuple[ClusterState, Array]]:
    """The compiled `run_batch` for these shapes, or `run_in_turn` where that is faster (`in_turn`), on the device that holds `params`.

    Call it inside `jax.enable_x64(True)`.

    Args:
        shape: as in `run_batch`.
        stride: as in `run_batch`.
        params: as in `run_batch`.
        ticks: ticks that all designs together are expected to take; infinity for very many.
    """
    arguments = (params, jax.device_put(np.zeros((), np.int32)))
    if in_turn(shape, params):
        effort = Effort.BRIEF if ticks <= BRIEF_TICKS_IN_TURN else Effort.MEDIUM
        return compiled(partial(run_in_turn, shape), ("in turn", shape), arguments, effort, keep=True)
    effort = Effort.BRIEF if ticks <= BRIEF_TICKS else Effort.MEDIUM if ticks <= MEDIUM_TICKS else Effort.FULL
    return compiled(partial(run_batch, shape, stride), ("batch", shape, stride), arguments, effort, keep=True)


def in_turn(shape: EngineShape, params: ClusterParams) -> bool:
    """Whether the designs of a batch run one after the other: with prefix caches, where their loops are compiled whole for a CPU.

    The program of a batch of 16 then compiles in less than half the time (`experiments/benchmarks/in_turn.py`), and loops within a tick end
    with the design that needs them. Without caches every tick does much the same in all designs, and side by side is faster.
    """
    return bool(shape.prefix_nodes) and loops_are_whole() and {x.platform for x in params.ranks.max_num_seqs.devices()} == {"cpu"}
