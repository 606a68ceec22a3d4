"""A request comes to hold blocks that it has found in the prefix cache: vLLM's `touch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.block_pool import (
    BEFORE,
    BEGIN,
    END,
    FIRST,
    NEXT,
    NODE,
    OLDER,
    OLDEST,
    PREV,
    REF,
    RUN,
    UP,
    YOUNGER,
    BlockPool,
)
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.kv.lookup import Walk, after_piece, begin_walk, piece_of
from simjax.engine.kv.prefix_tree import Path, RankTree

if TYPE_CHECKING:
    from jaxtyping import Int32

_Touching = tuple[BlockPool, Walk, Array]
_Splitting = tuple[BlockPool, Array, Array]


def touch(tree: RankTree, pool: BlockPool, request: Int32[Array, ""], found: Int32[Array, ""]) -> tuple[BlockPool, HeldBlocks]:
    """Let a request that holds nothing hold the leading blocks of its content that a lookup has found; they leave the free queue."""
    path = tree.path(request)
    zero = jnp.zeros((), jnp.int32)

    def needed(state: _Touching, tree: RankTree, path: Path, found: Array) -> Array:
        return state[1].goes_on(found) & state[0].has_rows(tree.rank)

    def body(state: _Touching, tree: RankTree, path: Path, found: Array) -> _Touching:
        pool, walk, last = state
        i, goes_on = tree.rank, walk.goes_on(found)
        first, end, younger = together(pool.run(i, walk.run, FIRST, END, YOUNGER))
        piece = piece_of(walk, found, first, end)
        some = goes_on & (piece.end > piece.begin)
        pool, run = _split(pool, i, walk.run, jnp.where(some, piece.begin, first), jnp.where(some, piece.end, end))
        pool = pool.watching(i, run, piece.begin, piece.end, some)
        new, (ref, before, following) = together((pool.new_hold(i), pool.run(i, run, REF, PREV, NEXT)))
        was_free, size = some & (ref == 0), jnp.where(some, piece.end - piece.begin, 0)
        pool = pool.with_rows(
            i,
            runs=[(run, REF, ref + 1, some), (before, NEXT, following, was_free), (following, PREV, before, was_free)],
            holds=[(new.row, RUN, run, some), (new.row, BEGIN, piece.begin, some), (new.row, UP, last, some)],
        )
        freed = jnp.where(was_free, size, 0)
        pool = pool.added(i, **new.taken("hold", some), num_held=freed, num_free=-freed, short=some & new.missing)
        after = select(goes_on, after_piece(tree, pool.nodes, path, walk, piece, younger), walk)
        return pool, after, jnp.where(some, new.row, last)

    start = (pool, begin_walk(tree, pool.nodes, path), zero)
    pool, walk, last = while_any(needed, body, start, tree, path, found)
    return pool, HeldBlocks(found, last, walk.place.depth, tree.reach(path), found * tree.block_size, zero)


def _split(pool: BlockPool, i: Array | int, run: Array, begin: Array, end: Array) -> tuple[BlockPool, Array]:
    """Split a run such that blocks [begin, end) of it are one; returns that one."""

    def needed(state: _Splitting, i: Array, begin: Array, end: Array) -> Array:
        pool, run, cut = state
        first, last = pool.run(i, run, FIRST, END)
        return cut & ((first < begin) | (end < last)) & pool.has_rows(i)

    def body(state: _Splitting, i: Array, begin: Array, end: Array) -> _Splitting:
        pool, run, cut = state
        row, (last, node, first, ref, following, older, before) = together(
            (pool.new_run(i), pool.run(i, run, END, NODE, FIRST, REF, NEXT, OLDER, BEFORE))
        )
        new = row.row
        at_begin = first < begin
        going = cut & (at_begin | (end < last))
        at = jnp.where(at_begin, begin, end)
        free = going & (ref == 0)
        left = pool.watched.copied(pool, i, run, new, going)
        pool = pool.with_rows(
            i,
            runs=[
                (new, NODE, node, going),
                (new, FIRST, first, going),
                (new, END, at, going),
                (new, REF, ref, going),
                (new, PREV, run, going),
                (new, NEXT, following, going),
                (new, OLDER, older, going),
                (new, YOUNGER, run, going),
                (new, BEFORE, before, going),
                (run, FIRST, at, going),
                (run, OLDER, new, going),
                (run, BEFORE, new, going),
                (run, NEXT, new, free),
                (following, PREV, new, free),
                (older, YOUNGER, new, going & (older > 0)),
                *left,
            ],
            nodes=[(node, OLDEST, new, going & (older == 0))],
        )
        pool = pool.added(i, **row.taken("run", going), short=going & row.missing)
        return pool, jnp.where(going & ~at_begin, new, run), cut & at_begin

    # After the cut at the end the run that is wanted is the new one, which ends there.
    pool, run, _ = while_any(needed, body, (pool, run, jnp.ones((), bool)), jnp.asarray(i, jnp.int32), begin, end)
    return pool, run
