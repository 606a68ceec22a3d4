"""The end of a forward: its tokens, and whether the wave goes on."""

from __future__ import annotations

import dataclasses
import functools

import jax.numpy as jnp
from jax import Array

from simjax.engine.groups.handovers import stopping
from simjax.engine.groups.lockstep import Wave
from simjax.engine.groups.members import Stage, each, for_each, groups_of, members_of
from simjax.engine.groups.times import rules_of
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def commit_forward(commit: Stage) -> Stage:
    """What carries out the plans of the members."""

    @functools.wraps(commit)
    def of_members(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        had = turn.rank.slots.num_tokens
        return _go_on(shape, params, each()(commit)(shape, params, turn), had)

    return of_members


def _go_on(shape: EngineShape, params: ClusterParams, turn: Turn, had: Array) -> Turn:
    """Whether the wave goes on; where it stops, the coming formation sees all that has come and finished by now.

    Args:
        shape: of the cluster.
        params: of the cluster.
        turn: of the group, with the plans carried out.
        had: tokens of the requests before, int32[D, A].
    """
    slots = turn.rank.slots
    assert slots.decoding is not None
    slots = dataclasses.replace(slots, decoding=slots.decoding | (slots.num_tokens > had))
    turn = dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, slots=slots))

    groups, rules, group, present = groups_of(turn.state), rules_of(params), turn.wave.group, turn.wave.present
    offers = members_of(shape, turn, groups.offers)
    steps, began = turn.before.plan.steps[0], groups.counter[group]
    counter = began + steps
    left = jnp.any(present & (offers.waits | some_unfinished(turn)))
    left = jnp.where(turn.limits.async_scheduling[0], groups.unfinished[group], left)
    stops = (steps > 0) & (until_question(params, group, counter - 1) == 1) & ~left
    counter = jnp.where(stops, 0, counter)

    every = rules.prefill_schedule_interval[group]
    # Later steps of a leap whose formations might have admitted requests: they left those waiting that the first one had left.
    released = (steps > 1) & ((began + steps - 1) // every > began // every)
    bound = jnp.where(released, offers.refused, offers.capacity_bound)
    plan = turn.before.plan
    last = stopping(turn, stops)
    plan = dataclasses.replace(plan, horizon_s=jnp.where(stops & ~last, plan.end_s, plan.horizon_s))
    return dataclasses.replace(
        turn,
        before=dataclasses.replace(turn.before, plan=plan),
        rank=dataclasses.replace(turn.rank, plan=plan),
        waits=offers.formed | last | (~present if shape.priorities else False),  # what is shared is left alone by those that do not exist
        throttled=(counter % every != 0) & ~bound,
        offers=dataclasses.replace(offers, capacity_bound=bound),
        wave=Wave(group, present, groups.running[group] & ~stops, counter, last),
    )


def until_question(params: ClusterParams, group: Array | int, counter: Array) -> Array:
    """Forwards until the ranks of a group ask each other, `counter` >= 0 of them into the wave, int32[] >= 1."""
    rules = rules_of(params)
    interval = rules.sync_interval[group]
    return jnp.where(rules.syncs_first[group] & (counter == 0), 1, interval - counter % interval)


def some_unfinished(turn: Turn) -> Array:
    """Whether the members have admitted requests that have not finished, bool[D]."""

    def own(turn: Turn) -> Array:
        rank = turn.rank
        return jnp.any((rank.slots.position < rank.num_running + rank.num_preempted) & ~rank.slots.finished)

    return for_each(turn, own)
