"""Lookups in the prefix cache: the walk along a content, from one run of cached blocks to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.block_pool import END, FIRST, OLDEST, REF, YOUNGER
from simjax.engine.kv.prefix_tree import Path, Place, RankTree

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Contents(NamedTuple):
    """What a lookup reads of the KV caches: `BlockPool.runs` and `BlockPool.nodes`."""

    runs: Array
    nodes: Array


class Walk(NamedTuple):
    """A walk along a content; int32[].

    Attributes:
        found: leading blocks that are cached.
        run: the run to look at next, of those in the prefix node from the oldest on; 0 for none.
        until: block at which an older run begins, which is then preferred.
        place: prefix node.
    """

    found: Array
    run: Array
    until: Array
    place: Place

    def goes_on(self, most: Array) -> Bool[Array, ""]:
        """Whether there is something to look at, for at most `most` blocks."""
        return (self.found < most) & ((self.run > 0) | (self.found >= self.place.end))


class Piece(NamedTuple):
    """What a walk makes of a run: blocks [begin, end) of it are the next of the content, if any; where it goes on."""

    begin: Array
    end: Array
    leaves_node: Array
    restarts: Array
    until: Array


def begin_walk(tree: RankTree, nodes: Array, path: Path) -> Walk:
    """The walk before its first run."""
    place = tree.place(path, 0)
    zero = jnp.zeros((), jnp.int32)
    return Walk(zero, nodes[tree.rank, place.node, OLDEST], jnp.full((), INT32_MAX, jnp.int32), place)


def piece_of(walk: Walk, most: Array, first: Array, end: Array) -> Piece:
    """The part of the walk's run, with blocks [first, end), that a lookup of at most `most` blocks finds: of equal blocks the oldest."""
    here = (walk.run > 0) & (first <= walk.found) & (walk.found < end)
    to = jnp.minimum(jnp.minimum(end, walk.until), jnp.minimum(most, walk.place.end))
    to = jnp.where(here, to, walk.found)
    leaves_node = to >= walk.place.end
    restarts = here & (to == walk.until) & ~leaves_node
    later = jnp.where((walk.run > 0) & (first > walk.found), jnp.minimum(walk.until, first), walk.until)
    return Piece(walk.found, to, leaves_node, restarts, jnp.where(leaves_node | restarts, INT32_MAX, later))


def after_piece(tree: RankTree, nodes: Array, path: Path, walk: Walk, piece: Piece, younger: Array) -> Walk:
    """The walk beyond a run, which another one follows in its prefix node."""
    following = tree.place(path, walk.place.depth + 1)
    place = select(piece.leaves_node, following, walk.place)
    run = jnp.where(piece.leaves_node | piece.restarts, nodes[tree.rank, place.node, OLDEST], younger)
    return Walk(piece.end, run, piece.until, place)


_LookingUp = tuple[Walk, Array]


def look_up(
    tree: RankTree, contents: Contents, request: Int32[Array, ""], most: Int32[Array, ""], wanted: Array
) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
    """Leading blocks of a content that are cached, at most `most`, and those among them that no request holds."""
    path = tree.path(request)
    most = jnp.where(wanted & tree.enabled, most, 0)

    def needed(state: _LookingUp, tree: RankTree, contents: Contents, path: Path, most: Array) -> Array:
        return state[0].goes_on(most)

    def body(state: _LookingUp, tree: RankTree, contents: Contents, path: Path, most: Array) -> _LookingUp:
        walk, free = state
        goes_on = walk.goes_on(most)
        first, end, ref, younger = together(tuple(contents.runs[tree.rank, walk.run, x] for x in (FIRST, END, REF, YOUNGER)))
        piece = piece_of(walk, most, first, end)
        after = after_piece(tree, contents.nodes, path, walk, piece, younger)
        return select(goes_on, (after, free + jnp.where(ref == 0, piece.end - piece.begin, 0)), state)

    start = (begin_walk(tree, contents.nodes, path), jnp.zeros((), jnp.int32))
    walk, free = while_any(needed, body, start, tree, contents, path, most)
    return walk.found, free


def copied_if(wanted: Array, new: Contents, old: Contents) -> Contents:
    """The new contents if they are wanted (bool[]), else the old ones; the tables are copied only then."""

    def needed(state: tuple[Contents, Array], new: Contents) -> Array:
        return state[1]

    def body(state: tuple[Contents, Array], new: Contents) -> tuple[Contents, Array]:
        return select(state[1], new, state[0]), jnp.zeros_like(state[1])

    return while_any(needed, body, (old, jax.lax.stop_gradient(wanted)), new)[0]
