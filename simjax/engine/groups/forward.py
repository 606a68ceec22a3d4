"""The next forward of a group: how long it takes, and the forwards of pure decode that can follow it in one leap.

A group leaps only if all its members may, by the fewest of their steps, and only as long as the same member is known to have the longest
attention. While all members compute dummies it leaps to the next question of the ranks.

Legend: D ranks of the largest group.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.groups.alone import plan_alone
from simjax.engine.groups.handovers import (
    ended,
    looking,
    may_keep,
    num_loading,
    slept_s,
    with_end,
    with_last_look,
    with_looks,
    with_requests,
)
from simjax.engine.groups.lockstep import Offers
from simjax.engine.groups.members import for_each, groups_of, with_members
from simjax.engine.groups.times import rules_of
from simjax.engine.groups.waves import until_question
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan
from simjax.engine.scheduler.leap import MANY, steps_allowed, survey
from simjax.engine.scheduler.plan import cut_short, take_steps
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn
from simjax.latency.groups.step import GroupStep, dummy_step, group_steps, merged, rank_decodes, rank_step
from simjax.latency.step_time import row


def plan_forward(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Plan the next forward of the group, or the next steps of a rank that is in a group of its own and steps by itself."""
    together = _plan_together(shape, params, turn)
    return plan_alone(shape, params, turn, together) if shape.lone_ranks else together


