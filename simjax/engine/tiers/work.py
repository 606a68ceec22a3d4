"""What requests do to a tier: they offer blocks, load some, end copies and leave. One loop does all of it, a small step at a time.

Every task is a walk along the content of a request, from one block to another, over the runs that the tier has of it. An offer is walked
twice: first what is missing is counted and what is there protected, then room is made, then what is missing gets rows.
"""

from __future__ import annotations

import dataclasses
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.tiers.table import (
    BEGIN,
    BOOKS,
    COPY,
    END,
    FIRST,
    LEFT,
    MARK,
    MARKED,
    NEXT,
    NODE,
    NUMBER,
    OFFERED,
    PIECES,
    PREV,
    REQUEST,
    RIGHT,
    SEEN,
    STORED,
    STORES,
    TURN,
    TURN_OF,
    UNTIL,
    USE,
    WRITTEN,
    TierTable,
)

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


class Facts(NamedTuple):
    """What does not change: blocks of the tier of the rank, prompt tokens of all requests."""

    capacity: Array
    prompt_tokens: Array


_Doing = tuple[TierTable, Todo, Under]


def work(tree: RankTree, tiers: TierTable, todo: Todo, facts: Facts) -> TierTable:
    """The tiers once all that a turn has for that of its rank is done."""
    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    under = Under(zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, no, zero, no)

    def needed(state: _Doing, tree: RankTree, facts: Facts) -> Array:
        tiers, todo, under = state
        return ((under.task != Task.NONE) | todo.some(tiers, tree.rank)) & tiers.has_rows(tree.rank)

    def body(state: _Doing, tree: RankTree, facts: Facts) -> _Doing:
        going = needed(state, tree, facts)
        tiers, todo, under = state
        fetched, left, counts = _fetch(tree, tiers, todo, under, facts, going & (under.task == Task.NONE))
        tiers, under = _step(tree, tiers, under, facts, going & (under.task != Task.NONE), counts)
        return tiers, left, select(going & (fetched.task != Task.NONE), fetched, under)

    return while_any(needed, body, (tiers, todo, under), tree, facts)[0]


def _fetch(tree: RankTree, tiers: TierTable, todo: Todo, under: Under, facts: Facts, wanted: Array) -> tuple[Under, Todo, dict[str, Array]]:
    """The next task, if one is wanted; what is left to do after it; and what it changes in the books."""
    i, none = tree.rank, jnp.asarray(tiers.requests.shape[0] - 1, jnp.int32)
    pieces = tiers.pieces[i]
    piece = jnp.argmin(jnp.where(todo.told, pieces[:, NUMBER], INT32_MAX)).astype(jnp.int32)
    slot = jnp.argmax(todo.offers).astype(jnp.int32)
    leaver = tiers.leaving[i, jnp.minimum(under.closed, tiers.leaving.shape[1] - 1)]
    full = tree.full(facts.prompt_tokens[tree.served, jnp.minimum(leaver, none - 1)])
    told = wanted & jnp.any(todo.told)
    loads = wanted & ~told & todo.loads
    offers = wanted & ~told & ~loads & jnp.any(todo.offers)
    leaves = wanted & ~told & ~loads & ~offers & todo.closes & (under.closed < tiers.book(i, "leaving"))
    retries = leaves & ~under.again & (tiers.requests[leaver, STORED] < full)
    leaves_now = leaves & ~retries
    ends = wanted & ~told & ~loads & ~offers & ~leaves  # all of those that have left are dealt with
    of_piece = pieces[piece]
    kind = jnp.where(of_piece[STORES] > 0, Task.STORED.value, Task.LOADED.value)
    task = jnp.where(
        told,
        kind,
        jnp.where(
            loads,
            Task.LOAD.value,
            jnp.where(offers | retries, Task.COUNT.value, jnp.where(leaves_now, Task.LEAVE.value, Task.NONE.value)),
        ),
    )
    request = jnp.where(
        told, of_piece[REQUEST], jnp.where(loads, todo.load_request, jnp.where(offers, todo.request[slot], jnp.where(leaves, leaver, none)))
    )
    stored = tiers.requests[request, STORED]
    seen_end = jnp.max(tiers.requests[request, SEEN + 1 :: 2])
    begin = jnp.where(told, of_piece[BEGIN], jnp.where(loads, todo.load_begin, jnp.where(leaves_now, 0, stored)))
    end = jnp.where(
        told,
        of_piece[UNTIL],
        jnp.where(loads, todo.load_end, jnp.where(offers, todo.until[slot], jnp.where(retries, full, seen_end))),
    )
    number = jnp.where(told, of_piece[NUMBER], tiers.book(i, "copy") + 1)
    zero = jnp.zeros((), jnp.int32)
    first = tiers.nodes[i, tree.place(tree.path(request), 0).node]
    fetched = Under(
        task=task.astype(jnp.int32),
        request=request,
        number=number,
        piece=piece,
        begin=begin,
        end=end,
        at=begin,
        depth=zero,
        run=first,
        left=zero,
        anchor=jnp.where(leaves_now, 0, tiers.requests[request, MARKED]),
        missing=zero,
        granted=jnp.ones((), bool),
        closed=under.closed + leaves_now.astype(jnp.int32),
        again=jnp.where(leaves, retries, under.again),
    )
    fetched = fetched._replace(task=jnp.where(wanted, fetched.task, Task.NONE.value).astype(jnp.int32))
    numbers = jnp.arange(todo.told.shape[0], dtype=jnp.int32)
    slots = jnp.arange(todo.offers.shape[0], dtype=jnp.int32)
    left = todo._replace(
        told=todo.told & ~(told & (numbers == piece)), loads=todo.loads & ~loads, offers=todo.offers & ~(offers & (slots == slot))
    )
    return fetched, left, {"turn": leaves_now, "leaving": jnp.where(ends, -tiers.book(i, "leaving"), 0)}


