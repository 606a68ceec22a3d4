"""What a task sees of its tier in one step, and what the step does with that: `see`, then `decide`."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.together import together
from simjax.engine.kv.prefix_tree import Place, RankTree
from simjax.engine.tiers.table import (
    BOOKS,
    COPY,
    END,
    FIRST,
    LEFT,
    MARKED,
    NEXT,
    NODE,
    OFFERED,
    PREV,
    RIGHT,
    SEEN,
    TURN,
    TURN_OF,
    USE,
    WRITTEN,
    TierTable,
)
from simjax.engine.tiers.task import Facts, Task, Under


class Run(NamedTuple):
    """The columns of a run, each int32[]."""

    node: Array
    first: Array
    end: Array
    use: Array
    copy: Array
    turn: Array
    prev: Array
    after: Array
    left: Array
    right: Array


class Sight(NamedTuple):
    """What the task under way reads.

    Attributes:
        count, evict, store, load, stored, loaded, leave, unmark: whether the task is that one, and goes on; bool[].
        place, following: the prefix node of the walk, and the next one on its path.
        row: of the request, int32[Y]; `low` and `high` are the bounds of what it has used.
        run: the run that the task looks at.
        book: the numbers of the rank, by name.
        anchor_prev, anchor_next: neighbours of the anchor in the order of eviction; `next_turn` and `next_first` are of the latter.
        tail, head: runs that would be evicted last and first.
        spare_after: the row behind the first of the spare ones.
    """

    count: Array
    evict: Array
    store: Array
    load: Array
    stored: Array
    loaded: Array
    leave: Array
    unmark: Array
    place: Place
    following: Place
    row: Array
    low: Array
    high: Array
    run: Run
    book: dict[str, Array]
    anchor_prev: Array
    anchor_next: Array
    next_turn: Array
    next_first: Array
    tail: Array
    head: Array
    spare_after: Array

    @property
    def mark(self) -> Array:
        """Row of the request's mark, 0 for none."""
        return self.row[MARKED]

    @property
    def mine(self) -> Array:
        """Number of the request's use."""
        return self.row[TURN_OF]


class Deed(NamedTuple):
    """What the step does, int32[] or bool[].

    Attributes:
        done: the walk is at its end, or will be with this step.
        leaves_node, passes: it goes to the next prefix node, or past a run that lies behind.
        gap: there is no run where it is.
        walked_gap, act: it goes on behind the gap, or behind the part of the run that it has changed.
        moved_on: it goes on behind one of these, or a run that is none of its business.
        marks, cuts, cut_at: it puts the request's mark into the order of eviction first; or cuts the run in two there.
        strolls: it looks for the place of its next run in the order of eviction first.
        inserts, moves: it makes a run for the gap, or puts the run elsewhere into the order of eviction.
        to, size: end of the blocks in question, and their number.
        short_of, takes, taken, gone: blocks to evict; whether some of the run are; how many; whether all of it is.
        removes: a run, or the mark, leaves the tables.
        makes, new: a row is taken; which.
        new_use: the run's use after it.
    """

    done: Array
    leaves_node: Array
    passes: Array
    gap: Array
    walked_gap: Array
    act: Array
    moved_on: Array
    marks: Array
    cuts: Array
    cut_at: Array
    strolls: Array
    inserts: Array
    moves: Array
    to: Array
    size: Array
    short_of: Array
    takes: Array
    taken: Array
    gone: Array
    removes: Array
    makes: Array
    new: Array
    new_use: Array


def see(tree: RankTree, tiers: TierTable, under: Under, going: Array, turns: Array) -> Sight:
    """What the task reads; `going`: whether there is one; `turns`: what its beginning adds to the number of the last use."""
    i = tree.rank
    tasks = (Task.COUNT, Task.EVICT, Task.STORE, Task.LOAD, Task.STORED, Task.LOADED, Task.LEAVE, Task.UNMARK)
    path = tree.path(under.request)
    row = tiers.requests[under.request]
    columns = (NODE, FIRST, END, USE, COPY, TURN, PREV, NEXT, LEFT, RIGHT)
    run, books = together((Run(*tiers.run(i, under.run, *columns)), tuple(tiers.books[i])))
    anchor_prev, anchor_next, tail, head = together((*tiers.run(i, under.anchor, PREV, NEXT), *tiers.run(i, 0, PREV, NEXT)))
    book: dict[str, Array] = dict(zip(BOOKS, books, strict=True))
    book["turn"] += turns.astype(jnp.int32)
    return Sight(
        *(going & (under.task == task.value) for task in tasks),
        place=tree.place(path, under.depth),
        following=tree.place(path, under.depth + 1),
        row=row,
        low=row[SEEN::2],
        high=row[SEEN + 1 :: 2],
        run=run,
        book=book,
        anchor_prev=anchor_prev,
        anchor_next=anchor_next,
        **dict(zip(("next_turn", "next_first"), together(tiers.run(i, anchor_next, TURN, FIRST)), strict=True)),
        tail=tail,
        head=head,
        spare_after=tiers.runs[i, book["spare"], NEXT],
    )


