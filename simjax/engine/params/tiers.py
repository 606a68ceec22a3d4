"""Tiers behind the KV caches of the ranks. Legend: N ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TierParams:
    """Tiers behind the KV caches of the ranks.

    Attributes:
        capacity_blocks: blocks that each holds.
        block_bytes: bytes of a block on all devices of the rank.
        store_bytes_per_s, load_bytes_per_s: rates of its copies to the tier and back.
        setup_s, per_block_s: time of a copy in addition to that of its bytes, and for each block.
        load_after_step: whether loads begin when the step has ended that is launched with them.
        empty_pass_s: sleep of a rank that has requests and can run none.
    """

    capacity_blocks: Int32[Array, " N"]
    block_bytes: Float64[Array, " N"]
    store_bytes_per_s: Float64[Array, " N"]
    load_bytes_per_s: Float64[Array, " N"]
    setup_s: Float64[Array, " N"]
    per_block_s: Float64[Array, " N"]
    load_after_step: Bool[Array, " N"]
    empty_pass_s: Float64[Array, ""]
