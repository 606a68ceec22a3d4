"""What a turn has for the tier of its rank: tasks, the one under way, and the next one."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.tiers.table import BEGIN, MARKED, NUMBER, REQUEST, SEEN, STORED, STORES, UNTIL, TierTable

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Task(IntEnum):
    """What is under way."""

    NONE = 0
    COUNT = 1  # what is missing of an offer
    EVICT = 2  # blocks that nobody uses, for it
    STORE = 3  # rows for what is missing
    LOAD = 4  # blocks that a request will read
    STORED = 5  # a piece of a copy is there
    LOADED = 6
    LEAVE = 7  # a request puts its use of all its blocks down
    UNMARK = 8


class Todo(NamedTuple):
    """What a turn has for the tier of its rank, in the order in which it is done.

    Attributes:
        told: pieces whose copies are known to have ended.
        loads: whether a request begins to load; which; the bounds of its blocks.
        offers: requests in the slots that offer blocks; `request` and the end of what each offers, `until`.
        closes: whether those that have left are to be dealt with.
    """

    told: Bool[Array, " K"]
    loads: Bool[Array, ""]
    load_request: Int32[Array, ""]
    load_begin: Int32[Array, ""]
    load_end: Int32[Array, ""]
    offers: Bool[Array, " A"]
    request: Int32[Array, " A"]
    until: Int32[Array, " A"]
    closes: Bool[Array, ""]

    def some(self, tiers: TierTable, i: Array | int) -> Bool[Array, ""]:
        """Whether anything is left."""
        return jnp.any(self.told) | self.loads | jnp.any(self.offers) | (self.closes & (tiers.book(i, "leaving") > 0))


class Under(NamedTuple):
    """The task under way: int32[] or bool[].

    Attributes:
        task: which, `Task`.
        request, number, piece: its request, copy and piece.
        begin, end, at: bounds of its blocks, and how far it has come.
        depth: number of the prefix node on the path.
        run, left: run to look at, and the one before it in the prefix node; of evictions the run to look at.
        anchor: run next to which the next one goes in the order of eviction, 0 for the ends of it.
        missing: blocks that an offer lacks.
        granted: whether there is room for them.
        closed: requests that have left and are dealt with.
        again: whether the next of these has made its last offer.
    """

    task: Array
    request: Array
    number: Array
    piece: Array
    begin: Array
    end: Array
    at: Array
    depth: Array
    run: Array
    left: Array
    anchor: Array
    missing: Array
    granted: Array
    closed: Array
    again: Array

    @staticmethod
    def nothing() -> Under:
        """No task."""
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return Under(zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, no, zero, no)


class Facts(NamedTuple):
    """What does not change: blocks of the tier of the rank, prompt tokens of all requests."""

    capacity: Array
    prompt_tokens: Array


def next_task(
    tree: RankTree, tiers: TierTable, todo: Todo, under: Under, facts: Facts, wanted: Array
) -> tuple[Under, Todo, dict[str, Array]]:
    """The next task, if one is wanted; what is left to do after it; and what it changes in the books."""
    i, none = tree.rank, jnp.asarray(tiers.requests.shape[0] - 1, jnp.int32)
    pieces, zero = tiers.pieces[i], jnp.zeros((), jnp.int32)
    piece = jnp.argmin(jnp.where(todo.told, pieces[:, NUMBER], INT32_MAX)).astype(jnp.int32)
    slot = jnp.argmax(todo.offers).astype(jnp.int32)
    leaver = tiers.leaving[i, jnp.minimum(under.closed, tiers.leaving.shape[1] - 1)]
    full = tree.full(facts.prompt_tokens[tree.served, jnp.minimum(leaver, none - 1)])
    told = wanted & jnp.any(todo.told)
    loads = wanted & ~told & todo.loads
    offers = wanted & ~told & ~loads & jnp.any(todo.offers)
    leaves = wanted & ~told & ~loads & ~offers & todo.closes & (under.closed < tiers.book(i, "leaving"))
    retries = leaves & ~under.again & (tiers.requests[leaver, STORED] < full)
    puts_down = leaves & ~retries
    ends = wanted & ~told & ~loads & ~offers & ~leaves  # all of those that have left are dealt with

    def of(of_told: Array | int, of_load: Array | int, of_offer: Array | int, of_retry: Array | int, of_leave: Array | int) -> Array:
        """What belongs to the task."""
        offered = jnp.where(offers, of_offer, jnp.where(retries, of_retry, of_leave))
        return jnp.where(told, of_told, jnp.where(loads, of_load, offered))

    copied = pieces[piece]
    request = of(copied[REQUEST], todo.load_request, todo.request[slot], leaver, jnp.where(leaves, leaver, none))
    stored, kind = tiers.requests[request, STORED], jnp.where(copied[STORES] > 0, Task.STORED.value, Task.LOADED.value)
    seen_end = jnp.max(tiers.requests[request, SEEN + 1 :: 2])
    last = jnp.where(puts_down, Task.LEAVE.value, Task.NONE.value)
    task = jnp.where(wanted, of(kind, Task.LOAD.value, Task.COUNT.value, Task.COUNT.value, last), Task.NONE.value)
    begin = of(copied[BEGIN], todo.load_begin, stored, stored, jnp.where(puts_down, 0, stored))
    fetched = Under(
        task=task.astype(jnp.int32),
        request=request,
        number=jnp.where(told, copied[NUMBER], tiers.book(i, "copy") + 1),
        piece=piece,
        begin=begin,
        end=of(copied[UNTIL], todo.load_end, todo.until[slot], full, seen_end),
        at=begin,
        depth=zero,
        run=tiers.nodes[i, tree.place(tree.path(request), 0).node],
        left=zero,
        anchor=jnp.where(puts_down, 0, tiers.requests[request, MARKED]),
        missing=zero,
        granted=jnp.ones((), bool),
        closed=under.closed + puts_down.astype(jnp.int32),
        again=jnp.where(leaves, retries, under.again),
    )
    here = lambda mask, at: jnp.arange(mask.shape[0], dtype=jnp.int32) == at
    left = todo._replace(
        told=todo.told & ~(told & here(todo.told, piece)),
        loads=todo.loads & ~loads,
        offers=todo.offers & ~(offers & here(todo.offers, slot)),
    )
    return fetched, left, {"turn": puts_down, "leaving": jnp.where(ends, -tiers.book(i, "leaving"), 0)}
