"""Admission by priority: the most urgent of the requests that wait, one a tick.

A rank's list of waiting requests has those that the scheduler has seen before the others, which are in the order of their arrival. The most
urgent one is put at its head, and then the rules are those of any admission: it joins, or nobody does.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import Arrivals
from simjax.engine.control.cond_any import cond_any
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.priority.order import first_of, keys_of
from simjax.engine.priority.progress import Progress
from simjax.engine.rank import NEVER
from simjax.engine.scheduler.admission import admit_waiting
from simjax.engine.scheduler.departure import depart
from simjax.engine.scheduler.waiting import queued_s, seen_s
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def depart_first(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take one finished request out of the slots; the step waits for the others."""
    turn = depart(shape, params, turn)
    return dataclasses.replace(turn, waits=turn.waits | turn.departed.more | ~turn.due)


def admit_by_priority(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take in the most urgent waiting request if tokens, seats and blocks last.

    One that stays out keeps all others out, but not what has yet to arrive: that may be more urgent, and small enough. Only where all seats
    are taken an arrival need not be looked at.
    """
    rank, state = turn.rank, turn.state
    assert isinstance(state.progress, Progress) and rank.requeued is not None
    spare = state.routes.shape[1] - 1  # no list has an entry there: it takes what is not to be written
    ends = jnp.minimum(rank.head + jnp.arange(2, dtype=jnp.int32), spare)
    inside, listed = ends < rank.tail, jnp.minimum(state.routes[turn.i, ends], shape.requests - 1)
    ends_s = jnp.where(inside, queued_s(shape, params, turn, listed), NEVER)
    f = turn.formation
    looks = (f.seats < turn.limits.max_num_seqs) & (f.token_budget > 0) & (f.preempted == 0) & ~turn.waits
    some, several = looks & (ends_s <= seen_s(shape, turn))
    of_rank = (turn.i, turn.limits, rank.head, rank.tail, seen_s(shape, turn), ends_s[1])
    best, unseen_s = cond_any(several, _among_all, _only_one, params, state.arrivals, state.routes, of_rank)
    written = jnp.where(several, jnp.stack([rank.head, best]), spare)
    swapped = jnp.stack([state.routes[turn.i, best], state.routes[turn.i, rank.head]])
    routes = state.routes.at[turn.i, written].set(swapped)
    after = admit_waiting(shape, params, turn.with_state(routes=routes))
    joined = after.rank.num_running > rank.num_running
    slots, back = state.progress.restored(after.rank.slots, rank.num_running, joined)
    f = after.formation
    full = f.seats >= turn.limits.max_num_seqs
    formation = dataclasses.replace(
        f,
        stays=f.stays & (looks | full),  # without tokens left it is not known who is next, and may need fewer blocks
        blocked=f.blocked & full,
        next_queued_s=jnp.where(full | ~some, f.next_queued_s, unseen_s),
    )
    rank = dataclasses.replace(after.rank, slots=slots, requeued=rank.requeued - back.astype(jnp.int32))
    after = dataclasses.replace(after, rank=rank, formation=formation)
    # A request that the scan has left out has named nothing in this step: what the step before has filled gets its names now.
    return after.kv.name_verified(shape, params, after)


_OfRank = tuple[Array, RankParams, Array, Array, Array, Array]
"""The rank: its number and limits, head and tail of its list, time up to which it sees, and when the second entry of the list is queued."""


def _among_all(params: ClusterParams, arrivals: Arrivals, routes: Array, of_rank: _OfRank) -> tuple[Array, Array]:
    """Place of the most urgent request that is seen, and the time at which the first that is not is queued."""
    i, limits, head, tail, seen_s, _ = of_rank
    place = jnp.arange(routes.shape[1], dtype=jnp.int32)
    inside = (place >= head) & (place < tail)
    request = jnp.minimum(routes[i], params.requests.arrival_s.shape[1] - 1)
    at_s = arrivals.arrival_s(params, request) + limits.api_pre_s
    visible = inside & (at_s <= seen_s)
    best = first_of(keys_of(params, arrivals, limits, request), visible)
    return jnp.min(jnp.where(best, place, place[-1])), jnp.min(jnp.where(inside & ~visible, at_s, NEVER))


def _only_one(params: ClusterParams, arrivals: Arrivals, routes: Array, of_rank: _OfRank) -> tuple[Array, Array]:
    return of_rank[2], of_rank[5]
