"""Blocks that running requests have before a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
from jax import Array

from simjax.engine.kv.blocks import blocks_of

if TYPE_CHECKING:
    from jaxtyping import Int32

    from simjax.engine.rank import Slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlocksOfTokens:
    """Requests have blocks for their computed tokens."""

    def own(self, slots: Slots, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of each that it does not hold through the prefix cache."""
        return blocks_of(slots.num_computed_tokens, block_size) - slots.held.hashed

    def all_at(self, at: Array, computed: Array, hashed: Any, block_size: Array) -> Array:
        """All blocks of the request in a slot, with so many computed tokens and blocks that it holds through the prefix cache."""
        return blocks_of(computed, block_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlocksKept:
    """Requests with drafts may have more blocks than their tokens fill.

    Attributes:
        blocks: those of each that it does not hold through the prefix cache.
    """

    blocks: Int32[Array, " A"]

    def own(self, slots: Slots, block_size: Array) -> Int32[Array, " A"]:
        """Blocks of each that it does not hold through the prefix cache."""
        return self.blocks

    def all_at(self, at: Array, computed: Array, hashed: Any, block_size: Array) -> Array:
        """All blocks of the request in a slot, with so many computed tokens and blocks that it holds through the prefix cache."""
        return self.blocks[at] + hashed


OF_TOKENS = BlocksOfTokens()
