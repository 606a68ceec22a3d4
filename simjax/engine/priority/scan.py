"""The scan of a rank's running requests for blocks, from one victim to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.kv.no_prefix_cache import NoPrefixCache
from simjax.engine.kv.prefix_cache import PrefixCache
from simjax.engine.kv.victims import Scanned
from simjax.engine.priority.order import Keys

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


class Scan(NamedTuple):
    """vLLM's loop over the running requests, from one victim to the next.

    Attributes:
        stays: requests that are left, finished ones included that the scheduler does not know of.
        new: their tokens.
        at: slot of the request that asked for blocks last.
        short: requests after it that are left out, because the list has become shorter.
        requeued: victims that go back into the queue.
        need: with drafts, tokens that each would compute, of which the budget may allow it less; None without.
        routes, table: lists of the ranks, and what preempted requests keep.
        kv, held: the KV caches, and what each request holds through them.
    """

    stays: Bool[Array, " A"]
    new: Int32[Array, " A"]
    at: Int32[Array, ""]
    short: Int32[Array, ""]
    requeued: Int32[Array, ""]
    need: Int32[Array, " A"] | None
    routes: Int32[Array, "N L"]
    table: Float64[Array, "R+1 F"]
    kv: PrefixCache | NoPrefixCache
    held: HeldBlocks | NoHeldBlocks


class Lookahead(NamedTuple):
    """With drafts, blocks that each request had before the step, and tokens beyond its own for which it asks, up to so many in all."""

    had: Int32[Array, " A"]
    ahead: Int32[Array, ""]
    most: Int32[Array, ""]

    def blocks(self, computed: Array, new: Array, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of requests that compute so many tokens."""
        asked = blocks_of(jnp.minimum(computed + new + self.ahead, self.most), block_size)
        return jnp.where(new > 0, jnp.maximum(asked, self.had), self.had)

    def before(self, computed: Array, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of requests before the step."""
        return self.had


class NoLookahead(NamedTuple):
    """Without drafts a request has blocks for the tokens that are computed."""

    def blocks(self, computed: Array, new: Array, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of requests that compute so many tokens."""
        return blocks_of(computed + new, block_size)

    def before(self, computed: Array, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of requests before the step."""
        return blocks_of(computed, block_size)


class ScannedRank(NamedTuple):
    """What the loop reads: blocks and keys of the requests in the slots, and limits."""

    computed: Int32[Array, " A"]
    lookahead: Lookahead | NoLookahead
    ended: Bool[Array, " A"]
    last: Int32[Array, ""]
    last_need: Int32[Array, ""]
    rows: Float64[Array, "A F"]
    keys: Keys
    i: Array
    head: Int32[Array, ""]
    capacity: Int32[Array, ""]
    max_num_batched_tokens: Int32[Array, ""]
    block_size: Int32[Array, ""]
    goes_on: Bool[Array, ""]
    leaves_out: Bool[Array, ""]
    row: Int32[Array, ""]
    scanned: Scanned | None


def first_short(scan: Scan, fixed: ScannedRank) -> Int32[Array, ""]:
    """The first slot for whose request there is no block; the number of slots if there is one for all."""
    position = jnp.arange(scan.stays.shape[0], dtype=jnp.int32)
    over = scan.stays & (used_blocks(scan, fixed) > fixed.capacity)
    return jnp.min(jnp.where(over, position, position.shape[0]))


def blocks_asked(fixed: ScannedRank, new: Int32[Array, " A"]) -> Int32[Array, " A"]:
    """Blocks of requests that compute so many tokens."""
    return fixed.lookahead.blocks(fixed.computed, new, fixed.block_size)


def blocks_before(fixed: ScannedRank) -> Int32[Array, " A"]:
    """Blocks of requests before the step."""
    return fixed.lookahead.before(fixed.computed, fixed.block_size)


def used_blocks(scan: Scan, fixed: ScannedRank) -> Int32[Array, " A"]:
    """Blocks of the rank once the requests in each slot and those before it have theirs."""
    held = jnp.where(scan.stays, blocks_before(fixed), 0)
    asked = jnp.where(scan.stays, blocks_asked(fixed, scan.new), 0) - held
    return used_before(scan, fixed) + jnp.cumsum(asked)


def used_before(scan: Scan, fixed: ScannedRank) -> Int32[Array, ""]:
    """Blocks of the rank before the step."""
    held = jnp.where(scan.stays, blocks_before(fixed) - scan.held.hashed, 0)
    return jnp.sum(held, dtype=jnp.int32) + scan.kv.num_held(fixed.row)