def _step(tree: RankTree, tiers: TierTable, under: Under, facts: Facts, going: Array, counts: dict[str, Array]) -> tuple[TierTable, Under]:
    """The tiers and the task after one step of it, if it is going on; `counts` is added to the books as well."""
    i, at, c = tree.rank, under.at, under.run
    is_ = {x: going & (under.task == x.value) for x in Task}
    count, store, load, leave, evict = (is_[x] for x in (Task.COUNT, Task.STORE, Task.LOAD, Task.LEAVE, Task.EVICT))
    walks = going & ~evict & ~is_[Task.UNMARK]
    path = tree.path(under.request)
    place, following = tree.place(path, under.depth), tree.place(path, under.depth + 1)
    row = tiers.requests[under.request]
    mark, mine, low, high = row[MARKED], row[TURN_OF], row[SEEN::2], row[SEEN + 1 :: 2]
    (node, first, end, use, copy, turn, prev, after, left, right), books = together(
        (tiers.run(i, c, NODE, FIRST, END, USE, COPY, TURN, PREV, NEXT, LEFT, RIGHT), tuple(tiers.books[i]))
    )
    book = dict(zip(BOOKS, books, strict=True))
    anchor_prev, anchor_next, tail, head = together((*tiers.run(i, under.anchor, PREV, NEXT), *tiers.run(i, 0, PREV, NEXT)))
    there_turn, there_first = together(tiers.run(i, anchor_next, TURN, FIRST))

    # Where the walk is: beyond its end, beyond its prefix node, before a run that it has passed, in a gap, or in a run.
    done = walks & (at >= under.end)
    leaves_node = walks & ~done & (at >= place.end)
    passes = walks & ~done & ~leaves_node & (c > 0) & (end <= at)
    here = walks & ~done & ~leaves_node & ~passes
    gap = here & ((c == 0) | (first > at))
    over = here & ~gap
    seen = jnp.any((low <= at) & (at < high))
    bounds = jnp.minimum(jnp.min(jnp.where(low > at, low, INT32_MAX)), jnp.min(jnp.where(high > at, high, INT32_MAX)))
    limit = jnp.minimum(jnp.minimum(under.end, place.end), jnp.where(store | load | leave, bounds, INT32_MAX))
    ready = use >= 0
    acts = over & jnp.where(
        store,
        use >= OFFERED,
        jnp.where(
            count | load, ready, jnp.where(leave, seen, jnp.where(is_[Task.LOADED], use > 0, (use == WRITTEN) & (copy == under.number)))
        ),
    )
    records = ((store & (gap | acts)) | (load & acts)) & ~seen
    marks = records & (mark == 0)
    cuts = acts & ~marks & ((first < at) | (end > limit))
    cut_at = jnp.where(first < at, at, limit)
    inserts = gap & store & under.granted & ~marks
    moves = acts & ~marks & ~cuts & (leave | ((store | load) & ~seen & (turn < mine)))
    strolls = (inserts | (moves & ~leave)) & (there_turn == mine) & (anchor_next != c) & (there_first > at) & (anchor_next > 0)
    inserts, moves = inserts & ~strolls, moves & ~strolls
    act = acts & ~marks & ~cuts & ~strolls
    walked_gap = gap & ~marks & ~strolls
    to = jnp.where(gap, jnp.minimum(limit, jnp.where(c > 0, first, INT32_MAX)), jnp.minimum(end, limit))
    size = jnp.where(evict, end - first, to - at)

    # Evictions.
    short_of = under.missing - (facts.capacity - book["used"])
    takes = evict & (short_of > 0) & (use == 0) & (c > 0)
    taken = jnp.where(takes, jnp.minimum(size, short_of), 0)
    gone = takes & (taken == size)
    removed = gone | is_[Task.UNMARK]

    # Rows.
    makes = cuts | inserts | marks
    new = jnp.where(book["spare"] > 0, book["spare"], book["fresh"])
    spare_after = tiers.runs[i, book["spare"], NEXT]
    x = jnp.where(marks, tail, jnp.where(leave, anchor_prev, under.anchor))
    y = jnp.where(marks, 0, jnp.where(leave, under.anchor, anchor_next))
    relinks = moves & (jnp.where(leave, x, y) != c)
    of_node = jnp.where(cuts, left, under.left)
    turn_now = jnp.where(leave, book["turn"], mine)
    new_use = jnp.where(
        count, use + OFFERED, jnp.where(store, use - OFFERED, jnp.where(load, use + 1, jnp.where(is_[Task.LOADED], use - 1, 0)))
    )
    new_use = jnp.where(leave, use, new_use)
    unlinks = relinks | removed
    in_node = makes & ~marks
    out_node = gone & (left > 0)
    tiers = tiers.with_runs(
        i,
        [
            (new, NODE, jnp.where(cuts, node, jnp.where(marks, MARK, place.node)), makes),
            (new, FIRST, jnp.where(cuts, first, jnp.where(marks, 0, at)), makes),
            (new, END, jnp.where(cuts, cut_at, jnp.where(marks, 0, to)), makes),
            (new, USE, jnp.where(cuts, use, WRITTEN), makes),
            (new, COPY, jnp.where(cuts, copy, jnp.where(marks, 0, under.number)), makes),
            (new, TURN, jnp.where(cuts, turn, jnp.where(marks, book["turn"] + 1, mine)), makes),
            (new, PREV, jnp.where(cuts, c, x), makes),
            (new, NEXT, jnp.where(cuts, after, y), makes),
            (new, LEFT, jnp.where(marks, 0, of_node), makes),
            (new, RIGHT, jnp.where(marks, 0, c), makes),
            (jnp.where(cuts, c, x), NEXT, new, makes),
            (jnp.where(cuts, after, y), PREV, new, makes),
            (jnp.where(gone, left, of_node), RIGHT, jnp.where(gone, right, new), (in_node & (of_node > 0)) | out_node),
            (jnp.where(gone, right, c), LEFT, jnp.where(gone, left, new), (in_node & (c > 0)) | (gone & (right > 0))),
            (c, FIRST, cut_at, cuts),
            (c, END, end - taken, takes & ~gone),
            (prev, NEXT, after, unlinks),
            (after, PREV, prev, unlinks),
            (x, NEXT, c, relinks),
            (y, PREV, c, relinks),
            (c, PREV, x, relinks),
            (c, NEXT, jnp.where(removed, book["spare"], y), relinks | removed),
            (c, TURN, turn_now, moves),
            (c, USE, new_use, act),
        ],
    )
    heads = (in_node & (of_node == 0)) | (gone & (left == 0))
    nodes = tiers.nodes.at[i, jnp.where(heads, jnp.where(gone, node, place.node), tiers.nodes.shape[1])].set(
        jnp.where(gone, right, new), mode="drop"
    )

    # The request.
    adds = (store & (walked_gap | act)) | (load & act)
    low, high, lacks = _with_span(low, high, at, to, adds)
    ends_task = done | is_[Task.UNMARK]
    forgets = (done & leave & (mark == 0)) | is_[Task.UNMARK]
    offered = done & store & under.granted
    new_row = row.at[STORED].set(jnp.where(offered | (done & load), under.end, row[STORED]))
    new_row = new_row.at[MARKED].set(jnp.where(marks, new, jnp.where(forgets, 0, mark)))
    new_row = new_row.at[TURN_OF].set(jnp.where(marks, book["turn"] + 1, mine))
    freed = done & (is_[Task.STORED] | is_[Task.LOADED])
    gets = inserts | (done & load)
    new_row = new_row.at[PIECES].add(gets.astype(jnp.int32) - freed.astype(jnp.int32))
    new_row = new_row.at[SEEN::2].set(jnp.where(forgets, 0, low)).at[SEEN + 1 :: 2].set(jnp.where(forgets, 0, high))
    none = tiers.requests.shape[0] - 1
    requests = tiers.requests.at[jnp.where(going, under.request, none)].set(new_row)

    # Its copies.
    pieces = tiers.pieces[i]
    vacant = pieces[:, REQUEST] == none
    vacancy = jnp.argmax(vacant).astype(jnp.int32)
    of_store = inserts.astype(jnp.int32)
    piece = jnp.stack(
        [under.request, jnp.where(inserts, at, under.begin), jnp.where(inserts, to, under.end), of_store, under.number, -of_store]
    )
    piece = jnp.where(freed, jnp.array([none, 0, 0, 0, 0, 0], jnp.int32), piece)
    writes_piece = gets | freed
    at_piece = jnp.where(writes_piece, jnp.where(freed, under.piece, vacancy), pieces.shape[0])
    tiers = dataclasses.replace(tiers, nodes=nodes, requests=requests, pieces=tiers.pieces.at[i, at_piece].set(piece, mode="drop"))
    landed_s = tiers.landed_s.at[i, at_piece].set(jnp.inf, mode="drop")
    tiers = dataclasses.replace(tiers, landed_s=landed_s)

    # The books.
    missing = under.missing + jnp.where(gap & count, size, 0)
    counted = done & count
    lack = missing - (facts.capacity - book["used"])
    refused = counted & (missing > 0) & (lack > book["free_to_go"])
    makes_room = counted & ~refused & (missing > 0) & (lack > 0)
    is_spare = book["spare"] > 0
    was_idle, is_idle = act & (use == 0), act & (new_use == 0)
    tiers = tiers.added(
        i,
        spare=jnp.where(makes & is_spare, spare_after - book["spare"], jnp.where(removed, c - book["spare"], 0)),
        fresh=makes & ~is_spare,
        used=jnp.where(inserts, size, 0) - taken,
        free_to_go=jnp.where(is_idle, size, 0) - jnp.where(was_idle, size, 0) - taken,
        turn=marks.astype(jnp.int32) + counts["turn"].astype(jnp.int32),
        leaving=counts["leaving"],
        copy=(offered & (under.missing > 0)) | (done & load),
        evicted=taken,
        stored=jnp.where(inserts, size, 0),
        loaded=jnp.where(load & act, size, 0),
        failed=refused,
        short=(makes & (new >= tiers.runs.shape[1])) | (gets & ~jnp.any(vacant)) | (adds & lacks) | (evict & (c == 0) & (short_of > 0)),
    )

    # Where it goes on.
    room_made = evict & (short_of - taken <= 0)
    restarts = (counted & ~makes_room) | room_made
    to_unmark = done & leave & (mark > 0)
    root = tree.place(path, 0).node
    task = jnp.where(makes_room, Task.EVICT.value, jnp.where(restarts, Task.STORE.value, under.task))
    task = jnp.where(to_unmark, Task.UNMARK.value, jnp.where(ends_task & ~count, Task.NONE.value, task))
    moved_on = walked_gap | act | (over & ~acts)
    run = jnp.where(leaves_node, tiers.nodes[i, following.node], jnp.where(passes, right, jnp.where(evict, after, c)))
    run = jnp.where(cuts & (cut_at != at), new, run)
    run = jnp.where(to_unmark, mark, jnp.where(makes_room, head, jnp.where(restarts, tiers.nodes[i, root], run)))
    before = jnp.where(leaves_node | restarts, 0, jnp.where(passes, c, jnp.where(inserts | (cuts & (cut_at == at)), new, under.left)))
    at = jnp.where(restarts, under.begin, jnp.where(moved_on, to, at))
    anchor = jnp.where(marks, new, jnp.where(strolls, anchor_next, jnp.where(act & leave, c, under.anchor)))
    anchor = jnp.where((inserts | act) & (store | load), mark, anchor)
    going_on = under._replace(
        task=task.astype(jnp.int32),
        at=at,
        depth=jnp.where(restarts, 0, under.depth + leaves_node.astype(jnp.int32)),
        run=run,
        left=before,
        anchor=anchor,
        missing=missing,
        granted=jnp.where(counted, ~refused, under.granted),
    )
    return tiers, select(going, going_on, under)


def _with_span(low: Array, high: Array, begin: Array, end: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """Bounds of disjoint spans (0 of empty ones) with one more united with them, if that is wanted; and whether there is no room for it."""
    used = high > low
    meets = used & (low <= end) & (high >= begin) & wanted
    begin = jnp.minimum(begin, jnp.min(jnp.where(meets, low, INT32_MAX)))
    end = jnp.maximum(end, jnp.max(jnp.where(meets, high, 0)))
    kept = used & ~meets
    at = jnp.argmin(kept).astype(jnp.int32)
    here = (jnp.arange(low.shape[0], dtype=jnp.int32) == at) & wanted
    low, high = (jnp.where(here, x, jnp.where(kept, old, 0)) for x, old in ((begin, low), (end, high)))
    return low, high, jnp.all(kept)
