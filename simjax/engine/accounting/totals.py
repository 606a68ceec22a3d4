"""Counters of the run: ticks, steps, the fullest moment of each KV cache, and buffers that were too small."""

from __future__ import annotations

from enum import IntFlag

import jax.numpy as jnp

from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


class Overflow(IntFlag):
    """Buffers that a run has needed more of than it had: bits of `ClusterState.overflow`."""

    SLOTS = 1
    HANDOVERS = 2
    CACHES = 4
    TIERS = 8


def count(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Count the tick and what the committed plan had."""
    state, plan, rank = turn.state, turn.before.plan, turn.rank
    full = jnp.where(turn.due & (plan.steps > 0), jnp.maximum(plan.blocks, turn.emitted.blocks_last), 0)
    overflow = state.overflow
    if shape.tight:
        too_many = turn.due & (rank.num_running + rank.num_preempted > shape.slots)
        overflow = overflow | jnp.where(too_many, Overflow.SLOTS.value, 0)
    return turn.with_state(
        ticks=state.ticks + 1,
        steps=state.steps + jnp.where(turn.due, plan.steps, 0).astype(jnp.int64),
        peak_blocks=state.peak_blocks.at[turn.i].max(full),
        overflow=overflow | jnp.where(state.kv.short(), Overflow.CACHES.value, 0) | jnp.where(state.tiers.short(), Overflow.TIERS.value, 0),
    )
