"""The turn of a group: stages of one rank for all its members at once, side by side, and what begins and ends the turn.

The members' part of the turn has a leading axis D, and so have their KV caches. A stage that changes more of the cluster's state has no
place here: members are ranks without sessions and hand-overs, and their clients are answered for all of them together.

Legend: N ranks, G groups, D ranks of the largest group, S slots (A = S+W array entries).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.control.select import select
from simjax.engine.control.together import entry
from simjax.engine.groups.lockstep import Groups, Wave
from simjax.engine.kv.prefix_cache import NoPrefixCache, PrefixCache
from simjax.engine.params import ClusterParams, GroupParams
from simjax.engine.routing.balancer import Balancers, NoBalancers, before_snapshot
from simjax.engine.routing.books import NoBooks, RouterBooks
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import LATER, Turn

T = TypeVar("T")

_OF_MEMBERS = ("i", "limits", "before", "rank", "waits", "throttled", "emitted", "departed", "formation", "demand")
"""Fields of a turn of which every member has its own."""


def for_each(turn: Turn, function: Callable[[Turn], T]) -> T:
    """What the function makes of the turn of every member, leaves with a leading axis D."""

    def one(mine: dict[str, Any], kv: PrefixCache | NoPrefixCache) -> T:
        turn_of_one = turn.with_state(kv=jax.tree.map(lambda x: x[None], kv))
        return function(dataclasses.replace(turn_of_one, **mine))

    return jax.vmap(one)(_own(turn), turn.state.kv)


def each(stage: Callable[[EngineShape, ClusterParams, Turn], Turn]) -> Callable[[EngineShape, ClusterParams, Turn], Turn]:
    """The stage of a rank for every member of the group whose turn it is."""

    @functools.wraps(stage)
    def of_members(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        def one(turn: Turn) -> tuple[dict[str, Any], PrefixCache | NoPrefixCache]:
            after = stage(shape, params, turn)
            return _own(after), jax.tree.map(lambda x: x[0], after.state.kv)

        own, kv = for_each(turn, one)
        return dataclasses.replace(turn.with_state(kv=kv), **own)

    return of_members


def _own(turn: Turn) -> dict[str, Any]:
    return {name: x for name in _OF_MEMBERS if (x := getattr(turn, name)) is not LATER}


def rules_of(params: ClusterParams) -> GroupParams:
    """The parameters of the groups, which a turn of one has."""
    assert params.groups is not None
    return params.groups


def groups_of(state: ClusterState) -> Groups:
    """The state of the groups, which a turn of one has."""
    assert isinstance(state.groups, Groups)
    return state.groups


def members_of(shape: EngineShape, turn: Turn, table: T) -> T:
    """The members' rows of a record of leaves [N, ...]: all of them where the cluster is one group."""
    leaves, structure = jax.tree.flatten(table)
    if _is_all(shape) or not leaves:
        return table
    numbers = [x for x in leaves if x.ndim == 1]
    rows = iter(jax.vmap(lambda i: entry(numbers, i))(jnp.minimum(turn.i, shape.ranks - 1)) if numbers else ())
    return jax.tree.unflatten(structure, [next(rows) if x.ndim == 1 else x[turn.i] for x in leaves])


def with_members(shape: EngineShape, turn: Turn, table: T, new: T) -> T:
    """The record of leaves [N, ...] with other rows of the members, if the turn is due."""
    if _is_all(shape):
        return select(turn.due, new, table) if shape.live_routing else new
    at = jnp.where(turn.due, turn.i, shape.ranks)  # out of bounds: dropped
    return jax.tree.map(lambda x, y: x.at[at].set(y, mode="drop"), table, new)


def _is_all(shape: EngineShape) -> bool:
    return shape.groups == 1 and shape.group_ranks == shape.ranks