def _plan_together(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Plan the forward once it is formed in all members; until then keep what those offer that have formed theirs."""
    if shape.priorities:  # the scan for victims is made once: those that have formed their part stay as they were
        turn = dataclasses.replace(turn, rank=jax.vmap(select)(turn.offers.formed, turn.before, turn.rank))
    plans, steps, first, later = for_each(turn, lambda turn: _part(shape, params, turn))
    plans = select(turn.offers.formed, turn.before.plan, plans) if shape.priorities else plans
    offers = _offers(shape, params, turn, steps)
    present, running = turn.wave.present, turn.wave.running
    ready = jnp.all(offers.formed | ~present)
    left = jnp.any(present & (offers.waits | (plans.running + plans.preempted > 0)))
    some = jnp.any(present & (plans.tokens > 0))
    goes = ready & (running | some | (left if shape.handovers else False))
    turn, plans = _timed(shape, params, turn, plans, offers, Going(ready, goes, some, left), (first, later))

    groups, at = groups_of(turn.state), jnp.where(turn.due, turn.wave.group, shape.groups)  # out of bounds: dropped
    groups = dataclasses.replace(
        groups,
        running=groups.running.at[at].set(jnp.where(ready, goes, running), mode="drop"),
        counter=groups.counter.at[at].set(turn.wave.counter, mode="drop"),
        unfinished=groups.unfinished.at[at].set(left, mode="drop"),
        offers=with_members(shape, turn, groups.offers, dataclasses.replace(offers, formed=offers.formed & ~ready)),
    )
    return dataclasses.replace(turn.with_state(groups=groups), rank=dataclasses.replace(turn.rank, plan=plans))


class Going(NamedTuple):
    """Whether the forward is formed in all members, takes place, and has requests in it; and some rank is unfinished then; bool[]."""

    ready: Array
    goes: Array
    some: Array
    left: Array


def _part(shape: EngineShape, params: ClusterParams, turn: Turn) -> tuple[Plan, Array, GroupStep, GroupStep]:
    """A member's plan without times, the most steps that it may take, and its part of the first of them and of the later ones."""
    slots, f = turn.rank.slots, turn.formation
    plan, decoding, _ = survey(shape, turn)
    model, most_captured = row(params.step_time, turn.limits.step_time), rules_of(params).most_captured[turn.wave.group]
    dummy = dummy_step(model, 1 + params.speculation.drafts(turn.i), most_captured)
    works, goes_on = plan.tokens > 0, decoding.num_running > 0
    first = rank_step(model, slots.num_new_tokens, slots.num_computed_tokens, slots.drafts.decoding, plan.tokens, most_captured)
    later = rank_decodes(model, decoding.num_running, decoding.kv_sum, decoding.kv_max, most_captured)
    held = (plan.running + plan.preempted > 0) | (f.refused & (f.seats > 0))
    if shape.handovers:  # what waits without a seat taken waits for an event elsewhere
        held = f.leaving | (f.preempted > 0) | (plan.running > 0)
    most = steps_allowed(turn, decoding, MANY - 1) if shape.leap and not shape.speculation else jnp.int32(1)
    # With hand-overs ranks may wait for each other for ever, which must not take for ever: dummies are always taken many at a time.
    steps = jnp.where(works, most, jnp.where(held, 1, MANY)) if shape.leap or shape.handovers else jnp.int32(1)
    return plan, steps, select(works, first, dummy), select(goes_on, later, dummy)


def _offers(shape: EngineShape, params: ClusterParams, turn: Turn, steps: Array) -> Offers:
    """What the members offer: those whose formation ended in an earlier tick what they did then."""
    f, before = turn.formation, turn.offers
    refused, waits = f.refused, f.refused & (f.seats > 0)
    if shape.handovers:
        loads = num_loading(turn) > 0
        keeps = may_keep(turn)
        refused, waits = refused | loads, loads | (f.refused & ((f.seats > 0) | keeps))
        steps = jnp.where(keeps & ended(turn), 1, steps)  # those that look in this forward only
    offers = Offers(
        formed=before.formed | ~f.continues,
        steps=steps,
        next_queued_s=f.next_queued_s,
        # With a cadence it counts whether any request waited while prompts might have been admitted.
        open=~f.blocked | (rules_of(params).prefill_schedule_interval[turn.wave.group] > 1),
        refused=refused,
        waits=waits,
        capacity_bound=jnp.where(f.holds_prompts | (f.preempted > 0) | f.continues, before.capacity_bound, refused),
    )
    return select(before.formed, before, offers)


def _timed(
    shape: EngineShape, params: ClusterParams, turn: Turn, plans: Plan, offers: Offers, going: Going, parts: tuple[GroupStep, GroupStep]
) -> tuple[Turn, Plan]:
    """The members' plans with the times that they have in common, and the turn with their looks at hand-overs.

    Args:
        shape: of the cluster.
        params: of the cluster.
        turn: of the group.
        plans: without times.
        offers: of the members.
        going: what becomes of the forward.
        parts: of the members in the first and in the later steps.
    """
    (ready, goes, some, left), (first, later), wave = going, parts, turn.wave
    model, async_scheduling = row(params.step_time, turn.limits.step_time[0]), turn.limits.async_scheduling[0]
    first_s = group_steps(model, _all_of(first, wave.present)).first_s
    then = group_steps(model, _all_of(later, wave.present))
    next_s, sleep, has = then.first_s, ready & ~goes, None
    if shape.handovers:
        has = with_requests(turn, plans)
        wait_s = slept_s(params, turn, plans, has)
        first_s, next_s = first_s + wait_s, next_s + wait_s
    question = until_question(params, wave.group, wave.counter)
    endless = ~some & left if shape.handovers else jnp.zeros((), bool)  # dummies until something happens elsewhere
    known = jnp.where(some, 1 + jnp.minimum(then.valid, MANY - 1), jnp.where(endless, MANY, question))
    steps = jnp.minimum(jnp.min(jnp.where(wave.present, offers.steps, MANY)), known)
    plan: Plan = jax.tree.map(lambda x: x[0], plans)
    plan = dataclasses.replace(plan, first_s=first_s, next_s=next_s, slope_s=then.slope_s, open=jnp.ones((), bool))
    queued_s = jnp.where(wave.present, offers.next_queued_s, NEVER)
    joins_s = jnp.min(jnp.where(offers.open, queued_s, NEVER))
    plan = cut_short(take_steps(plan, steps.astype(jnp.int32), async_scheduling), joins_s, async_scheduling)
    if has is not None:
        turn, plan = with_looks(params, turn, plan, looking(turn, has))
        turn = with_last_look(turn, sleep)
        for_ever = endless & (plan.steps == MANY)
        plan = dataclasses.replace(plan, **{name: jnp.where(for_ever, NEVER, getattr(plan, name)) for name in ("end_s", "horizon_s")})

    again = ~ready | jnp.any(wave.present & turn.formation.leaving)
    idle_end_s = jnp.where(again, plan.start_s, jnp.maximum(jnp.min(queued_s), plan.start_s))
    times = {
        "end_s": jnp.where(goes, plan.end_s, idle_end_s),
        "horizon_s": jnp.where(goes, plan.horizon_s, jnp.where(ready, idle_end_s, turn.horizon_s[0])),
        "first_s": first_s,
        "next_s": next_s,
        "slope_s": then.slope_s,
        "steps": jnp.where(goes, plan.steps, 0),
    }
    times = {name: jnp.broadcast_to(x, wave.present.shape) for name, x in times.items()}
    plans = dataclasses.replace(plans, **times, open=jnp.where(goes, offers.open, ~again))
    return with_end(turn, wave.stops, plans) if shape.handovers else (turn, plans)


def _all_of(steps: GroupStep, present: Array) -> GroupStep:
    """The step of all members that exist."""
    steps = jax.tree.map(lambda x: jnp.where(present, x, x[0]), steps)
    steps = dataclasses.replace(steps, tokens=jnp.where(present, steps.tokens, 0))
    while steps.tokens.shape[0] > 1:
        steps = _in_pairs(steps)
    return jax.tree.map(lambda x: x[0], steps)


def _in_pairs(steps: GroupStep) -> GroupStep:
    """The steps of pairs, each of a member of the first half and one of the second, and of the member that is left over."""
    half = steps.tokens.shape[0] // 2
    pairs = merged(*(jax.tree.map(lambda x, at=at: x[at : at + half], steps) for at in (0, half)))
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[2 * half :]]), pairs, steps)
