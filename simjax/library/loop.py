"""The run of a system to its end, for values: one loop for a run, and one for all runs of a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from simjax.engine.accounting.leap_log import NoLog
from simjax.engine.differentiate import Outcome, guarded, read
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import pending, start
from simjax.engine.state import ClusterState
from simjax.engine.tick import tick


def outcome_alone(shape: EngineShape, params: ClusterParams) -> Outcome:
    """The outcome of a run; no derivative passes.

    `vmap` of a `while_loop` would select between the old and the new state of every run in every trip, to freeze those that are done,
    where a tick of a run that is done changes nothing anyway. So the loop of a batch is around its runs.

    Args:
        shape: static sizes.
        params: the engine's parameters.
    """
    leaves, structure = jax.tree.flatten(guarded(params))

    def one(state: ClusterState, *leaves: Array) -> ClusterState:
        params = jax.tree.unflatten(structure, leaves)
        after = tick(shape, params, state, NoLog())[0]
        return replace(after, ticks=state.ticks + pending(params, state).astype(jnp.int32))

    going = lambda state, *leaves: pending(jax.tree.unflatten(structure, leaves), state)
    begin = lambda *leaves: start(shape, jax.tree.unflatten(structure, leaves))

    @custom_vmap
    def loop(*leaves: Array) -> ClusterState:
        return jax.lax.while_loop(lambda s: going(s, *leaves), lambda s: one(s, *leaves), begin(*leaves))

    @loop.def_vmap
    def _(size: int, in_batched: Any, *leaves: Array) -> tuple[Any, Any]:
        axes = tuple(0 if batched else None for batched in in_batched)
        each = partial(jax.vmap, axis_size=size)
        first = each(begin, in_axes=axes)(*leaves)
        each_going, each_one = each(going, in_axes=(0, *axes)), each(one, in_axes=(0, *axes))
        state = jax.lax.while_loop(lambda s: jnp.any(each_going(s, *leaves)), lambda s: each_one(s, *leaves), first)
        return state, jax.tree.map(lambda _: True, state)

    return read(shape, params, loop(*leaves))
