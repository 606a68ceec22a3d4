"""The end of a formation with KV tiers: what the requests offer is noted, copies begin, and the step is planned."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import together
from simjax.engine.handover.passes import ROUNDING, pass_at
from simjax.engine.kv.prefix_cache import PrefixCache
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.params import ClusterParams, TierParams
from simjax.engine.power.work import planned_work
from simjax.engine.rank import NEVER
from simjax.engine.scheduler.departure import depart
from simjax.engine.scheduler.leap import leap, survey
from simjax.engine.scheduler.plan import cut_short, take_steps
from simjax.engine.shape import EngineShape
from simjax.engine.tiers.links import LOAD_LINK, STORE_LINK, flushed, renewed, sent
from simjax.engine.tiers.record import passes_of, tiers_of, with_tiers
from simjax.engine.tiers.table import SENT, STORED, STORES, TierTable
from simjax.engine.tiers.work import Facts, Todo, work
from simjax.engine.turn import Turn
from simjax.latency.rounding import product
from simjax.latency.step_time import mixed_parts, row, step_s

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def rules(params: ClusterParams) -> TierParams:
    """The tiers of a cluster that has some."""
    assert params.tiers is not None
    return params.tiers


def hear_tiers(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Tell the rank of the copies that it has seen to have ended; the formation waits while that is noted."""
    passes, table = passes_of(turn), tiers_of(turn)
    looked_s = jnp.where(turn.due, passes.looked(turn.before.plan, rules(params).empty_pass_s), passes.looked_s)
    rank = dataclasses.replace(turn.rank, passes=dataclasses.replace(passes, looked_s=looked_s))
    turn = dataclasses.replace(turn, rank=rank)
    return dataclasses.replace(turn, waits=turn.waits | jnp.any(_told(turn, table)))


def _told(turn: Turn, table: TierTable) -> Bool[Array, " K"]:
    """Pieces whose copies are known to have ended."""
    return turn.due & table.busy(turn.i) & (table.landed_s[turn.i] <= passes_of(turn).looked_s)


