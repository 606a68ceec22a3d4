"""Ranks that step by themselves beside groups: each is the only member of a group of its own, whose turn it has like any other.

Such a rank plans as where there are no groups: it computes no dummies, asks nobody, and keeps to passes of its own where it takes part in
hand-overs.

Legend: D ranks of the largest group.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.groups.members import groups_of, own
from simjax.engine.groups.times import rules_of
from simjax.engine.handover.passes import NoPasses, Passes
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Rank
from simjax.engine.scheduler.leap import plan_next
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool


def lone_groups(params: ClusterParams) -> Bool[Array, " G"]:
    """Which groups are ranks that step by themselves, where there are any."""
    lone = rules_of(params).alone
    assert lone is not None
    return lone


def is_alone(shape: EngineShape, params: ClusterParams, turn: Turn) -> Array | bool:
    """Whether the turn is that of a rank that steps by itself, bool[]; False where all step with others."""
    return lone_groups(params)[turn.wave.group] if shape.lone_ranks else False


def plan_alone(shape: EngineShape, params: ClusterParams, turn: Turn, together: Turn) -> Turn:
    """The turn once the forward is planned.

    Args:
        shape: of the cluster.
        params: of the cluster.
        turn: before the plan.
        together: the turn with the plan that it has if its members step together.
    """
    rules = rules_of(params)
    lone = lone_groups(params)
    alone = lone[turn.wave.group]
    after = plan_next(shape, params, _first(turn))
    passes = after.rank.passes
    if isinstance(passes, Passes):
        passes = dataclasses.replace(passes, looks=jnp.ones((), bool), stopping=jnp.zeros((), bool))
    mine = after.rank.plan, passes
    every = jax.tree.map(lambda x: jnp.broadcast_to(x, turn.wave.present.shape), mine)
    plan, passes = select(alone, every, (together.rank.plan, together.rank.passes))
    groups = groups_of(together.state)
    offers = dataclasses.replace(groups.offers, formed=groups.offers.formed & ~lone[rules.of_rank])
    groups = dataclasses.replace(groups, running=groups.running & ~lone, unfinished=groups.unfinished & ~lone, offers=offers)
    handovers = select(alone, after.state.handovers, together.state.handovers)
    rank = dataclasses.replace(together.rank, plan=plan, passes=passes)
    return dataclasses.replace(together.with_state(groups=groups, handovers=handovers), rank=rank)


def _first(turn: Turn) -> Turn:
    """The turn of the first member of a group."""
    mine: dict[str, Any] = jax.tree.map(lambda x: x[0], own(turn))
    before, rank = (dataclasses.replace(mine[name], passes=_by_itself(mine[name])) for name in ("before", "rank"))
    kv = jax.tree.map(lambda x: x[:1], turn.state.kv)
    return dataclasses.replace(turn.with_state(kv=kv), **{**mine, "before": before, "rank": rank})


def _by_itself(rank: Rank) -> Any:
    """The looks of a rank without those of a group."""
    passes = rank.passes
    return passes if isinstance(passes, NoPasses) else dataclasses.replace(passes, looks=None, stopping=None)
