"""vLLM's prefix cache, by runs of blocks instead of blocks.

Every full block has a name, the content of the sequence up to its end; a request that comes with that content uses the block. The contents
of all requests make a tree (`simjax.workload.contents.prefixes`), of whose nodes a leading part of the blocks is cached. This is all there
is to know, because of how vLLM frees blocks: the last of a sequence first, into a queue from whose head new blocks are taken. What comes
after a block in a sequence is never held longer than the block, and leaves the cache before it.

The free queue is kept as a key for each run, the smallest at its head. It holds the cached nodes that nobody holds, and blocks without a
name: the unfinished last block of a sequence, and copies. A request that computes a block that is cached already (vLLM computes the last
block of a prompt that is cached as a whole) makes a copy. If the other is free, the copy takes its name, and the other stays in the queue
without; if it is held, the copy has no name. (In vLLM both have the name, so there either of them may be found or lost first.)

Two requests that compute the same blocks of one node at the same time, which needs `long_prefill_token_threshold` or a prompt that holds
the output of a request that still runs, are taken to share them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import LARGE, reduce_slots
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.blocks import full_blocks
from simjax.engine.params import PrefixParams
from simjax.engine.rank import NO_COPY, Holding
from simjax.engine.shape import EngineShape
from simjax.engine.state import PrefixCache

if TYPE_CHECKING:
    from jaxtyping import Int32

HELD = LARGE


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """A request's way through the tree of contents, root first; past its end empty nodes.

    Attributes:
        node: its nodes.
        begin, size: where the blocks of each begin in the content, and how many there are.
    """

    node: Int32[Array, " P"]
    begin: Int32[Array, " P"]
    size: Int32[Array, " P"]

    def within(self, blocks: Array) -> Array:
        """How many of the leading blocks of the content (int32[]) lie in each node, int32[P]."""
        return jnp.clip(blocks - self.begin, 0, self.size)


def path_of(shape: EngineShape, tree: PrefixParams, served: Array | int, request: Array, block_size: Array, wanted: Array) -> Path:
    """The path of a request (int32[]) of workload `served`; an empty one where it is not wanted, bool[]."""
    known, served = jnp.minimum(request, shape.requests - 1), jnp.asarray(served, jnp.int32)
    node = jax.lax.dynamic_slice(tree.nodes, (served, tree.offset[served, known]), (1, shape.prefix_path))[0]
    inside = (jnp.arange(shape.prefix_path, dtype=jnp.int32) < tree.length[served, known]) & wanted
    node = jnp.where(inside, node, shape.prefix_nodes - 1)
    begin = full_blocks(tree.start_tokens[served, node], block_size)
    return Path(node, begin, full_blocks(tree.end_tokens[served, node], block_size) - begin)


def found_blocks(cached: Array, path: Path, most: Array) -> Array:
    """Leading blocks of a content that are in a cache, at most `most`, int32[]; `cached` (int32[P]) are those of the path's nodes."""
    P = path.size.shape[0]
    j = jnp.arange(P, dtype=jnp.int32)
    _, _, (last,) = reduce_slots(minima=[jnp.where(cached < path.size, j, P)])
    return jnp.minimum(jnp.sum(jnp.where(j <= last, cached, 0), dtype=jnp.int32), most)


def free_part(cache: PrefixCache, i: Array | int, path: Path, found: Array) -> Array:
    """Blocks that leave the free queue when the first `found` blocks of the path are held, int32[]."""
    touched = (path.within(found) > 0) & (cache.holders[i, path.node] == 0)
    return jnp.sum(jnp.where(touched, cache.blocks[i, path.node], 0), dtype=jnp.int32)


def hold(
    shape: EngineShape, cache: PrefixCache, i: Array | int, path: Path, mine: Holding, found: Array, full: Array
) -> tuple[PrefixCache, Holding]:
    """Let a request hold the first `full` blocks of its content, of which it found `found` in the cache and computed the others.

    Args:
        shape: static sizes.
        cache: the caches.
        i: whose it is.
        path: of the request.
        mine: what it holds so far, scalars.
        found: int32[], at least what it holds; `full` if it found nothing new.
        full: int32[], blocks that are full.
    """
    already = mine.named + mine.copy_blocks
    cached, key, holders = _entries(shape, cache, i, path.node)
    begun, found, full_of = path.within(already), path.within(jnp.maximum(found, already)), path.within(full)
    entered = (begun == 0) & (full_of > 0)
    copied = jnp.clip(jnp.minimum(cached, full_of) - found, 0, None)
    whole_copy = entered & (holders > 0) & (copied > 0) & (copied == path.size) & (mine.copy_at == NO_COPY)
    j = jnp.arange(shape.prefix_path, dtype=jnp.int32)
    _, _, (copy_at,) = reduce_slots(minima=[jnp.where(whole_copy, j, shape.prefix_path)])
    nameless = whole_copy & (j == copy_at)
    of_mine = (full_of > 0) & ~nameless & (j != mine.copy_at)
    entered = entered & of_mine
    was_free = entered & (holders == 0)
    old = was_free & (copied > 0)  # their names go to the copies
    now_cached = jnp.where(of_mine, jnp.maximum(cached, full_of), cached)
    (gain, unlisted, left, copy_blocks), _, (old_key,) = reduce_slots(
        [
            jnp.where(was_free, now_cached, jnp.where(of_mine, now_cached - cached, 0)),
            jnp.where(was_free, cached, 0),
            jnp.where(old, copied, 0),
            jnp.where(nameless, copied, 0),
        ],
        minima=[jnp.where(old, key, LARGE)],
    )
    cache = dataclasses.replace(
        cache,
        blocks=cache.blocks.at[i, path.node].set(now_cached),
        key=cache.key.at[i, path.node].set(jnp.where(entered, HELD, key)),
        holders=cache.holders.at[i, path.node].set(holders + entered),
        held=cache.held.at[i].add(gain),
        listed=cache.listed.at[i].add(-unlisted),
    )
    new_copy = copy_at < shape.prefix_path
    copy_blocks = jnp.where(new_copy, copy_blocks, mine.copy_blocks)
    mine = dataclasses.replace(
        mine,
        named=jnp.maximum(full, already) - copy_blocks,
        copy_at=jnp.where(new_copy, copy_at, mine.copy_at),
        copy_blocks=copy_blocks,
    )
    return lay(shape, cache, i, old_key, left), mine


