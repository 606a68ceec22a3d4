"""Preemption with a prefix cache: blocks that come free with each victim, and the release of those that it held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.block_pool import BlockPool
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.kv.prefix_tree import PrefixPath, RankTree
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

    from simjax.engine.rank import Slots


def free_request(
    shape: EngineShape, tree: RankTree, pool: BlockPool, request: Array, computed: Array, held: HeldBlocks, wanted: Array
) -> BlockPool:
    """The pool once a request (int32[]) with `computed` tokens has freed what it holds, if that is wanted, bool[]."""
    full, unfinished = (jnp.where(wanted, f(computed), 0) for f in (tree.full, tree.unfinished))
    return pool.free(tree.rank, tree.path(shape, request, wanted), select(wanted, held, held.emptied()), full, unfinished)


def blocks_freed(
    shape: EngineShape,
    tree: RankTree,
    pool: BlockPool,
    slots: Slots,
    counted: Bool[Array, " A"],
    rows: tuple[Array, HeldBlocks] | tuple[()],
) -> Int32[Array, " A"]:
    """Blocks that come free with each of the `counted` slots when all after it have left, once the step runs.

    A block that several requests hold counts for the first of them, and not at all if one of `rows` (request and blocks held, over rows of
    hand-overs; empty without any) holds it.
    """
    held_blocks, position = slots.held, slots.position
    assert isinstance(held_blocks, HeldBlocks)
    paths = jax.vmap(lambda request: tree.path(shape, request))(slots.request)
    held = jax.vmap(PrefixPath.within)(paths, held_blocks.hashed + held_blocks.copy_blocks) > 0
    held &= counted[:, None] & (jnp.arange(shape.prefix_path, dtype=jnp.int32)[None, :] != held_blocks.copy_at[:, None])
    none = jnp.full((shape.prefix_nodes,), counted.shape[0], jnp.int32)
    first = none.at[paths.node].min(jnp.where(held, position[:, None], counted.shape[0]))
    if rows:
        requests, of_rows = rows
        row_paths = jax.vmap(lambda request: tree.path(shape, request))(requests)
        in_row = jax.vmap(PrefixPath.within)(row_paths, of_rows.hashed + of_rows.copy_blocks) > 0
        in_row &= jnp.arange(shape.prefix_path, dtype=jnp.int32)[None, :] != of_rows.copy_at[:, None]
        first = first.at[row_paths.node].min(jnp.where(in_row, -1, counted.shape[0]))
    counts_here = held & (first[paths.node] == position[:, None])
    shared = jnp.sum(jnp.where(counts_here, pool.blocks[tree.rank, paths.node], 0), axis=1, dtype=jnp.int32)
    own = blocks_of(slots.num_computed_tokens + slots.num_new_tokens, tree.block_size) - held_blocks.hashed
    return jnp.where(counted, own + shared, 0)


def free_victims(shape: EngineShape, tree: RankTree, pool: BlockPool, slots: Slots, counted: Array, stay: Array, end: Array) -> BlockPool:
    """The pool once the `counted` requests (bool[S+W]) in slots [stay, end) have freed what they hold, from the tail, as vLLM preempts."""

    def needed(state: tuple[BlockPool, Array], tree: RankTree, slots: Slots, counted: Array, stay: Array) -> Array:
        return state[1] > stay

    def body(state: tuple[BlockPool, Array], tree: RankTree, slots: Slots, counted: Array, stay: Array) -> tuple[BlockPool, Array]:
        pool, end = state  # the end of the slots that are left
        at = jnp.maximum(end - 1, 0)
        held = jax.tree.map(lambda x: x[at], slots.held)
        pool = free_request(shape, tree, pool, slots.request[at], slots.num_computed_tokens[at], held, counted[at] & (end > stay))
        return pool, jnp.maximum(end - 1, stay)

    pool, _ = while_any(needed, body, (pool, jnp.maximum(end, stay)), tree, slots, counted, stay)
    return pool
