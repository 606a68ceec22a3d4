"""Blocks of requests get their names, and come free: vLLM's `cache_full_blocks` and `free`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.block_pool import (
    BEFORE,
    BEGIN,
    EARLIER,
    END,
    FIRST,
    LEAVER,
    NAMELESS,
    NEXT,
    NODE,
    OLDER,
    OLDEST,
    PREV,
    REF,
    RUN,
    UP,
    YOUNGER,
    YOUNGEST,
    BlockPool,
    Reading,
)
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.kv.prefix_tree import Path, RankTree

if TYPE_CHECKING:
    from jaxtyping import Int32

    from simjax.engine.rank import Slots

_Naming = tuple[BlockPool, Array, Array, Array]
_Freeing = tuple[BlockPool, Array, Array, Array, Array]


def name(
    tree: RankTree, pool: BlockPool, slots: Slots, held: HeldBlocks, full: Int32[Array, " A"], ahead: Int32[Array, " A"]
) -> tuple[BlockPool, HeldBlocks]:
    """Give the blocks of some requests their names, as far as others may want them.

    Args:
        tree: of the rank.
        pool: blocks of all ranks.
        slots: requests of the rank.
        held: what each holds.
        full: leading blocks of each that have, or now get, their names.
        ahead: of requests that go on with equal contents, those with larger numbers name their blocks first; equal ones in the order in
            which they run.
    """
    target = jnp.minimum(full, held.reach)

    def needed(state: _Naming, tree: RankTree, slots: Slots, target: Array, ahead: Array) -> Array:
        return jnp.any(target > state[1]) & state[0].has_rows(tree.rank)

    def body(state: _Naming, tree: RankTree, slots: Slots, target: Array, ahead: Array) -> _Naming:
        pool, hashed, last, depth = state
        i = tree.rank
        pending = target > hashed
        first = pending & (ahead == jnp.max(jnp.where(pending, ahead, -1)))
        at = jnp.argmin(jnp.where(first, slots.position, INT32_MAX)).astype(jnp.int32)
        begin, wanted, hold, request, deep, going = (x[at] for x in (hashed, target, last, slots.request, depth, pending))
        path = tree.path(request)
        place = tree.place(path, deep)
        some = going & (begin < place.end)
        end = jnp.minimum(wanted, place.end)
        new_run, new_hold, (run,), (oldest, youngest) = together(
            (pool.new_run(i), pool.new_hold(i), pool.hold(i, hold, RUN), pool.node(i, place.node, OLDEST, YOUNGEST))
        )
        node, run_end, ref, younger = together(pool.run(i, run, NODE, END, REF, YOUNGER))
        extends = some & (hold > 0) & (node == place.node) & (run_end == begin) & (ref == 1) & (younger == 0)
        new, added = new_run.row, new_hold.row
        makes = some & ~extends
        pool = pool.with_rows(
            i,
            runs=[
                (run, END, end, extends),
                (new, NODE, place.node, makes),
                (new, FIRST, begin, makes),
                (new, END, end, makes),
                (new, REF, 1, makes),
                (new, OLDER, youngest, makes),
                (new, YOUNGER, 0, makes),
                (new, BEFORE, 0, makes),
                (youngest, YOUNGER, new, makes & (youngest > 0)),
                *pool.watched.leavers(new, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), makes),
            ],
            holds=[(added, RUN, new, makes), (added, BEGIN, begin, makes), (added, UP, hold, makes)],
            nodes=[(place.node, YOUNGEST, new, makes), (place.node, OLDEST, new, makes & (oldest == 0))],
        )
        books = new_run.taken("run", makes) | new_hold.taken("hold", makes)
        missing = makes & (new_run.missing | new_hold.missing)
        pool = pool.added(i, **books, num_held=jnp.where(some, end - begin, 0), short=missing)
        here = jnp.arange(hashed.shape[0], dtype=jnp.int32) == at
        leaves_node = going & (~some | (end >= place.end))
        return (
            pool,
            jnp.where(here & some, end, hashed),
            jnp.where(here & makes, added, last),
            jnp.where(here & leaves_node, depth + 1, depth),
        )

    start = (pool, held.hashed, held.last, held.depth)
    pool, hashed, last, depth = while_any(needed, body, start, tree, slots, target, ahead)
    return pool, dataclasses.replace(held, hashed=hashed, last=last, depth=depth)


def free(
    tree: RankTree,
    pool: BlockPool,
    request: Int32[Array, ""],
    held: HeldBlocks,
    named: Int32[Array, ""],
    nameless: Int32[Array, ""],
    reading: Reading | None = None,
) -> BlockPool:
    """Free the blocks of a request, the last of its sequence first: those that no other holds become free, with their names.

    Args:
        tree: of the rank.
        pool: blocks of all ranks.
        request: whose blocks they are.
        held: what it holds, with all names that others may want.
        named: its leading blocks that have names; those beyond `held.hashed` are nobody else's.
        nameless: its other blocks, 0 if they do not go to the tail of the free queue.
        reading: copies to a KV tier that may read the blocks; None where there are none.
    """
    path, zero = tree.path(request), jnp.zeros((), jnp.int32)

    def needed(state: _Freeing, tree: RankTree, path: Path, first: Array, named: Array, reading: Reading | None) -> Array:
        pool, nameless, own, hold, _ = state
        return ((nameless > 0) | own | (hold > 0)) & pool.has_rows(tree.rank)

    def body(state: _Freeing, tree: RankTree, path: Path, first: Array, named: Array, reading: Reading | None) -> _Freeing:
        pool, nameless, own, hold, run = state
        i = tree.rank
        is_nameless = nameless > 0
        is_own = ~is_nameless & own
        is_hold = ~is_nameless & ~own & (hold > 0)
        makes = is_nameless | is_own
        node = tree.place(path, path.shared).node
        new, (oldest, youngest), (run_first, run_end, ref, before), (begin, up), (tail,), spare_hold = together(
            (
                pool.new_run(i),
                pool.node(i, node, OLDEST, YOUNGEST),
                pool.run(i, run, FIRST, END, REF, BEFORE),
                pool.hold(i, hold, BEGIN, UP),
                pool.run(i, 0, PREV),
                pool.book(i, "spare_hold"),
            )
        )
        at = jnp.where(makes, new.row, run)
        frees = makes | (is_hold & (ref == 1))
        size = jnp.where(is_nameless, nameless, jnp.where(is_own, named - first, run_end - run_first))
        ends = is_hold & (run_first <= begin)
        left = pool.watched.leavers(at, zero, zero, makes)
        if reading is not None:
            last, earlier = (jnp.where(makes, 0, pool.runs[i, run, x]) for x in (LEAVER, EARLIER))
            last, earlier, more = reading.left(last, earlier, jnp.where(makes, first, run_first), jnp.where(makes, named, run_end))
            last, more = jnp.where(is_nameless, 0, last), more & is_hold
            left = pool.watched.leavers(at, last, earlier, makes | more)
        pool = pool.with_rows(
            i,
            runs=[
                (at, NODE, jnp.where(is_nameless, NAMELESS, node), makes),
                (at, FIRST, jnp.where(is_nameless, 0, first), makes),
                (at, END, jnp.where(is_nameless, nameless, named), makes),
                (at, OLDER, jnp.where(is_own, youngest, 0), makes),
                (at, YOUNGER, 0, makes),
                (at, BEFORE, 0, makes),
                (at, REF, jnp.where(makes, 0, ref - 1), makes | is_hold),
                (at, PREV, tail, frees),
                (at, NEXT, 0, frees),
                (tail, NEXT, at, frees),
                (0, PREV, at, frees),
                (youngest, YOUNGER, at, is_own & (youngest > 0)),
                *left,
            ],
            holds=[(hold, UP, spare_hold, ends)],
            nodes=[(node, YOUNGEST, at, is_own), (node, OLDEST, at, is_own & (oldest == 0))],
        )
        pool = pool.added(
            i,
            **new.taken("run", makes),
            spare_hold=jnp.where(ends, hold - spare_hold, 0),
            num_held=jnp.where(is_hold & frees, -size, 0),
            num_free=jnp.where(frees, size, 0),
            short=makes & new.missing,
        )
        hold = jnp.where(ends, up, hold)
        run = jnp.where(ends, pool.holds[i, up, RUN], jnp.where(is_hold, before, run))
        return pool, jnp.zeros_like(nameless), own & ~is_own, hold, run

    start = (pool, nameless, named > held.hashed, held.last, pool.holds[tree.rank, held.last, RUN])
    return while_any(needed, body, start, tree, path, held.hashed, named, reading)[0]


def watch_held(tree: RankTree, pool: BlockPool, held: HeldBlocks, wanted: Array) -> BlockPool:
    """The pool once a step has taken the blocks that a request holds through runs, if that is wanted, in case copies read them."""

    def needed(state: tuple[BlockPool, Array, Array], tree: RankTree) -> Array:
        return (state[1] > 0) & state[0].has_rows(tree.rank)

    def body(state: tuple[BlockPool, Array, Array], tree: RankTree) -> tuple[BlockPool, Array, Array]:
        pool, hold, run = state
        i, some = tree.rank, needed(state, tree)
        (first, end, before), (begin, up) = together((pool.run(i, run, FIRST, END, BEFORE), pool.hold(i, hold, BEGIN, UP)))
        pool = pool.watching(i, run, first, end, some)
        ends = first <= begin
        following = jnp.where(ends, pool.holds[i, up, RUN], before)
        return pool, jnp.where(some & ends, up, hold), jnp.where(some, following, run)

    last = jnp.where(wanted, held.last, 0)
    return while_any(needed, body, (pool, last, pool.holds[tree.rank, last, RUN]), tree)[0]