def release(
    shape: EngineShape, cache: PrefixCache, i: Array | int, path: Path, mine: Holding, full: Array, unfinished: Array
) -> PrefixCache:
    """Take back all that a request holds: `full` full blocks of its content, and `unfinished` (0 or 1) that is not full; int32[] each."""
    full = jnp.maximum(full, mine.named + mine.copy_blocks)
    cache, mine = hold(shape, cache, i, path, mine, full, full)
    # The last of the sequence first: the block that is not full, then the nodes from the deepest up.
    clock = cache.clock[i]
    cache = lay(shape, cache, i, clock, unfinished)
    cache = lay(shape, cache, i, clock + shape.prefix_path - mine.copy_at, mine.copy_blocks)
    cached, key, holders = _entries(shape, cache, i, path.node)
    j = jnp.arange(shape.prefix_path, dtype=jnp.int32)
    leaves = (path.within(full) > 0) & (j != mine.copy_at)
    free = leaves & (holders == 1)
    freed = jnp.sum(jnp.where(free, cached, 0), dtype=jnp.int32)
    return dataclasses.replace(
        cache,
        key=cache.key.at[i, path.node].set(jnp.where(free, clock + shape.prefix_path - j, key)),
        holders=cache.holders.at[i, path.node].set(holders - leaves),
        held=cache.held.at[i].add(-freed),
        listed=cache.listed.at[i].add(freed),
        clock=cache.clock.at[i].add(jnp.where(full + unfinished > 0, shape.prefix_path + 1, 0)),
    )


def _entries(shape: EngineShape, cache: PrefixCache, i: Array | int, node: Array) -> tuple[Array, Array, Array]:
    """Blocks, keys and holders of some nodes (int32[P]), read once before anything is written.

    XLA repeats a gather in everything that uses it, some of which comes after the tables have changed: it would keep copies of them for
    that. It does not repeat a reduction, here over the entry and the one at the end, which is always 0.
    """
    both = jnp.stack([node, jnp.full_like(node, shape.prefix_entries - 1)], axis=1)
    read = tuple(x[i, both] for x in (cache.blocks, cache.key, cache.holders))
    zeros = (jnp.zeros((), jnp.int32),) * 3
    return jax.lax.reduce(read, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (1,))


def lay(shape: EngineShape, cache: PrefixCache, i: Array | int, key: Array, blocks: Array) -> PrefixCache:
    """Put nameless blocks (int32[]) into the free queue.

    Places are used in turn. One that comes up while its blocks are still in the queue, which takes more releases than there are requests,
    has the new ones added to them, and they all will be taken as late as these.
    """
    at = jnp.where(blocks > 0, shape.prefix_nodes + cache.place[i] % shape.nameless_entries, shape.prefix_entries - 1)
    return dataclasses.replace(
        cache,
        blocks=cache.blocks.at[i, at].add(blocks),
        key=cache.key.at[i, at].set(jnp.where(blocks > 0, key, 0)),
        listed=cache.listed.at[i].add(blocks),
        place=cache.place.at[i].add((blocks > 0).astype(jnp.int32)),
    )


def evict(shape: EngineShape, cache: PrefixCache, i: Array | int, room: Array) -> PrefixCache:
    """Take blocks from the head of the free queue until it holds no more than `room` (int32[]) that have been in use before."""

    def needed(cache: PrefixCache, i: Array, room: Array) -> Array:
        return cache.listed[i] > room

    def body(cache: PrefixCache, i: Array, room: Array) -> PrefixCache:
        entry = jnp.arange(shape.prefix_entries, dtype=jnp.int32)
        key = jnp.where(cache.blocks[i] > 0, cache.key[i], HELD)
        oldest = jnp.min(key)
        some = oldest < HELD
        at = jnp.min(jnp.where(some & (key == oldest), entry, shape.prefix_entries - 1))  # the last is never in use
        there = jnp.sum(jnp.where(key == oldest, cache.blocks[i], 0), dtype=jnp.int32)  # of one entry: no two have the same key
        over = jnp.maximum(cache.listed[i] - room, 0)
        taken = jnp.where(some, jnp.minimum(over, there), 0)
        return dataclasses.replace(
            cache,
            blocks=cache.blocks.at[i, at].add(-taken),
            # As it was; but if the loop left the keys alone, XLA would copy the engine's out of the table before every such loop.
            key=cache.key.at[i, at].set(jnp.where(some, oldest, 0)),
            # No entry is left only if the books are wrong; then the loop must end all the same.
            listed=cache.listed.at[i].add(-jnp.where(some, taken, over)),
            evicted=cache.evicted.at[i].add(jnp.where(at < shape.prefix_nodes, taken, 0)),
        )

    return while_any(needed, body, cache, jnp.asarray(i, jnp.int32), room)
