"""The plan of a rank that takes part in hand-overs: it ends where the rank hears of a transfer, and an idle rank keeps to its passes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.handover.passes import Passes, news_at, pass_at
from simjax.engine.handover.rows import rules, table_of
from simjax.engine.handover.table import Handovers, Role
from simjax.engine.handover.transfers import next_news_s
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Plan
from simjax.engine.scheduler.formation import Formation
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool


def plan_looks(params: ClusterParams, turn: Turn, f: Formation, busy: Plan, plan: Plan, ends_all: Bool[Array, ""]) -> Turn:
    """The turn with the rank's plan, the busy one if there is a step to run, and the looks that go with it.

    The step `ends_all` if every request that runs has its last token with it.

    Without a step the formation goes on; or the last step of an asynchronous rank still runs, and its end comes first; or the rank has
    requests (`resumes` after such an end) and sleeps from pass to pass; or it has none and sleeps until one comes.
    """
    rank, later, pass_s = turn.rank, turn.limits.async_scheduling, rules(params).empty_pass_s
    now_s, formed_s, table = turn.now_s, turn.horizon_s, table_of(turn.state)
    assert isinstance(turn.before.passes, Passes)
    before, last = turn.before.passes.after_step(turn.before.plan, later)
    no = jnp.zeros((), bool)
    runs = ~f.continues & (plan.tokens > 0)
    pending = f.refused | (rank.num_preempted > 0) | jnp.any(table.loading(turn.i))
    waits, resumes = ~runs & ~f.continues & (formed_s < now_s), ~f.continues & before.paused
    was_late = later & before.late & (last.steps == 0)
    first_pass = resumes | (now_s <= last.start_s)
    looked_s = jnp.where(first_pass, before.formed_s, now_s - pass_s)  # of a late rank: its look before this one
    runs, pending, waits, resumes, was_late, looked_s = together((runs, pending, waits, resumes, was_late, looked_s))

    stepping = Passes(formed_s, no, no, no, no, chained=(formed_s < now_s) | was_late)
    table, fetched = _told_of_late_looks(turn, table, looked_s, runs & was_late)
    turn = turn.with_state(handovers=table)
    late = was_late & pending
    start_s = jnp.where(resumes, now_s + pass_s, now_s)
    looked_s = jnp.where(late, looked_s, formed_s)
    sleeping = Passes(looked_s, pending | resumes, late, no, no, no)
    idle = dataclasses.replace(plan, steps=jnp.zeros((), jnp.int32), start_s=start_s, open=jnp.ones((), bool))
    heard_s = next_news_s(params, turn, table, select(runs, busy, idle), select(runs, stepping, sleeping))
    busy = news_at(busy, jnp.where(fetched, now_s, heard_s), later)
    drained = runs & ends_all & _nothing_else(params, turn, f, pending)
    busy = dataclasses.replace(busy, horizon_s=jnp.where(drained, busy.end_s, busy.horizon_s), open=busy.open & ~drained)
    stepping = dataclasses.replace(stepping, drained=drained)
    queued_s = jnp.where(sleeping.polls, pass_at(idle, f.next_queued_s, pass_s), jnp.maximum(f.next_queued_s, now_s))
    wake_s = jnp.minimum(queued_s, heard_s)
    # After a preemption nothing was admitted: that is tried in the next pass.
    wake_s = jnp.where(f.preempted > 0, jnp.minimum(wake_s, now_s + pass_s), wake_s)
    wake_s = jnp.where(resumes, start_s, wake_s)
    idle = dataclasses.replace(idle, end_s=wake_s, horizon_s=wake_s)

    # The step under way is still the newest one for the router, however many turns the departures take.
    ending = dataclasses.replace(idle, start_s=now_s, end_s=now_s, horizon_s=now_s, running=turn.before.plan.running)
    going_on = dataclasses.replace(ending, start_s=last.start_s, horizon_s=formed_s, open=no)
    plan = select(runs, busy, select(f.continues, going_on, select(waits, ending, idle)))
    of_wait = Passes(formed_s, no, later, pending, no, chained=later)
    passes = select(runs, stepping, select(f.continues, before, select(waits, of_wait, sleeping)))
    # When the last request has finished the scheduler is asked once more, and so looks once more.
    last_look = ~runs & ~f.continues & ~waits & ~pending & turn.due
    news = last_look & table.keeping(turn.i) & (table.landed_s < now_s) & ~jnp.isfinite(table.prefill_told_s)
    table = dataclasses.replace(table, prefill_told_s=jnp.where(news, now_s, table.prefill_told_s))
    plan, passes = together((plan, passes))
    return dataclasses.replace(turn, rank=dataclasses.replace(rank, plan=plan, passes=passes)).with_state(handovers=table)


def _nothing_else(params: ClusterParams, turn: Turn, f: Formation, pending: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether an asynchronous prefill rank that starts a step at once has nothing else to run when that starts."""
    prefill = turn.limits.async_scheduling & (rules(params).role[turn.i] == Role.PREFILL)
    return prefill & (turn.horizon_s >= turn.now_s) & ~pending & ~f.leaving & (f.preempted == 0) & (f.next_queued_s > turn.now_s)


def _told_of_late_looks(turn: Turn, table: Handovers, looked_s: Array, runs: Bool[Array, ""]) -> tuple[Handovers, Bool[Array, ""]]:
    """The table once a late rank has formed a step, if it has, and whether the rank was told of something.

    With the step its queue is full: it gets the output of the empty batch, too late for this formation, and sees what that had found.
    """
    landed = runs & turn.due & (table.landed_s <= looked_s)
    of_prefill = landed & table.keeping(turn.i) & ~jnp.isfinite(table.prefill_told_s)
    of_decode = landed & table.loading(turn.i) & ~jnp.isfinite(table.decode_told_s)
    told = {
        "prefill_told_s": jnp.where(of_prefill, turn.now_s, table.prefill_told_s),
        "decode_told_s": jnp.where(of_decode, turn.now_s, table.decode_told_s),
    }
    return dataclasses.replace(table, **told), jnp.any(of_prefill | of_decode)
