"""Batches for the benchmarks: designs that differ in seats and KV blocks, with tracing and compilation timed, compared with single runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import common
import hlo
import jax
import numpy as np

from simjax.engine.accounting.leap_log import NoLog
from simjax.engine.batch import BATCH_AXES, run_batch
from simjax.engine.host.batch import make_batch
from simjax.engine.host.lower import Lowered
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import start
from simjax.engine.state import ClusterState
from simjax.engine.tick import tick


def spread(low: Lowered, designs: int) -> list[Lowered]:
    """The simulation with 32 to 128 seats and 4,000 to 36,000 KV blocks, as in the prototype's bench.py."""
    seats = np.linspace(32, 128, designs).astype(np.int32)
    blocks = np.linspace(4_000, 36_000, designs).astype(np.int32)

    def design(i: int) -> Lowered:
        instances: Any = replace(low.params.ranks, max_num_seqs=seats[i : i + 1], num_blocks=blocks[i : i + 1])
        return replace(low, params=replace(low.params, ranks=instances))

    return [design(i) for i in range(designs)]


@dataclass(frozen=True)
class BatchProgram:
    """A compiled batch, as `simjax.engine.batch.compiled_batch` compiles it, and the parameters that it was compiled for.

    Attributes:
        shape, stride: arguments of `run_batch`.
        params: parameters on the device.
        compiled: function of params and the bound on the ticks.
        trace_s, compile_s: times of tracing and compilation in seconds.
    """

    shape: EngineShape
    stride: int
    params: ClusterParams
    compiled: Any
    trace_s: float
    compile_s: float

    def __call__(self) -> ClusterState:
        """The final states, ready on the device; exits if a design has not finished."""
        state, going = jax.block_until_ready(self.compiled(self.params, np.int32(common.ALL_TICKS)))
        if bool(np.any(np.asarray(going))):
            raise SystemExit("a design of the batch has not finished")
        return state

    @cached_property
    def kernels(self) -> hlo.Kernels:
        """Kernels of a tick, as `hlo.loop_kernels` counts them."""
        return hlo.loop_kernels(self.compiled.as_text())


def compile_batch(designs: Sequence[Lowered], device: Any = None, stride: int = 1) -> BatchProgram:
    """The designs as a batch for a device (None: the default one). Call it, and its result, inside `jax.enable_x64(True)`."""
    batch = make_batch(designs)
    params = jax.device_put(batch.params, device)
    began = time.perf_counter()
    traced = jax.jit(partial(run_batch, batch.shape, stride)).lower(params, jax.device_put(np.int32(0), device))
    traced_at = time.perf_counter()
    compiled = traced.compile()
    return BatchProgram(batch.shape, stride, params, compiled, traced_at - began, time.perf_counter() - traced_at)


def tick_bytes(designs: Sequence[Lowered], device: Any = None) -> tuple[int, float]:
    """Bytes that a tick of a design must at least read and write (the state of its instances once each), and those that its kernels do.

    The latter are XLA's estimate, in which both sides of a branch count. The tick is compiled without its loop, since XLA does not know
    the number of iterations.
    """
    batch = make_batch(designs)
    params = jax.device_put(batch.params, device)
    state = jax.eval_shape(jax.vmap(partial(start, batch.shape), in_axes=(BATCH_AXES,)), params)
    one = lambda params, state: tick(batch.shape, params, state, NoLog())[0]
    compiled = jax.jit(jax.vmap(one, in_axes=(BATCH_AXES, 0)), donate_argnums=1).lower(params, state).compile()
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.ranks))
    return 2 * held // len(designs), float((compiled.cost_analysis() or {})["bytes accessed"]) / len(designs)


def facts_of(state: ClusterState, count: int) -> dict[str, np.ndarray]:
    """The results of a run, or of each run of a batch: outcomes of its first `count` requests, steps, ticks, most blocks in use."""
    outcome = np.asarray(state.outcome)[..., :count, :]
    return {"outcome": outcome, **{name: np.asarray(getattr(state, name)) for name in ("steps", "ticks", "peak_blocks", "done")}}


def different(batch: ClusterState, designs: Sequence[Lowered], device: Any = None, chosen: Sequence[int] | None = None) -> int:
    """Numbers of a batch that differ in any bit from those of the designs' single runs; `chosen` names the designs to run (None: all)."""
    low = designs[0]
    count = int(low.params.requests.count[0])
    program = common.compile_program(low.shape, low.params, device)
    found, differ = facts_of(batch, count), 0
    for i in range(len(designs)) if chosen is None else chosen:
        alone = facts_of(replace(program, params=jax.device_put(designs[i].params, device))(), count)
        differ += sum(int((values[i] != alone[name]).sum()) for name, values in found.items())
    return differ
