"""A call of the scheduler while batches are in flight: who may be in the next batch.

Computed tokens count from the call on, so that the next chunk of a prompt may enter the very next batch. A request whose token is in flight
has nothing to compute under a synchronous scheduler. An asynchronous one decodes it again, but not before as many calls as there are stages
have passed (the second model runner's `next_decode_eligible_step`; empty calls count), and not once its last token is on its way. Requests
without anything to compute are passed over, and later ones get the budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.flight import Flight
from simjax.engine.pipeline.line import Line
from simjax.engine.rank import Slots
from simjax.engine.scheduler.admission import admit_waiting
from simjax.engine.scheduler.formation import Demand, Formation, capped
from simjax.engine.scheduler.waiting import is_alone
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def schedule_eligible(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give the running requests that may be in the batch their tokens, in order, while the budget lasts."""
    limits, rank, slots = turn.limits, turn.rank, turn.rank.slots
    line, flight = rank.pipeline, slots.flight
    assert isinstance(line, Line) and isinstance(flight, Flight)
    position, later = slots.position, limits.async_scheduling
    running = (position < rank.num_running) & ~slots.finished
    placeholders = jnp.where(later, flight.placeholders, 0)
    tokens = slots.num_tokens + placeholders
    passed = (later & (placeholders > 0) & (tokens >= slots.final_tokens)) | flight.early(limits, line)
    alone = is_alone(shape, params, turn)
    need = capped(jnp.where(running & ~passed, tokens - slots.num_computed_tokens, 0), limits, alone)
    new = jnp.clip(limits.max_num_batched_tokens - (jnp.cumsum(need) - need), 0, need)
    blocks = jnp.where(running, blocks_of(slots.num_computed_tokens + new, limits.block_size) - slots.held.hashed, 0)
    (total, seats, used), (last,), _ = reduce_slots([new, running, blocks], [jnp.where(running, position, 0)])
    formation = Formation.of_running(
        token_budget=limits.max_num_batched_tokens - total,
        seats=seats,
        blocks=used + turn.kv.num_held(turn.kv_row),
        alone=alone,
        continues=turn.waits,
    )
    rank = dataclasses.replace(rank, slots=dataclasses.replace(slots, num_new_tokens=new))
    return dataclasses.replace(turn, rank=rank, formation=formation, demand=Demand(running, running, blocks, last))


def admit_past(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take in waiting requests; those that were preempted with something in flight are passed over until that has come back.

    They are set aside at the end of the slots while the others are admitted, and put back at their places in the queue. Where they leave no
    slot, which takes as many of them as a quarter of the seats, nobody is admitted until they have come back.
    """
    limits, rank, slots = turn.limits, turn.rank, turn.rank.slots
    assert isinstance(slots.flight, Flight)
    position = slots.position
    preempted = (position >= rank.num_running) & (position < rank.num_running + rank.num_preempted)
    flying = preempted & (slots.flight.batches != 0)
    count = jnp.sum(flying, dtype=jnp.int32)
    inside = position < rank.num_running + rank.num_preempted
    slots, place = _moved(_aside, count > 0, (slots, position), flying, inside)
    aside = dataclasses.replace(rank, slots=slots, num_preempted=rank.num_preempted - count)
    fewer = dataclasses.replace(limits, slots=limits.slots - count)
    after = admit_waiting(shape, params, dataclasses.replace(turn, rank=aside, limits=fewer))
    full = after.rank.num_running >= fewer.slots
    stays = after.formation.continues & full & ~turn.waits
    formation = dataclasses.replace(after.formation, continues=after.formation.continues & ~stays, refused=after.formation.refused | stays)
    rank, size = after.rank, position.shape[0]
    waits = ((position >= rank.num_running) & (position < rank.num_running + rank.num_preempted)) | (position >= size - count)
    slots, _ = _moved(_back, count > 0, (rank.slots, place), waits, position < rank.num_running)
    rank = dataclasses.replace(rank, slots=slots, num_preempted=rank.num_preempted + count)
    return dataclasses.replace(after, rank=rank, limits=limits, formation=formation)


Placed = tuple[Slots, Array]
"""Slots, and the place that each had before some were set aside."""


Rule = Callable[[Array, Array, Array], Array]
"""Keys by which slots are put in order, int32[A]: from the places before, and two masks."""


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _moved(rule: Rule, needed: Array, placed: Placed, mask: Array, inside: Array) -> Placed:
    """The slots in the order of a rule where that is needed, else as they are."""
    work = lambda placed, mask, inside: _sorted(placed, jnp.argsort(rule(placed[1], mask, inside)))
    return cond_any(needed, work, lambda placed, mask, inside: placed, placed, mask, inside)


@_moved.defjvp
def _(rule: Rule, primals: tuple[Array, Placed, Array, Array], tangents: tuple[Any, Placed, Any, Any]) -> tuple[Placed, Placed]:
    needed, placed, mask, inside = primals  # a branch passes no derivatives, so those go along in the same order
    order = jnp.argsort(rule(placed[1], mask, inside))
    order = jnp.where(needed, order, jnp.arange(order.shape[0]))
    return _moved(rule, needed, placed, mask, inside), _sorted(tangents[1], order)


def _aside(place: Array, flying: Array, inside: Array) -> Array:
    """Those that are flying at the end, behind the unused slots."""
    size = flying.shape[0]
    group = jnp.where(flying, 2, jnp.where(inside, 0, 1))
    return group * size + jnp.arange(size, dtype=jnp.int32)


def _back(place: Array, waits: Array, runs: Array) -> Array:
    """The running ones as they are, behind them those that wait by their places before, then the unused slots."""
    size, position = waits.shape[0], jnp.arange(waits.shape[0], dtype=jnp.int32)
    return jnp.where(runs, position, jnp.where(waits, size + place, 2 * size + position))


def _sorted(placed: Placed, order: Array) -> Placed:
    return jax.tree.map(lambda x: x if x.dtype == jax.dtypes.float0 else x[order], placed)
