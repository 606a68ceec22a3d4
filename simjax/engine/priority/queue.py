"""Admission by priority: the most urgent of the requests that wait, one a tick.

A rank's list of waiting requests has those that the scheduler has seen before the others, which are in the order of their arrival. The most
urgent one is put at its head, and then the rules are those of any admission: it joins, or nobody does.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.params import ClusterParams
from simjax.engine.priority.order import Keys, first_of, keys_of
from simjax.engine.priority.progress import Progress
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
    place = jnp.arange(state.routes.shape[1], dtype=jnp.int32)
    request = jnp.minimum(state.routes[turn.i], shape.requests - 1)
    at_s = queued_s(shape, params, turn, request)
    inside = (place >= rank.head) & (place < rank.tail)
    visible = inside & (at_s <= seen_s(shape, turn))
    f = turn.formation
    looks = (f.seats < turn.limits.max_num_seqs) & (f.token_budget > 0) & (f.preempted == 0) & ~turn.waits
    operands = (keys_of(params, turn, request), visible, place, rank.head)
    best = cond_any(looks & jnp.any(visible), _place_of_first, lambda keys, among, place, head: head, *operands)
    # What is not written goes to the last entry, which no list has.
    spare = place[-1]
    old, new = state.routes[turn.i, rank.head], state.routes[turn.i, best]
    ends = jnp.where(looks, jnp.stack([rank.head, best]), spare)
    routes = state.routes.at[turn.i, ends].set(jnp.stack([new, old]))
    first_unseen_s = jnp.min(jnp.where(inside & ~visible, at_s, jnp.inf))
    after = admit_waiting(shape, params, turn.with_state(routes=routes))
    joined = after.rank.num_running > rank.num_running
    slots, back = state.progress.restored(after.rank.slots, rank.num_running, joined)
    f = after.formation
    full = f.seats >= turn.limits.max_num_seqs
    formation = dataclasses.replace(
        f,
        refused=f.refused & (full | ~f.blocked),
        blocked=f.blocked & full,
        next_queued_s=jnp.where(full, f.next_queued_s, first_unseen_s),
    )
    rank = dataclasses.replace(after.rank, slots=slots, requeued=rank.requeued - back.astype(jnp.int32))
    return dataclasses.replace(after, rank=rank, formation=formation)


def _place_of_first(keys: Keys, among: Array, place: Array, head: Array) -> Array:
    return jnp.min(jnp.where(first_of(keys, among), place, place[-1]))
