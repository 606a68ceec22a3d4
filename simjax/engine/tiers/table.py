"""KV tiers of the ranks: which blocks each holds, in which order they would be evicted, and who uses them.

A tier holds a block once, under its content. As in the block pool (`simjax.engine.kv.block_pool`) the tables have runs of blocks instead of
blocks: of one prefix node, next to each other, and equal in all that counts. Of a rank there are

- a row for each run, in two doubly linked lists: the order of eviction, and the runs of its prefix node from left to right. The blocks of a
  run are evicted from its end. In the order of eviction there is also a mark for each request that uses the tier: what it uses comes behind
  its mark, blocks nearer to its end before others, whatever the batches in which they come;
- a row for each piece of a copy that is under way;
- the requests that have left and whose use has not been put down yet.

And of every request the blocks that it has offered, and those that it has used. Row 0 of the runs is the ends of the order of eviction.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.kv.block_pool import Write, written
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32

NODE, FIRST, END, USE, COPY, TURN, PREV, NEXT, LEFT, RIGHT = range(10)
"""Columns of a run: prefix node (`MARK` for a mark), bounds of its blocks, its use (below), the copy that writes it, number of its use,
neighbours towards and away from eviction, neighbours in the prefix node."""
MARK = -1
WRITTEN = -1
"""Use of a run that is being written; otherwise the number of copies that read it."""
OFFERED = 1 << 20
"""Added to the use of a run while it is offered again: it is not evicted for those that are offered with it."""
REQUEST, BEGIN, UNTIL, STORES, NUMBER, SENT = range(6)
"""Columns of a piece of a copy: its request (R for none), bounds of its blocks, whether it is a store, number of the copy, whether its
copy has been handed to the link."""
STORED, MARKED, TURN_OF, PIECES, HIT_TOKENS = range(5)
"""Columns of a request: leading blocks that it has offered, row of its mark, number of its use, pieces under way, tokens that its first
admission found. Bounds of the blocks that it has used follow."""
SEEN = 5
BOOKS = ("spare", "fresh", "used", "free_to_go", "turn", "copy", "leaving", "evicted", "stored", "loaded", "failed", "short")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TierTable:
    """Tiers of every rank.

    Attributes:
        runs, nodes: the tables of runs; the first run of each prefix node.
        pieces: pieces of copies.
        landed_s: time at which the copy of each piece has ended, infinity before it is known.
        link_s: time at which the link of each direction is free: stores, loads.
        requests: of every request; the last row is not read.
        load_s: start and end of the first load of every request, infinity without.
        leaving: requests that have left, in the order in which they did.
        books: numbers of a rank, in the order of `BOOKS`: first of the rows that were used and are not any more, first row never used;
            blocks in the tier, and those of them that nothing uses; numbers of the last use and copy; requests that have left; blocks that
            were evicted, stored and loaded so far, offers for which there was no room; whether a table was too small.
        waited_s: time for which steps have waited for copies whose blocks they take.
    """

    runs: Int32[Array, "N E 10"]
    nodes: Int32[Array, "N M"]
    pieces: Int32[Array, "N K 6"]
    landed_s: Float64[Array, "N K"]
    link_s: Float64[Array, "N 2"]
    requests: Int32[Array, "R+1 Y"]
    load_s: Float64[Array, "R+1 2"]
    leaving: Int32[Array, "N A"]
    books: Int32[Array, "N 12"]
    waited_s: Float64[Array, " N"]

    @staticmethod
    def empty(shape: EngineShape) -> TierTable:
        """Tiers that hold nothing."""
        N, R = shape.ranks, shape.requests
        first = np.array([name == "fresh" for name in BOOKS], np.int32)
        no_piece = np.zeros(6, np.int32)
        no_piece[REQUEST] = R
        return TierTable(
            runs=jnp.zeros((N, shape.tier_entries, 10), jnp.int32),
            nodes=jnp.zeros((N, shape.prefix_nodes), jnp.int32),
            pieces=jnp.broadcast_to(jnp.asarray(no_piece), (N, shape.tier_copies, 6)),
            landed_s=jnp.full((N, shape.tier_copies), NEVER, jnp.float64),
            link_s=jnp.zeros((N, 2), jnp.float64),
            requests=jnp.zeros((R + 1, SEEN + 2 * shape.tier_spans), jnp.int32),
            load_s=jnp.full((R + 1, 2), NEVER, jnp.float64),
            leaving=jnp.full((N, shape.seats), R, jnp.int32),
            books=jnp.broadcast_to(jnp.asarray(first), (N, len(BOOKS))),
            waited_s=jnp.zeros((N,), jnp.float64),
        )

    def book(self, i: Array | int, name: str) -> Int32[Array, ""]:
        """A number of a rank."""
        return self.books[i, BOOKS.index(name)]

    def has_rows(self, i: Array | int) -> Array:
        """Whether no table of the rank was too small, bool[]."""
        return self.book(i, "short") == 0

    def run(self, i: Array | int, row: Array | int, *columns: int) -> tuple[Array, ...]:
        """Columns of a run."""
        return tuple(self.runs[i, row, x] for x in columns)

    def with_runs(self, i: Array | int, writes: list[Write]) -> TierTable:
        """The tiers with some entries of runs changed: (row, column, value, whether at all), no entry twice."""
        return dataclasses.replace(self, runs=written(self.runs, i, writes))

    def added(self, i: Array | int, **changes: Array | int) -> TierTable:
        """The tiers with something added to numbers of the rank."""
        change = jnp.stack([jnp.asarray(changes.get(name, 0)).astype(jnp.int32) for name in BOOKS])
        return dataclasses.replace(self, books=self.books.at[i].add(change))

    def busy(self, i: Array | int) -> Array:
        """Pieces of copies of the rank that are under way, bool[K]."""
        return self.pieces[i, :, REQUEST] < self.requests.shape[0] - 1
