"""The plan of a rank that takes part in hand-overs: it ends where the rank hears of a transfer, and an idle rank keeps to its passes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from simjax.engine.control.select import select
from simjax.engine.handover.passes import Passes, news_at, pass_at
from simjax.engine.handover.table import Handovers
from simjax.engine.handover.transfers import next_news_s, rules
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Plan, Rank
from simjax.engine.scheduler.formation import Formation
from simjax.engine.turn import Turn


def plan_looks(params: ClusterParams, turn: Turn, f: Formation, busy: Plan, plan: Plan) -> Rank:
    """The rank with its plan, the busy one if there is a step to run, and the looks that go with it.

    Without a step the formation goes on; or the last step of an asynchronous rank still runs, and its end comes first; or the rank has
    requests (`resumes` after such an end) and sleeps from pass to pass; or it has none and sleeps until one comes.
    """
    rank, before, later, pass_s = turn.rank, turn.before.passes, turn.limits.async_scheduling, rules(params).empty_pass_s
    now_s, formed_s, table = turn.now_s, turn.horizon_s, turn.state.handovers
    assert isinstance(table, Handovers) and isinstance(before, Passes)
    no = jnp.zeros((), bool)
    runs = ~f.continues & (plan.tokens > 0)
    pending = f.refused | (rank.num_preempted > 0) | jnp.any(table.loading(turn.i))
    waits, resumes = ~runs & ~f.continues & (formed_s < now_s), ~f.continues & before.paused

    stepping = Passes(formed_s, no, no, no)
    busy = news_at(busy, next_news_s(params, turn, table, busy, stepping), later)

    late = later & pending & (resumes | (before.late & (turn.before.plan.steps == 0)))
    start_s = jnp.where(resumes, now_s + pass_s, now_s)
    first_of_late = resumes | (now_s <= turn.before.plan.start_s)
    looked_s = jnp.where(late, jnp.where(first_of_late, before.formed_s, now_s - pass_s), formed_s)
    sleeping = Passes(looked_s, pending | resumes, late, no)
    idle = dataclasses.replace(plan, steps=jnp.zeros((), jnp.int32), start_s=start_s, open=jnp.ones((), bool))
    queued_s = jnp.where(sleeping.polls, pass_at(idle, f.next_queued_s, pass_s), jnp.maximum(f.next_queued_s, now_s))
    wake_s = jnp.minimum(queued_s, next_news_s(params, turn, table, idle, sleeping))
    wake_s = jnp.where(resumes, start_s, wake_s)
    idle = dataclasses.replace(idle, end_s=wake_s, horizon_s=wake_s)

    ending = dataclasses.replace(idle, start_s=now_s, end_s=now_s, horizon_s=now_s)
    going_on = dataclasses.replace(ending, horizon_s=formed_s, open=no)
    plan = select(runs, busy, select(f.continues, going_on, select(waits, ending, idle)))
    of_wait = Passes(formed_s, no, no, pending)
    passes = select(runs, stepping, select(f.continues, before, select(waits, of_wait, sleeping)))
    return dataclasses.replace(rank, plan=plan, passes=passes)
