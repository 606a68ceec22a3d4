"""Hand-overs in a group: its ranks look at their transfers as they launch a forward, and the forward ends where one of them is told.

A rank's passes are the forwards of its group, dummies included. It looks if its scheduler is called: if it has requests, or has just ended
one. One that only keeps blocks for others to read computes dummies without a look. With synchronous scheduling a rank that has requests and
nothing to run sleeps before its dummy, and the others wait for it in the first layer.

Legend: N ranks, K rows of hand-overs, D ranks of the largest group.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.while_any import while_any
from simjax.engine.groups.alone import is_alone
from simjax.engine.groups.members import for_each
from simjax.engine.handover.passes import Passes, news_at
from simjax.engine.handover.rows import rules, table_of
from simjax.engine.handover.table import Handovers
from simjax.engine.handover.transfers import begun, next_news_s, to_begin
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


def begin_transfers(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Begin the transfers whose two ends are ready, in the order of their requests.

    They begin once all ranks have formed the forward, or have dealt with what is known where none comes yet.
    """
    if not shape.handovers:
        return turn
    goes_on = jnp.where(turn.wave.stops, turn.departed.more, turn.formation.continues & ~turn.offers.formed)
    formed = (~jnp.any(goes_on & turn.wave.present) | is_alone(shape, params, turn)) & turn.due

    def more(table: Handovers, params: ClusterParams, formed: Array, now_s: Array) -> Array:
        return formed & jnp.any(to_begin(table))

    def next_one(table: Handovers, params: ClusterParams, formed: Array, now_s: Array) -> Handovers:
        ready = to_begin(table)
        row = jnp.argmin(jnp.where(ready, table.request, INT32_MAX)).astype(jnp.int32)
        return begun(shape, params, table, row, now_s, formed & jnp.any(ready))

    return turn.with_state(handovers=while_any(more, next_one, table_of(turn.state), params, formed, turn.horizon_s[0]))


def num_loading(turn: Turn) -> Int32[Array, " D"]:
    """Loads of each member that do not run yet; none where there are no hand-overs."""
    return for_each(turn, lambda turn: jnp.asarray(turn.state.handovers.num_waiting(turn.i), jnp.int32))


def may_keep(turn: Turn) -> Bool[Array, " D"]:
    """Members that keep blocks for others to read."""
    table = table_of(turn.state)
    return for_each(turn, lambda turn: jnp.any(table.keeping(turn.i)))


def with_requests(turn: Turn, plans: Plan) -> Bool[Array, " D"]:
    """Members whose scheduler has requests once the forward is formed: running, waiting or loading ones."""
    f = turn.formation
    return (f.seats > 0) | (plans.running + plans.preempted > 0) | f.refused | (f.preempted > 0) | (num_loading(turn) > 0)


def ended(turn: Turn) -> Bool[Array, " D"]:
    """Members of which a request has left since the last forward was formed."""
    before, passes = turn.before.plan, turn.before.passes
    assert isinstance(passes, Passes) and passes.looks is not None
    return ((before.steps == 0) & passes.looks) | turn.departed.some


def looking(turn: Turn, has: Array) -> Bool[Array, " D"]:
    """Members that look at their transfers in the forward, of those that `has` requests; of one whose formation goes on, `ended`."""
    passes, gone = turn.before.passes, ended(turn)
    assert isinstance(passes, Passes) and passes.looks is not None
    return jnp.where(turn.offers.formed, passes.looks, gone | (has & ~turn.formation.continues))


def slept_s(params: ClusterParams, turn: Turn, plans: Plan, has: Array) -> Array:
    """Seconds for which a forward waits for a rank that sleeps first, float64[]."""
    sleeps = jnp.any(turn.wave.present & has & (plans.tokens == 0)) & ~turn.limits.async_scheduling[0]
    return jnp.where(sleeps, rules(params).empty_pass_s, 0.0)


def with_looks(params: ClusterParams, turn: Turn, plan: Plan, looks: Array) -> tuple[Turn, Plan]:
    """The turn with the looks of the members, and the plan that they have in common, cut where one of them is told of a transfer.

    Args:
        params: of the cluster.
        turn: of the group.
        plan: scalars.
        looks: members that look at their transfers, bool[D].
    """
    later, no = turn.limits.async_scheduling, jnp.zeros_like(looks)
    formed_s = turn.horizon_s
    passes = Passes(formed_s, no, no, no, no, later & (formed_s < turn.now_s), looks, no)
    plans = jax.tree.map(lambda x: jnp.broadcast_to(x, looks.shape), plan)
    turn = dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, passes=passes))
    of_all = dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, plan=plans))
    table = table_of(turn.state)

    def heard(turn: Turn) -> Array:
        assert isinstance(turn.rank.passes, Passes)
        return next_news_s(params, turn, table, turn.rank.plan, turn.rank.passes)

    heard_s = jnp.min(jnp.where(turn.wave.present, for_each(of_all, heard), NEVER))
    return turn, news_at(plan, heard_s, later[0])


def stopping(turn: Turn, stops: Array) -> Array:
    """Whether the last forward of a wave is still under way in this turn, bool[]: an asynchronous scheduler is asked at its start.

    What was known then is dealt with, but no forward is formed before its end.
    """
    before, passes = turn.before.plan, turn.before.passes
    if not isinstance(passes, Passes):
        return jnp.zeros((), bool)
    assert passes.stopping is not None
    return (stops & (before.horizon_s[0] < before.end_s[0])) | (passes.stopping[0] & ~before.open[0])


def with_end(turn: Turn, stops: Array, plans: Plan) -> tuple[Turn, Plan]:
    """The turn and the members' plans where the last forward of a wave is under way: the next turn is at its end."""
    more = jnp.any(turn.wave.present & turn.departed.more)
    ends, passes = stops & ~more, turn.rank.passes
    assert isinstance(passes, Passes) and passes.stopping is not None
    plans = dataclasses.replace(plans, horizon_s=jnp.where(ends, plans.end_s, plans.horizon_s), open=plans.open | ends)
    passes = dataclasses.replace(passes, stopping=passes.stopping | stops)
    return dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, passes=passes)), plans


def with_last_look(turn: Turn, sleeps: Array) -> Turn:
    """The turn with what ranks are told at once that look although their group `sleeps` (bool[]): they have just ended a request."""
    table, passes = table_of(turn.state), turn.rank.passes
    assert isinstance(passes, Passes) and passes.looks is not None
    looks, passes = passes.looks & turn.wave.present & sleeps & turn.due, dataclasses.replace(passes, looks=passes.looks & ~sleeps)
    turn = dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, passes=passes))
    keeping = for_each(dataclasses.replace(turn, throttled=looks), lambda turn: table.keeping(turn.i) & turn.throttled)
    news = jnp.any(keeping, axis=0) & (table.landed_s < turn.now_s[0]) & ~jnp.isfinite(table.prefill_told_s)
    return turn.with_state(handovers=dataclasses.replace(table, prefill_told_s=jnp.where(news, turn.now_s[0], table.prefill_told_s)))