def begin_forward(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Choose the group whose forward ends first; it is due if that is before the next arrival."""
    ranks, rules = turn.state.ranks, rules_of(params)
    due_s = ranks.due_s()
    first = jnp.argmin(due_s).astype(jnp.int32)
    group = jnp.maximum(rules.of_rank[first], 0) if shape.groups > 1 else 0
    due = due_s[first] < next_arrival_s(params, turn.state) if shape.live_routing else jnp.ones((), bool)
    due = before_snapshot(shape, params, turn.state, due, due_s[first])
    number = jnp.arange(shape.group_ranks, dtype=jnp.int32)
    present = number < rules.size[group]
    i = jnp.where(present, rules.first[group] + number, shape.ranks)
    turn = dataclasses.replace(turn, i=i, due=due, waits=jnp.zeros_like(present))
    rank = members_of(shape, turn, ranks)
    wave = Wave(group, present, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    kv = turn.state.kv
    turn = dataclasses.replace(turn.with_state(kv=members_of(shape, turn, kv)), kv_of_all=kv)
    return dataclasses.replace(turn, limits=members_of(shape, turn, params.ranks), before=rank, rank=rank, wave=wave)


def answer_all(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give the clients of finished requests their answers, of all members in one go."""
    if not isinstance(turn.state.arrivals, ClosedLoop):
        return turn
    A = shape.seats
    finished = turn.emitted.finished & turn.wave.present[:, None]
    limits = dataclasses.replace(turn.limits, api_post_s=jnp.repeat(turn.limits.api_post_s, A))
    slots = dataclasses.replace(turn.before.slots, request=turn.before.slots.request.reshape(-1))
    plan = dataclasses.replace(turn.before.plan, end_s=jnp.repeat(turn.before.plan.end_s, A))
    flat = dataclasses.replace(
        turn,
        limits=limits,
        before=dataclasses.replace(turn.before, slots=slots, plan=plan),
        emitted=dataclasses.replace(turn.emitted, finished=finished.reshape(-1)),
    )
    return turn.with_state(arrivals=turn.state.arrivals.answer(shape, params, flat).state.arrivals)


def end_forward(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Put the members back among the ranks, and their departed requests into the table of outcomes.

    The tables of the KV caches are as they were where the turn is not due.
    """
    state, departed, kv = turn.state, turn.departed, turn.state.kv
    if not _is_all(shape):
        kv = jax.tree.map(lambda x, new: x.at[turn.i].set(new, mode="drop"), turn.kv_of_all, kv)
    left = turn.due & departed.some & turn.wave.present
    return turn.with_state(
        ranks=with_members(shape, turn, state.ranks, turn.rank),
        kv=kv,
        outcome=state.outcome.at[jnp.where(left, departed.request, shape.requests)].set(departed.outcome),
        num_finished=state.num_finished + jnp.sum(left, dtype=jnp.int32),
        books=_books_left(params, turn, left),
        balancers=_balancers_left(params, turn, left),
    )


def _books_left(params: ClusterParams, turn: Turn, left: Array) -> RouterBooks | NoBooks:
    """The router's books once the departed requests of those members (bool[D]) have left their slots."""
    books, handovers = turn.state.books, turn.state.handovers

    def change(i: Array, request: Array, leaves: Array) -> RouterBooks | NoBooks:
        after = books.left(params, handovers, i, request, leaves)
        return jax.tree.map(lambda new, old: new - old, after, books)

    changes = jax.vmap(change)(jnp.asarray(turn.i), turn.departed.request, left)
    return jax.tree.map(lambda old, each: old + jnp.sum(each, axis=0, dtype=old.dtype), books, changes)


def _balancers_left(params: ClusterParams, turn: Turn, left: Array) -> Balancers | NoBalancers:
    """The balancers' views once the departed requests of those members (bool[D]) have left their slots."""
    views = turn.state.balancers
    if not isinstance(views, Balancers):
        return views

    def fewer(i: Array, request: Array, leaves: Array) -> Array:
        return views.in_flight - views.left(params, i, request, leaves).in_flight

    gone = jnp.sum(jax.vmap(fewer)(jnp.asarray(turn.i), turn.departed.request, left), axis=0, dtype=jnp.int32)
    return dataclasses.replace(views, in_flight=views.in_flight - gone)
