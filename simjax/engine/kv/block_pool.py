"""vLLM's block pool with prefix caching, by runs of blocks instead of blocks.

Every full block has a hash, which names the content of the sequence up to its end; a request that comes with that content uses the block.
The contents of all requests make a tree (`simjax.workload.contents.prefixes`), and of each of its nodes a leading part of the blocks is
cached. Nothing else needs to be known, because of how vLLM frees blocks: the last of a sequence first, into a queue from whose head new
blocks are taken. A block is never held longer than the blocks before it in a sequence, and leaves the cache before them.

The free queue is kept as a key for each run, the smallest at its head. It holds the cached prefix nodes that no request holds, and blocks
without a hash: the unfinished last block of a sequence, and copies. A request that computes a block that is cached already (vLLM computes
the last block of a prompt that is cached as a whole) makes a copy. If the other is free, the copy takes its hash, and the other stays in
the queue without; if it is held, the copy has no hash. (In vLLM both have the hash, so there either of them may be found or lost first.)

Two requests that compute the same blocks of one prefix node at the same time, which needs `long_prefill_token_threshold` or a prompt that
holds the output of a request that still runs, or that load the same blocks at the same time, are taken to share them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX, reduce_slots
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.held_blocks import NO_COPY, HeldBlocks
from simjax.engine.kv.prefix_tree import PrefixPath
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Int32

HELD = INT32_MAX


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockPool:
    """Contents of every rank's KV cache.

    The tables have E entries: first the M prefix nodes, of which a leading part is cached, then entries for free blocks without a hash; the
    last entry stays empty. An entry that no request holds stands in the rank's free queue, in order of `key`.

    Attributes:
        blocks: cached blocks of a prefix node; blocks of an entry without a hash.
        key: place in the free queue; `HELD` while a request holds the prefix node.
        ref_cnt: requests that hold the prefix node.
        num_held: blocks of the tree that requests hold.
        num_free: blocks in the free queue that have been in use before.
        next_key: next key of the free queue.
        next_entry: next entry for blocks without a hash.
        num_evicted: blocks that have lost their hash so far.
        num_prefix_nodes: M, static.
    """

    blocks: Int32[Array, "N E"]
    key: Int32[Array, "N E"]
    ref_cnt: Int32[Array, "N E"]
    num_held: Int32[Array, " N"]
    num_free: Int32[Array, " N"]
    next_key: Int32[Array, " N"]
    next_entry: Int32[Array, " N"]
    num_evicted: Int32[Array, " N"]
    num_prefix_nodes: int = dataclasses.field(metadata={"static": True})

    @staticmethod
    def empty(shape: EngineShape) -> BlockPool:
        """Caches that hold nothing."""
        N, E = shape.ranks, shape.prefix_entries
        table, counter = jnp.zeros((N, E), jnp.int32), jnp.zeros((N,), jnp.int32)
        return BlockPool(table, table, table, counter, counter, counter, counter, counter, shape.prefix_nodes)

    def free_among_hits(self, i: Array | int, path: PrefixPath, found: Int32[Array, ""]) -> Int32[Array, ""]:
        """Number of blocks that leave the free queue of rank i when the first `found` blocks of the path are touched."""
        touched = (path.within(found) > 0) & (self.ref_cnt[i, path.node] == 0)
        return jnp.sum(jnp.where(touched, self.blocks[i, path.node], 0), dtype=jnp.int32)

    def allocate(
        self, i: Array | int, path: PrefixPath, held: HeldBlocks, found: Int32[Array, ""], full: Int32[Array, ""]
    ) -> tuple[BlockPool, HeldBlocks]:
        """Let a request hold the first `full` blocks of its content: touch those that it found, and cache those that it will have filled.

        Args:
            i: rank.
            path: path of the request.
            held: blocks that it holds so far, scalars.
            found: blocks that it found in the cache, at least those that it holds; `full` if it found nothing new.
            full: blocks that are full.
        """
        P = path.node.shape[0]
        already = held.hashed + held.copy_blocks
        cached, key, ref_cnt = self._entries(i, path.node)
        begun, found, full_of = path.within(already), path.within(jnp.maximum(found, already)), path.within(full)
        entered = (begun == 0) & (full_of > 0)
        copied = jnp.clip(jnp.minimum(cached, full_of) - found, 0, None)
        whole_copy = entered & (ref_cnt > 0) & (copied > 0) & (copied == path.size) & (held.copy_at == NO_COPY)
        j = jnp.arange(P, dtype=jnp.int32)
        _, _, (copy_at,) = reduce_slots(minima=[jnp.where(whole_copy, j, P)])
        without_hash = whole_copy & (j == copy_at)
        mine = (full_of > 0) & ~without_hash & (j != held.copy_at)
        entered = entered & mine
        was_free = entered & (ref_cnt == 0)
        old = was_free & (copied > 0)  # their hashes go to the copies
        now_cached = jnp.where(mine, jnp.maximum(cached, full_of), cached)
        (gain, touched, left, copy_blocks), _, (old_key,) = reduce_slots(
            [
                jnp.where(was_free, now_cached, jnp.where(mine, now_cached - cached, 0)),
                jnp.where(was_free, cached, 0),
                jnp.where(old, copied, 0),
                jnp.where(without_hash, copied, 0),
            ],
            minima=[jnp.where(old, key, INT32_MAX)],
        )
        pool = dataclasses.replace(
            self,
            blocks=self.blocks.at[i, path.node].set(now_cached),
            key=self.key.at[i, path.node].set(jnp.where(entered, HELD, key)),
            ref_cnt=self.ref_cnt.at[i, path.node].set(ref_cnt + entered.astype(jnp.int32)),
            num_held=self.num_held.at[i].add(gain),
            num_free=self.num_free.at[i].add(-touched),
        )
        new_copy = copy_at < P
        copy_blocks = jnp.where(new_copy, copy_blocks, held.copy_blocks)
        held = dataclasses.replace(
            held,
            hashed=jnp.maximum(full, already) - copy_blocks,
            copy_at=jnp.where(new_copy, copy_at, held.copy_at),
            copy_blocks=copy_blocks,
        )
        return pool.append_free(i, old_key, left), held

    def free(self, i: Array | int, path: PrefixPath, held: HeldBlocks, full: Int32[Array, ""], unfinished: Int32[Array, ""]) -> BlockPool:
        """Free all that a request holds: `full` full blocks of its content, and `unfinished` (0 or 1) that is not full."""
        P = path.node.shape[0]
        full = jnp.maximum(full, held.hashed + held.copy_blocks)
        pool, held = self.allocate(i, path, held, full, full)
        # The last of the sequence first: the block that is not full, then the prefix nodes from the deepest up.
        next_key = pool.next_key[i]
        pool = pool.append_free(i, next_key, unfinished)
        pool = pool.append_free(i, next_key + P - held.copy_at, held.copy_blocks)
        cached, key, ref_cnt = pool._entries(i, path.node)
        j = jnp.arange(P, dtype=jnp.int32)
        leaves = (path.within(full) > 0) & (j != held.copy_at)
        last = leaves & (ref_cnt == 1)
        freed = jnp.sum(jnp.where(last, cached, 0), dtype=jnp.int32)
        return dataclasses.replace(
            pool,
            key=pool.key.at[i, path.node].set(jnp.where(last, next_key + P - j, key)),
            ref_cnt=pool.ref_cnt.at[i, path.node].set(ref_cnt - leaves.astype(jnp.int32)),
            num_held=pool.num_held.at[i].add(-freed),
            num_free=pool.num_free.at[i].add(freed),
            next_key=pool.next_key.at[i].add(jnp.where(full + unfinished > 0, P + 1, 0)),
        )

    def append_free(self, i: Array | int, key: Int32[Array, ""], blocks: Int32[Array, ""]) -> BlockPool:
        """Append blocks without a hash to the free queue.

        Entries are used in turn. One that comes up while its blocks are still in the queue, which takes more releases than there are
        requests, has the new ones added to them, and they all will be taken as late as these.
        """
        E, M = self.blocks.shape[-1], self.num_prefix_nodes
        at = jnp.where(blocks > 0, M + self.next_entry[i] % (E - M - 1), E - 1)
        return dataclasses.replace(
            self,
            blocks=self.blocks.at[i, at].add(blocks),
            key=self.key.at[i, at].set(jnp.where(blocks > 0, key, 0)),
            num_free=self.num_free.at[i].add(blocks),
            next_entry=self.next_entry.at[i].add((blocks > 0).astype(jnp.int32)),
        )

    def evict(self, i: Array | int, room: Int32[Array, ""]) -> BlockPool:
        """Take blocks from the head of the free queue until it holds no more than `room` that have been in use before."""
        E, M = self.blocks.shape[-1], self.num_prefix_nodes

        def needed(pool: BlockPool, i: Array, room: Array) -> Array:
            return pool.num_free[i] > room

        def body(pool: BlockPool, i: Array, room: Array) -> BlockPool:
            entry = jnp.arange(E, dtype=jnp.int32)
            key = jnp.where(pool.blocks[i] > 0, pool.key[i], HELD)
            oldest = jnp.min(key)
            some = oldest < HELD
            at = jnp.min(jnp.where(some & (key == oldest), entry, E - 1))  # the empty entry when there is none
            there = jnp.sum(jnp.where(key == oldest, pool.blocks[i], 0), dtype=jnp.int32)  # one entry's: no two have the same key
            over = jnp.maximum(pool.num_free[i] - room, 0)
            taken = jnp.where(some, jnp.minimum(over, there), 0)
            return dataclasses.replace(
                pool,
                blocks=pool.blocks.at[i, at].add(-taken),
                # As it was; but if the loop left the keys alone, XLA would copy the rank's out of the table before every such loop.
                key=pool.key.at[i, at].set(jnp.where(some, oldest, 0)),
                # No entry is left only if the books are wrong; the loop must end nevertheless.
                num_free=pool.num_free.at[i].add(-jnp.where(some, taken, over)),
                num_evicted=pool.num_evicted.at[i].add(jnp.where(at < M, taken, 0)),
            )

        return while_any(needed, body, self, jnp.asarray(i, jnp.int32), room)

    def _entries(self, i: Array | int, node: Int32[Array, " P"]) -> tuple[Array, Array, Array]:
        """Blocks, keys and reference counts of some prefix nodes, read once before anything is written.

        XLA repeats a gather in everything that uses it, some of which comes after the tables have changed: it would keep copies of them
        for that. It does not repeat a reduction, here over the entry and the one at the end, which is always 0.
        """
        both = jnp.stack([node, jnp.full_like(node, self.blocks.shape[-1] - 1)], axis=1)
        read = tuple(x[i, both] for x in (self.blocks, self.key, self.ref_cnt))
        zeros = (jnp.zeros((), jnp.int32),) * 3
        return jax.lax.reduce(read, zeros, lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)), (1,))
