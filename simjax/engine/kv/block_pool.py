"""vLLM's block pool with prefix caching, by runs of blocks instead of blocks.

A full block has a name, the content of the sequence up to its end; a request that comes with that content uses the block. Which physical
block it is says nothing about a schedule. What counts is the order of vLLM's queue of free blocks, from whose head new blocks are taken
and so lose their names, and, of several copies of a block, which is the oldest, for that one is found. Both are kept here exactly, for runs
of blocks of one prefix node (`simjax.workload.contents.prefixes`) that got their names from one request and that the same requests hold.

Three tables, of which a tick reads and writes single rows, so that its time does not depend on their sizes:

- a row for each run, in two doubly linked lists: the free queue, if no request holds the run, and the copies in its prefix node, by age.
  A request frees its blocks last first, and so the blocks of a free run are taken from its end. If a request touches a part of a run, it is
  split; `BEFORE` leads from the later part, which keeps its row, to the earlier one.
- a row for each time that a request holds a run: the run, the place where its part of it begins, and the row of the run before it;
- for each prefix node its oldest and its youngest run.

Blocks that no other request could ever want (the last, unshared part of a content) have no run while their request holds them, and neither
have those that are not full; in the free queue both are runs, the latter without a prefix node.

Row 0 of the runs is the ends of the free queue. What a loop reads goes through `together` before it writes, several entries at a time: XLA
repeats a gather in everything that uses it, some of which comes after the tables have changed, and would keep copies of them for that; it
does not repeat a reduction with several results. A rank takes 36 bytes for each of E runs, 12 for each of Z holds, 8 for each prefix node.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

NODE, FIRST, END, REF, PREV, NEXT, OLDER, YOUNGER, BEFORE, LEAVER, EARLIER = range(11)
"""Columns of a run: its prefix node (`NAMELESS` for none), bounds of its blocks in the content, requests that hold it, links; with KV
tiers also the last two requests, plus 1, that have left it and of which copies may read it, 0 for none (`Reading.left`)."""
RUN, BEGIN, UP = range(3)
"""Columns of a hold."""
OLDEST, YOUNGEST = range(2)
"""Columns of a prefix node."""
NAMELESS = -1
BOOKS = ("spare_run", "fresh_run", "spare_hold", "fresh_hold", "num_held", "num_free", "num_evicted", "short")
Write = tuple[Array | int, Array | int, Array | int, Array]


class NewRow(NamedTuple):
    """A row of a table that is not in use: the first of the spare ones, which another one follows, or one that never was in use.

    Attributes:
        row, spare, following: numbers of rows, int32[].
        missing: whether the table has none.
    """

    row: Array
    spare: Array
    following: Array
    missing: Array

    def taken(self, kind: str, wanted: Array) -> dict[str, Array]:
        """What changes in the books when the row, of a "run" or a "hold", is taken, if that is wanted."""
        is_spare = self.spare > 0
        return {
            f"spare_{kind}": jnp.where(wanted & is_spare, self.following - self.spare, 0),
            f"fresh_{kind}": (wanted & ~is_spare).astype(jnp.int32),
        }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Watched:
    """Blocks that the step being formed has taken and that copies to a KV tier may still read.

    Attributes:
        pieces: the request that has left them, and their bounds in its content.
        count: number of the pieces.
    """

    pieces: Int32[Array, "N Q 3"]
    count: Int32[Array, " N"]

    @staticmethod
    def none_yet(ranks: int, room: int) -> Watched:
        """No blocks."""
        return Watched(jnp.zeros((ranks, room, 3), jnp.int32), jnp.zeros((ranks,), jnp.int32))

    def added(self, i: Array | int, leaver: Array, begin: Array, end: Array, wanted: Array) -> Watched:
        """The same with blocks of a run, if that is wanted and its column says that a request has left it."""
        some = wanted & (leaver > 0) & (end > begin)
        at = jnp.where(some, self.count[i], self.pieces.shape[1])
        pieces = self.pieces.at[i, at].set(jnp.stack([leaver - 1, begin, end]), mode="drop")
        return Watched(pieces, self.count.at[i].add(some.astype(jnp.int32)))

    def took(self, pool: BlockPool, i: Array | int, row: Array, bounds: tuple[Array, Array], wanted: Array) -> BlockPool:
        """The pool once blocks of a run were taken, by the time that `wanted` says so, in case copies read them."""
        last, earlier = pool.runs[i, row, LEAVER], pool.runs[i, row, EARLIER]
        after = self.added(i, last, *bounds, wanted).added(i, earlier, *bounds, wanted)
        short = after.count[i] > after.pieces.shape[1]
        return dataclasses.replace(pool, watched=after).added(i, short=short)

    def forgotten(self, i: Array | int, wanted: Array) -> Watched:
        """No blocks of a rank, if that is wanted: its step is formed."""
        return dataclasses.replace(self, count=self.count.at[i].set(jnp.where(wanted, 0, self.count[i])))

    def leavers(self, row: Array, last: Array, earlier: Array, wanted: Array) -> list[Write]:
        """The writes of a run's columns `LEAVER` and `EARLIER`."""
        return [(row, LEAVER, last, wanted), (row, EARLIER, earlier, wanted)]

    def copied(self, pool: BlockPool, i: Array | int, run: Array, new: Array, wanted: Array) -> list[Write]:
        """The writes by which a new run has been left by those that have left another one."""
        return self.leavers(new, pool.runs[i, run, LEAVER], pool.runs[i, run, EARLIER], wanted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoWatched:
    """There are no tiers, and so no copies."""

    def took(self, pool: BlockPool, i: Array | int, row: Array, bounds: tuple[Array, Array], wanted: Array) -> BlockPool:
        """Nothing is kept."""
        return pool

    def leavers(self, row: Array, last: Array, earlier: Array, wanted: Array) -> list[Write]:
        """There are no such columns."""
        return []

    def copied(self, pool: BlockPool, i: Array | int, run: Array, new: Array, wanted: Array) -> list[Write]:
        """There are no such columns."""
        return []


class Reading(NamedTuple):
    """Copies to the KV tier of a rank that may read blocks of which a request leaves some.

    Attributes:
        request: which leaves, int32[].
        stored, full: bounds of the blocks that it may still offer to the tier, with its last offer.
        of, begin, until: requests of the pieces of stores that are under way, -1 for none, and bounds of their blocks, int32[K].
        leaving: requests that have left and may still make their last offer, -1 for none, int32[A].
    """

    request: Array
    stored: Array
    full: Array
    of: Array
    begin: Array
    until: Array
    leaving: Array

    def left(self, last: Array, earlier: Array, begin: Array, end: Array) -> tuple[Array, Array, Array]:
        """The columns `LEAVER` and `EARLIER` of a run of blocks [begin, end) once the request has left it, and whether it counts there.

        Requests of which no copy reads the run any more are forgotten; where three would count, the first is forgotten too. A tier writes
        a block once at a time, so that several count only where their copies write unlike parts of the run.
        """
        mine = self.request + 1
        counts = self._reads(self.request, begin, end) | ((end > self.stored) & (begin < self.full))
        last, earlier = (jnp.where(self._may_read(x, begin, end), x, 0) for x in (last, earlier))
        before = jnp.where((last > 0) & (last != mine), last, earlier)
        return jnp.where(counts, mine, last), jnp.where(counts, before, earlier), counts

    def _reads(self, request: Array, begin: Array, end: Array) -> Array:
        return jnp.any((self.of == request) & (self.begin < end) & (self.until > begin))

    def _may_read(self, leaver: Array, begin: Array, end: Array) -> Array:
        return (leaver > 0) & (self._reads(leaver - 1, begin, end) | jnp.any(self.leaving == leaver - 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockPool:
    """Contents of every rank's KV cache.

    Attributes:
        runs, holds, nodes: the tables; B columns of a run, of which the last two are for KV tiers only.
        books: numbers of a rank, in the order of `BOOKS`: first of the rows that were used and are not any more, and first row never used
            (of runs, of holds); blocks in runs that requests hold; blocks in the free queue that have been in use before; named ones that
            were taken from it; whether a table was too small.
        watched: blocks that were taken from copies to KV tiers.
    """

    runs: Int32[Array, "N E B"]
    holds: Int32[Array, "N Z 3"]
    nodes: Int32[Array, "N M 2"]
    books: Int32[Array, "N 8"]
    watched: Watched | NoWatched

    @staticmethod
    def empty(shape: EngineShape) -> BlockPool:
        """Caches that hold nothing."""
        N = shape.ranks
        first = np.array([name.startswith("fresh") for name in BOOKS], np.int32)
        return BlockPool(
            runs=jnp.zeros((N, shape.prefix_entries, LEAVER + 2 * bool(shape.kv_tiers)), jnp.int32),
            holds=jnp.zeros((N, shape.prefix_holds, 3), jnp.int32),
            nodes=jnp.zeros((N, shape.prefix_nodes, 2), jnp.int32),
            books=jnp.broadcast_to(jnp.asarray(first), (N, len(BOOKS))),
            watched=Watched.none_yet(N, shape.tier_watched) if shape.kv_tiers else NoWatched(),
        )

    def book(self, i: Array | int, name: str) -> Int32[Array, ""]:
        """A number of a rank."""
        return self.books[i, BOOKS.index(name)]

    def has_rows(self, i: Array | int) -> Bool[Array, ""]:
        """Whether no table of the rank was too small; what it holds is worth nothing otherwise, and no loop goes on."""
        return self.book(i, "short") == 0

    def run(self, i: Array | int, row: Array | int, *columns: int) -> tuple[Array, ...]:
        """Columns of a run."""
        return tuple(self.runs[i, row, x] for x in columns)

    def hold(self, i: Array | int, row: Array | int, *columns: int) -> tuple[Array, ...]:
        """Columns of a hold."""
        return tuple(self.holds[i, row, x] for x in columns)

    def node(self, i: Array | int, row: Array | int, *columns: int) -> tuple[Array, ...]:
        """Columns of a prefix node."""
        return tuple(self.nodes[i, row, x] for x in columns)

    def with_rows(
        self, i: Array | int, runs: list[Write] | None = None, holds: list[Write] | None = None, nodes: list[Write] | None = None
    ) -> BlockPool:
        """The pool with some entries changed: (row, column, value, whether at all), no entry twice."""
        tables = {"runs": runs, "holds": holds, "nodes": nodes}
        changed = {name: written(getattr(self, name), i, writes) for name, writes in tables.items() if writes}
        return dataclasses.replace(self, **changed)

    def added(self, i: Array | int, **changes: Array | int) -> BlockPool:
        """The pool with something added to numbers of the rank."""
        change = jnp.stack([jnp.asarray(changes.get(name, 0), jnp.int32) for name in BOOKS])
        return dataclasses.replace(self, books=self.books.at[i].add(change))

    def watching(self, i: Array | int, row: Array, begin: Array, end: Array, wanted: Array) -> BlockPool:
        """The pool once blocks of a run were taken, by the time that `wanted` says so, in case copies read them."""
        return self.watched.took(self, i, row, (begin, end), wanted)

    def new_run(self, i: Array | int) -> NewRow:
        """A row for a run."""
        spare, fresh = self.book(i, "spare_run"), self.book(i, "fresh_run")
        row = jnp.where(spare > 0, spare, fresh)
        return NewRow(row, spare, self.runs[i, spare, NEXT], row >= self.runs.shape[1])

    def new_hold(self, i: Array | int) -> NewRow:
        """A row for a hold."""
        spare, fresh = self.book(i, "spare_hold"), self.book(i, "fresh_hold")
        row = jnp.where(spare > 0, spare, fresh)
        return NewRow(row, spare, self.holds[i, spare, UP], row >= self.holds.shape[1])

    def evict(self, i: Array | int, room: Int32[Array, ""]) -> BlockPool:
        """Take blocks from the head of the free queue until it holds no more than `room` that have been in use before."""

        def needed(pool: BlockPool, i: Array, room: Array) -> Array:
            return (pool.book(i, "num_free") > room) & pool.has_rows(i)

        def body(pool: BlockPool, i: Array, room: Array) -> BlockPool:
            at, free, spare = together((*pool.run(i, 0, NEXT), pool.book(i, "num_free"), pool.book(i, "spare_run")))
            node, first, end, following, older, younger = together(pool.run(i, at, NODE, FIRST, END, NEXT, OLDER, YOUNGER))
            over = free - room
            some = (over > 0) & (at > 0)
            taken = jnp.where(some, jnp.minimum(over, end - first), 0)
            gone = some & (taken == end - first)
            named = gone & (node != NAMELESS)
            pool = pool.watching(i, at, end - taken, end, some)
            after = pool.with_rows(
                i,
                runs=[
                    (at, END, end - taken, some),
                    (0, NEXT, following, gone),
                    (following, PREV, 0, gone),
                    (at, NEXT, spare, gone),
                    (older, YOUNGER, younger, named & (older > 0)),
                    (younger, OLDER, older, named & (younger > 0)),
                ],
                nodes=[(node, OLDEST, younger, named & (older == 0)), (node, YOUNGEST, older, named & (younger == 0))],
            )
            # No run is left only if the books are wrong; the loop must end nevertheless.
            lost = jnp.where((over > 0) & (at == 0), over, taken)
            return after.added(
                i, num_free=-lost, num_evicted=jnp.where(node != NAMELESS, taken, 0), spare_run=jnp.where(gone, at - spare, 0)
            )

        return while_any(needed, body, self, jnp.asarray(i, jnp.int32), room)


def written(table: Array, i: Array | int, writes: list[Write]) -> Array:
    """The table with some entries changed, in one kernel."""
    rows, columns, values = (jnp.stack([jnp.asarray(x[k], jnp.int32) for x in writes]) for k in range(3))
    wanted = jnp.stack([x[3] for x in writes])
    return table.at[i, jnp.where(wanted, rows, table.shape[1]), columns].set(values, mode="drop")
