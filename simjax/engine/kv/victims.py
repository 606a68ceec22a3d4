"""Preemption with a prefix cache: victims leave from the tail, or by priority, one after the other, until the rest fits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.before import BlocksKept, BlocksOfTokens
from simjax.engine.kv.block_pool import BlockPool, Reading
from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.kv.holding import free, name
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.params import RankParams
from simjax.engine.rank import Slots

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Asking(NamedTuple):
    """Requests that ask for blocks, over the slots.

    Attributes:
        slots: the slots.
        seated: those that have blocks, or get some.
        own: blocks of each that it does not hold through the cache, once the step runs.
        had: those before the step.
        others: blocks of the rank that no slot and no run holds, int32[].
    """

    slots: Slots
    seated: Bool[Array, " A"]
    own: Int32[Array, " A"]
    had: BlocksKept | BlocksOfTokens
    others: Int32[Array, ""]


class Scanned(NamedTuple):
    """The requests of a rank that preempts by priority.

    Attributes:
        tree, limits: of the rank.
        slots: its slots, as the scan begins.
        known: tokens of each whose contents are known, int32[A].
    """

    tree: RankTree
    limits: RankParams
    slots: Slots
    known: Int32[Array, " A"]


class Victim(NamedTuple):
    """A victim of a scan by priority, and how far the scan has come.

    Attributes:
        slot: its slot.
        before: requests before the one that asks for a block, which have taken and named the blocks for their `new` tokens; the victim may
            be one of them.
        new: tokens of each in the step.
        blocks: those that each has by now.
        used: blocks of the rank that are in use by now.
        wanted: whether there is one.
    """

    slot: Int32[Array, ""]
    before: Bool[Array, " A"]
    new: Int32[Array, " A"]
    blocks: Int32[Array, " A"]
    used: Int32[Array, ""]
    wanted: Bool[Array, ""]


def free_request(
    tree: RankTree,
    pool: BlockPool,
    limits: RankParams,
    request: Array,
    blocks: Array,
    named_tokens: Array,
    held: HeldBlocks,
    wanted: Array,
    reading: Reading | None = None,
) -> BlockPool:
    """The pool once a request (int32[]) has freed the `blocks` that it holds, if that is wanted, bool[].

    Its full blocks have names as far as `named_tokens` are known. Blocks without a name go to the tail of the free queue, or to its head:
    there they are taken before all others, like those that were never used. `reading`: copies to a KV tier that may read them.
    """
    wanted = wanted & tree.enabled
    named = jnp.where(wanted, jnp.maximum(tree.full(named_tokens), held.hashed), 0)
    nameless = jnp.where(wanted & ~limits.reuse_nameless_first, blocks - named, 0)
    held = jax.tree.map(lambda x: jnp.where(wanted, x, 0), held)
    return free(tree, pool, request, held, named, nameless, reading)


def free_victims(
    tree: RankTree, pool: BlockPool, limits: RankParams, asking: Asking, end: Array, wanted: Array
) -> tuple[BlockPool, Int32[Array, ""]]:
    """The pool once victims have freed what they hold, from the tail of the slots before `end`, until the rest fits; and its end.

    Each victim leaves when the first request, in their order, asks for more than there is: those before it have taken their new blocks.
    """
    position = asking.slots.position

    def needed(state: tuple[BlockPool, Array], tree: RankTree, limits: RankParams, asking: Asking, wanted: Array) -> Array:
        pool, end = state
        used = jnp.sum(jnp.where(position < end, asking.own, 0), dtype=jnp.int32) + pool.book(tree.rank, "num_held") + asking.others
        return wanted & (used > limits.num_blocks) & (end > 0) & pool.has_rows(tree.rank)

    def body(state: tuple[BlockPool, Array], tree: RankTree, limits: RankParams, asking: Asking, wanted: Array) -> tuple[BlockPool, Array]:
        pool, end = state
        going = needed(state, tree, limits, asking, wanted)
        slots = asking.slots
        assert isinstance(slots.held, HeldBlocks)
        had = asking.had.own(slots, tree.block_size)
        old = jnp.where(asking.seated & (position < end), had, 0)
        more = jnp.where(asking.seated & (position < end), asking.own - old, 0)
        base = pool.book(tree.rank, "num_held") + asking.others + jnp.sum(old, dtype=jnp.int32)
        used = base + jnp.cumsum(more)
        taken = jnp.max(jnp.where((used <= limits.num_blocks) & (jnp.cumsum(used > limits.num_blocks) == 0), used, base))
        pool = pool.evict(tree.rank, jnp.where(going, limits.num_blocks - taken, pool.book(tree.rank, "num_free")))
        at = jnp.maximum(end - 1, 0)
        request, computed, held, seated = jax.tree.map(
            lambda x: x[at], (slots.request, slots.num_computed_tokens, slots.held, asking.seated)
        )
        blocks = asking.had.all_at(at, computed, held.hashed, tree.block_size)
        pool = free_request(tree, pool, limits, request, blocks, held.named_tokens, held, going & seated)
        return pool, jnp.where(going, at, end)

    return while_any(needed, body, (pool, end), tree, limits, asking, wanted)


def free_scanned(pool: BlockPool, scanned: Scanned, held: HeldBlocks, victim: Victim) -> tuple[BlockPool, HeldBlocks]:
    """The pool and what each request of a scan holds once a victim has freed its blocks, if there is one."""
    tree, limits, slots, known = scanned
    before, computed = victim.before & victim.wanted, slots.num_computed_tokens
    named = jnp.where(before, jnp.maximum(held.named_tokens, jnp.minimum(computed + victim.new, known)), held.named_tokens)
    held = dataclasses.replace(held, named_tokens=named)
    pool, held = name(tree, pool, slots, held, jnp.where(before, tree.full(named), 0), jnp.zeros_like(named))
    pool = pool.evict(tree.rank, jnp.where(victim.wanted, limits.num_blocks - victim.used, INT32_MAX))
    request, blocks, its = jax.tree.map(lambda x: x[victim.slot], (slots.request, victim.blocks, held))
    return free_request(tree, pool, limits, request, blocks, its.named_tokens, its, victim.wanted), held