def decide(s: Sight, under: Under, facts: Facts, going: Array) -> Deed:
    """What the step does."""
    at, run = under.at, s.run
    walks = going & ~s.evict & ~s.unmark
    changes = s.store | s.load

    # Where the walk is: beyond its end, beyond its prefix node, before a run that it has passed, in a gap, or in a run.
    done = walks & (at >= under.end)
    leaves_node = walks & ~done & (at >= s.place.end)
    passes = walks & ~done & ~leaves_node & (under.run > 0) & (run.end <= at)
    here = walks & ~done & ~leaves_node & ~passes
    gap = here & ((under.run == 0) | (run.first > at))
    over = here & ~gap

    # What it wants there, up to the next bound of what the request has used.
    seen = jnp.any((s.low <= at) & (at < s.high))
    bounds = jnp.minimum(jnp.min(jnp.where(s.low > at, s.low, INT32_MAX)), jnp.min(jnp.where(s.high > at, s.high, INT32_MAX)))
    limit = jnp.minimum(jnp.minimum(under.end, s.place.end), jnp.where(changes | s.leave, bounds, INT32_MAX))
    acts = over & _concerns(s, under, seen)
    marks = ((s.store & (gap | acts)) | (s.load & acts)) & ~seen & (s.mark == 0)
    cuts = acts & ~marks & ((run.first < at) | (run.end > limit))
    inserts = gap & s.store & under.granted & ~marks
    moves = acts & ~marks & ~cuts & (s.leave | (changes & ~seen & (run.turn < s.mine)))
    behind_own = (s.next_turn == s.mine) & (s.next_first > at) & (s.anchor_next > 0)
    strolls = (inserts | (moves & ~s.leave)) & behind_own
    inserts, moves = inserts & ~strolls, moves & ~strolls
    to = jnp.where(gap, jnp.minimum(limit, jnp.where(under.run > 0, run.first, INT32_MAX)), jnp.minimum(run.end, limit))
    size = jnp.where(s.evict, run.end - run.first, to - at)
    walked_gap, act = gap & ~marks & ~strolls, acts & ~marks & ~cuts & ~strolls
    moved_on = walked_gap | act | (over & ~acts)

    # Evictions.
    short_of = under.missing - (facts.capacity - s.book["used"])
    takes = s.evict & (short_of > 0) & (run.use == 0) & (under.run > 0)
    taken = jnp.where(takes, jnp.minimum(size, short_of), 0)
    gone = takes & (taken == size)
    return Deed(
        done=done | (moved_on & (to >= under.end)),
        leaves_node=leaves_node,
        passes=passes,
        gap=gap,
        walked_gap=walked_gap,
        act=act,
        moved_on=moved_on,
        marks=marks,
        cuts=cuts,
        cut_at=jnp.where(run.first < at, at, limit),
        strolls=strolls,
        inserts=inserts,
        moves=moves,
        to=to,
        size=size,
        short_of=short_of,
        takes=takes,
        taken=taken,
        gone=gone,
        removes=gone | s.unmark,
        makes=cuts | inserts | marks,
        new=jnp.where(s.book["spare"] > 0, s.book["spare"], s.book["fresh"]),
        new_use=_new_use(s),
    )


def _concerns(s: Sight, under: Under, seen: Array) -> Array:
    """Whether the run is one that the task changes; `seen`: the request has used its block at the place of the walk."""
    use, ready = s.run.use, s.run.use >= 0
    read = jnp.where(s.loaded, use > 0, (use == WRITTEN) & (s.run.copy == under.number))
    return jnp.where(s.store, use >= OFFERED, jnp.where(s.count | s.load, ready, jnp.where(s.leave, seen, read)))


def _new_use(s: Sight) -> Array:
    """The run's use once the task has been there."""
    use = s.run.use
    changed = jnp.where(s.store, use - OFFERED, jnp.where(s.load, use + 1, jnp.where(s.loaded, use - 1, 0)))
    return jnp.where(s.leave, use, jnp.where(s.count, use + OFFERED, changed))
