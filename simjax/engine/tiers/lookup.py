"""Lookups in a tier: how many blocks of a content it has beyond those that the device has."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.prefix_tree import Path, RankTree
from simjax.engine.tiers.table import END, FIRST, RIGHT, USE, WRITTEN, TierTable

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Found(NamedTuple):
    """What a lookup finds: blocks next to each other, from the first one that was looked for; and whether some of them are being written,
    or read by another request.
    """

    blocks: Int32[Array, ""]
    in_use: Bool[Array, ""]


class _Walk(NamedTuple):
    at: Array
    depth: Array
    run: Array
    in_use: Array
    ended: Array


class _Tables(NamedTuple):
    runs: Array
    nodes: Array


def look_up_tier(
    tree: RankTree, tiers: TierTable, request: Int32[Array, ""], begin: Int32[Array, ""], end: Int32[Array, ""], wanted: Array
) -> Found:
    """Blocks [begin, end) of a content that the rank's tier has without a gap."""
    path, i = tree.path(request), tree.rank
    zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    last = jnp.where(wanted, end, begin)
    start = _Walk(begin, zero, tiers.nodes[i, tree.place(path, 0).node], no, no)

    def needed(walk: _Walk, tree: RankTree, tables: _Tables, path: Path, last: Array) -> Array:
        return (walk.at < last) & ~walk.ended

    def body(walk: _Walk, tree: RankTree, tables: _Tables, path: Path, last: Array) -> _Walk:
        going = needed(walk, tree, tables, path, last)
        place, following = tree.place(path, walk.depth), tree.place(path, walk.depth + 1)
        first, stop, use, right, next_run = together(
            (*(tables.runs[tree.rank, walk.run, x] for x in (FIRST, END, USE, RIGHT)), tables.nodes[tree.rank, following.node])
        )
        leaves = walk.at >= place.end
        passes = ~leaves & (walk.run > 0) & (stop <= walk.at)
        has = ~leaves & ~passes & (walk.run > 0) & (first <= walk.at)
        after = _Walk(
            at=jnp.where(has, jnp.minimum(stop, last), walk.at),
            depth=walk.depth + leaves.astype(jnp.int32),
            run=jnp.where(leaves, next_run, jnp.where(passes, right, walk.run)),
            in_use=walk.in_use | (has & ((use == WRITTEN) | (use > 0))),
            ended=~leaves & ~passes & ~has,
        )
        return select(going, after, walk)

    found = while_any(needed, body, start, tree, _Tables(tiers.runs, tiers.nodes), path, last)
    return Found(found.at - begin, found.in_use)
