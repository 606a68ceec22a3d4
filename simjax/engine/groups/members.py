"""The turn of a group: stages of one rank for all its members at once, side by side, and what begins and ends the turn.

The members' part of the turn has a leading axis D, and so have their KV caches. A stage that changes more of the cluster's state, which
members share, has them one after the other.

Legend: N ranks, G groups, D ranks of the largest group, S slots (A = S+W array entries).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.arrivals.open_loop import OpenLoop
from simjax.engine.control.select import select
from simjax.engine.control.together import entry
from simjax.engine.groups.lockstep import Groups, Wave
from simjax.engine.groups.times import rules_of
from simjax.engine.kv.no_prefix_cache import NoPrefixCache
from simjax.engine.kv.prefix_cache import PrefixCache
from simjax.engine.params import ClusterParams
from simjax.engine.routing.balancer import Balancers, NoBalancers, before_snapshot
from simjax.engine.routing.books import NoBooks, RouterBooks
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import LATER, Turn

T = TypeVar("T")

Stage: TypeAlias = Callable[[EngineShape, ClusterParams, Turn], Turn]

HANDOVERS, QUEUES = ("handovers", "overflow"), ("routes", "progress")
"""Fields of the cluster's state that stages of a rank change where there are hand-overs, and where there are priorities."""

_OF_MEMBERS = ("i", "limits", "before", "rank", "waits", "throttled", "emitted", "departed", "formation", "demand")
"""Fields of a turn of which every member has its own."""


def for_each(turn: Turn, function: Callable[[Turn], T]) -> T:
    """What the function makes of the turn of every member, leaves with a leading axis D."""

    def one(mine: dict[str, Any], kv: PrefixCache | NoPrefixCache) -> T:
        turn_of_one = turn.with_state(kv=jax.tree.map(lambda x: x[None], kv))
        return function(dataclasses.replace(turn_of_one, **mine))

    return jax.vmap(one)(own(turn), turn.state.kv)


def each(shares: tuple[str, ...] = ()) -> Callable[[Stage], Stage]:
    """What makes of a stage of a rank that of every member of the group whose turn it is.

    They come side by side, or one after the other where the stage changes `shares` of the cluster's state and these exist.
    """

    def of(stage: Stage) -> Stage:
        @functools.wraps(stage)
        def of_members(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
            there = [name for name in shares if {"arrivals": True, **_there(shape)}[name]]
            return _in_order(stage, there, shape, params, turn) if there else _at_once(stage, shape, params, turn)

        return of_members

    return of


def _there(shape: EngineShape) -> dict[str, int | bool]:
    """Which fields of the cluster's state that members may change exist."""
    return dict.fromkeys(HANDOVERS, shape.handovers) | dict.fromkeys(QUEUES, shape.priorities)


def _at_once(stage: Stage, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """The stage for all members side by side."""

    def one(turn: Turn) -> tuple[dict[str, Any], PrefixCache | NoPrefixCache]:
        after = stage(shape, params, turn)
        return own(after), jax.tree.map(lambda x: x[0], after.state.kv)

    mine, kv = for_each(turn, one)
    return dataclasses.replace(turn.with_state(kv=kv), **mine)


def _in_order(stage: Stage, shares: list[str], shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """The stage for one member after the other, each with what those before it have left of the shared state."""

    def one(shared: dict[str, Any], mine: tuple[dict[str, Any], Any, Array]) -> tuple[dict[str, Any], tuple[dict[str, Any], Any]]:
        fields, kv, present = mine
        of_one = turn.with_state(kv=jax.tree.map(lambda x: x[None], kv), **shared)
        after = stage(shape, params, dataclasses.replace(of_one, **fields, due=turn.due & present))
        return {name: getattr(after.state, name) for name in shares}, (own(after), jax.tree.map(lambda x: x[0], after.state.kv))

    shared = {name: getattr(turn.state, name) for name in shares}
    shared, (fields, kv) = jax.lax.scan(one, shared, (own(turn), turn.state.kv, turn.wave.present))
    return dataclasses.replace(turn.with_state(kv=kv, **shared), **fields)


def own(turn: Turn) -> dict[str, Any]:
    """The fields of the turn of which every member has its own."""
    return {name: x for name in _OF_MEMBERS if (x := getattr(turn, name)) is not LATER}


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
    due = turn.state.handovers.after(due, due_s[first])
    due = before_snapshot(shape, params, turn.state, due, due_s[first])
    number = jnp.arange(shape.group_ranks, dtype=jnp.int32)
    present = number < rules.size[group]
    i = jnp.where(present, rules.first[group] + number, shape.ranks)
    turn = dataclasses.replace(turn, i=i, due=due, waits=jnp.zeros_like(present))
    rank = members_of(shape, turn, ranks)
    no = jnp.zeros((), bool)
    wave = Wave(group, present, no, jnp.zeros((), jnp.int32), no)
    kv = turn.state.kv
    turn = dataclasses.replace(turn.with_state(kv=members_of(shape, turn, kv)), kv_of_all=kv)
    return dataclasses.replace(turn, limits=members_of(shape, turn, params.ranks), before=rank, rank=rank, wave=wave)


def answer_all(answer: Stage) -> Stage:
    """What gives the clients of finished requests of all members their answers."""

    @functools.wraps(answer)
    def of_members(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        if isinstance(turn.state.arrivals, OpenLoop):
            return turn
        if shape.handovers or shape.fanout:
            return each(("arrivals",))(answer)(shape, params, turn)
        return _clients_answered(shape, params, turn)

    return of_members


def _clients_answered(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """The clients of all members answered in one go."""
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
    leaves = turn.due & departed.some & turn.wave.present
    left = leaves & ~departed.kept
    return turn.with_state(
        ranks=with_members(shape, turn, state.ranks, turn.rank),
        kv=kv,
        outcome=state.outcome.at[jnp.where(left, departed.request, shape.requests)].set(departed.outcome),
        num_finished=state.num_finished + jnp.sum(left, dtype=jnp.int32),
        books=_books_left(params, turn, leaves),
        balancers=_balancers_left(params, turn, leaves),
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
