"""What a forward adds to totals and log: that of every member with requests in it, and dummies of the others."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from simjax.engine.accounting.totals import Overflow
from simjax.engine.groups.members import groups_of
from simjax.engine.params import ClusterParams
from simjax.engine.power.energy import NoSpent
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def count_all(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Count the tick, and what the plans of the members had."""
    state, plan, rank = turn.state, turn.before.plan, turn.rank
    present = turn.due & turn.wave.present
    ran, dummy = present & (plan.tokens > 0), present & (plan.tokens == 0) & (plan.steps > 0)
    full = jnp.where(ran & (plan.steps > 0), jnp.maximum(plan.blocks, turn.emitted.blocks_last), 0)
    overflow, groups = state.overflow, groups_of(state)
    if shape.tight:
        too_many = jnp.any(present & (rank.num_running + rank.num_preempted > shape.slots))
        overflow = overflow | jnp.where(too_many, Overflow.SLOTS.value, 0)
    groups = dataclasses.replace(
        groups,
        dummy_steps=groups.dummy_steps.at[turn.i].add(jnp.where(dummy, plan.steps, 0).astype(jnp.int64)),
        dummy_s=groups.dummy_s.at[turn.i].add(jnp.where(dummy, plan.end_s - plan.start_s, 0.0)),
    )
    return turn.with_state(
        ticks=state.ticks + 1,
        steps=state.steps + jnp.sum(jnp.where(ran, plan.steps, 0), dtype=jnp.int64),
        peak_blocks=state.peak_blocks.at[turn.i].max(full),
        overflow=overflow | jnp.where(state.kv.short(), Overflow.CACHES.value, 0),
        groups=groups,
    )


def account_all(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Add what the plans have done of those members that had requests."""
    turn = turn.with_state(activity=turn.state.activity.after(_without_dummies(turn)), drafts=turn.state.drafts.after(turn))
    return dataclasses.replace(turn, spent=NoSpent())


def record_all(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Record the plans of those members that had requests."""
    return dataclasses.replace(turn, log=turn.log.with_rows(shape, _without_dummies(turn)))


def _without_dummies(turn: Turn) -> Turn:
    plan = turn.before.plan
    plan = dataclasses.replace(plan, steps=jnp.where(turn.wave.present & (plan.tokens > 0), plan.steps, 0))
    return dataclasses.replace(turn, before=dataclasses.replace(turn.before, plan=plan))