def depart_tiered(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take one finished request out of the slots; what it has used is put down once the next step is formed."""
    turn = depart(shape, params, turn)
    table, left = tiers_of(turn), turn.departed.some & turn.due
    at = jnp.where(left, table.book(turn.i, "leaving"), table.leaving.shape[1])
    leaving = table.leaving.at[turn.i, at].set(turn.departed.request, mode="drop")
    return with_tiers(turn, dataclasses.replace(table, leaving=leaving).added(turn.i, leaving=left))


def plan_tiered(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Note what this turn does to the tier, begin copies, and plan the step and what follows it."""
    i, limits, rank, f, tier = turn.i, turn.limits, turn.rank, turn.formation, rules(params)
    slots, position = rank.slots, rank.slots.position
    closes = turn.due & ~f.continues
    tree = RankTree.of(params, limits, turn.kv_row)
    table, until = tiers_of(turn), _offered(params, turn, tree)
    offers = closes & (until > table.requests[slots.request, STORED])
    begins = turn.beginning
    todo = Todo(
        told=_told(turn, table),
        loads=begins.begins,
        load_request=begins.request,
        load_begin=begins.begin,
        load_end=begins.end,
        offers=offers,
        request=slots.request,
        until=until,
        closes=closes,
    )
    facts = Facts(tier.capacity_blocks[i], params.requests.prompt_tokens)
    table = work(tree, table, todo, facts)

    # Stores of the formation before, and those whose blocks are taken, are sent first; a step waits for the latter.
    kv = turn.kv
    assert isinstance(kv, PrefixCache) and kv.pool.watched is not None
    victims = jnp.where((position >= rank.num_running) & (position < rank.num_running + f.preempted), slots.request, shape.requests)
    victims = jnp.where(victims < shape.requests, victims, -1)
    flushes = flushed(table, i, kv.pool.watched.pieces[i], kv.pool.watched.count[i], victims, closes)
    kinds = table.pieces[i]
    unsent = table.busy(i) & (kinds[:, SENT] <= 0) & closes
    stores = kinds[:, STORES] > 0
    table = sent(table, tier, i, unsent & stores & ((kinds[:, SENT] == 0) | flushes), turn.now_s, STORE_LINK)
    wait_s = jnp.maximum(jnp.max(jnp.where(flushes, table.landed_s[i], -NEVER)) - turn.now_s, 0.0)
    start_s = turn.now_s + wait_s

    plan, decoding, _ = survey(shape, turn)
    plan = dataclasses.replace(plan, start_s=start_s, end_s=start_s, horizon_s=jnp.where(f.continues, turn.horizon_s, start_s))
    step_time = row(params.step_time, limits.step_time)
    parts = mixed_parts(step_time, slots.num_new_tokens, slots.num_computed_tokens, slots.drafts.decoding, plan.tokens)
    plan, steps = dataclasses.replace(plan, first_s=step_s(step_time, parts)), jnp.ones((), jnp.int32)
    runs = closes & (plan.tokens > 0)
    after_step = tier.load_after_step[i] & runs
    table = sent(table, tier, i, unsent & ~stores, jnp.where(after_step, start_s + plan.first_s, start_s), LOAD_LINK)
    table = renewed(table, i, closes)
    waited_s = table.waited_s.at[i].add(jnp.where(runs, wait_s, 0.0))
    table = dataclasses.replace(table, waited_s=waited_s)

    if shape.leap:
        plan, most = leap(turn, step_time, plan, decoding)
        owed = jnp.any(_offered(params, turn, tree) > table.requests[slots.request, STORED])
        steps = jnp.where(jnp.any(table.busy(i)) | (rank.num_preempted > 0) | f.refused | owed, steps, most)
    busy = cut_short(take_steps(plan, steps, limits.async_scheduling), f.next_queued_s, limits.async_scheduling)
    busy, plan = together((busy, plan))
    if shape.power:
        assert params.power is not None
        of_plan = planned_work(params.power, i, step_time, parts, decoding)
        busy, plan = dataclasses.replace(busy, work=of_plan), dataclasses.replace(plan, work=of_plan)

    passes = passes_of(turn)
    polls = closes & ~runs & ((rank.num_preempted > 0) | f.refused)
    wake_s = _wake_s(tier, table, turn, start_s, polls)
    # A rank that has nothing but copies to wait for goes on until all are with their link.
    unsent = jnp.any(table.busy(i) & (table.pieces[i, :, STORES] > 0) & (table.pieces[i, :, SENT] <= 0))
    hands_on = closes & ~runs & ~polls & unsent
    again = f.continues | f.leaving | hands_on
    idle_s = jnp.where(hands_on, start_s, jnp.where(again, turn.now_s, wake_s))
    plan = dataclasses.replace(
        plan,
        steps=jnp.where(runs, busy.steps, 0).astype(jnp.int32),
        end_s=jnp.where(runs, busy.end_s, idle_s),
        horizon_s=jnp.where(runs, busy.horizon_s, jnp.where(f.continues, turn.horizon_s, idle_s)),
        open=jnp.where(runs, busy.open, ~again),
    )
    passes = dataclasses.replace(
        passes,
        passed=jnp.where(f.continues, passes.passed, 0),
        formed_s=start_s,
        # A pass that has waited for copies finds them, also if it runs nothing.
        looked_s=jnp.where(closes & ~runs & (wait_s > 0), start_s, passes.looked_s),
        polls=polls,
    )
    first = closes & (position < rank.num_running) & (slots.scheduled_s == turn.now_s) & (slots.num_new_tokens > 0)
    slots = dataclasses.replace(slots, scheduled_s=jnp.where(first, start_s, slots.scheduled_s))
    rank = dataclasses.replace(rank, plan=plan, passes=passes, slots=slots)
    turn = with_tiers(dataclasses.replace(turn, rank=rank), table)
    return turn.with_kv(PrefixCache(kv.pool.unwatched(i, closes)))


def _offered(params: ClusterParams, turn: Turn, tree: RankTree) -> Int32[Array, " A"]:
    """Leading blocks that each request of the step has offered after it: those of its prompt that are full then; 0 for others."""
    slots, rank = turn.rank.slots, turn.rank
    known = jnp.minimum(slots.request, params.requests.prompt_tokens.shape[1] - 1)
    prompt = params.request("prompt_tokens", known)
    runs = (slots.position < rank.num_running) & ~slots.finished & (slots.num_new_tokens > 0)
    return jnp.where(runs, tree.full(jnp.minimum(slots.num_computed_tokens + slots.num_new_tokens, prompt)), 0)


def _wake_s(tier: TierParams, table: TierTable, turn: Turn, start_s: Float64[Array, ""], polls: Array) -> Float64[Array, ""]:
    """Time at which a rank that runs nothing has something new to look at."""
    f, pass_s = turn.formation, tier.empty_pass_s
    landed_s = jnp.min(jnp.where(table.busy(turn.i), table.landed_s[turn.i], NEVER))
    known = jnp.isfinite(landed_s)
    look = jnp.floor(jnp.where(known, landed_s - start_s, 0.0) / jnp.where(pass_s > 0, pass_s, 1.0) + ROUNDING) + 1.0
    look = jnp.where(known & (landed_s <= start_s) & (start_s > turn.now_s), 0.0, jnp.maximum(look, 0.0))
    told_s = jnp.where(known, start_s + product(look + 1.0, pass_s), NEVER)
    idle = dataclasses.replace(turn.rank.plan, start_s=start_s)
    queued_s = jnp.where(polls, pass_at(idle, f.next_queued_s, pass_s), jnp.maximum(f.next_queued_s, start_s))
    wake_s = jnp.where(polls, jnp.minimum(queued_s, told_s), queued_s)
    return jnp.where(f.preempted > 0, jnp.minimum(wake_s, start_s + pass_s), wake_s)
