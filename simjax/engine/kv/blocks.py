"""Arithmetic of KV-cache blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Int32


def blocks_of(tokens: Int32[Array, "*#A"], block_size: Int32[Array, "*#A"]) -> Int32[Array, "*#A"]:
    """Number of blocks that hold the given tokens (>= 0), ceil(tokens / block_size).

    In float64, which vectorises on CPUs where integer division does not. Half a token less keeps the quotient away from the integers: XLA
    multiplies by the rounded reciprocal instead, and 525 / 75 would come out above 7.
    """
    return jnp.ceil((tokens.astype(jnp.float64) - 0.5) / block_size.astype(jnp.float64)).astype(jnp.int32)


def full_blocks(tokens: Int32[Array, "*#A"], block_size: Int32[Array, "*#A"]) -> Int32[Array, "*#A"]:
    """Number of blocks that the given tokens (>= 0) fill, floor(tokens / block_size)."""
    return jnp.floor((tokens.astype(jnp.float64) + 0.5) / block_size.astype(jnp.float64)).astype(jnp.int32)


def nameable(tokens: Int32[Array, "*A"], ahead: Int32[Array, ""] | None) -> Int32[Array, "*A"]:
    """Tokens whose blocks may have names, of so many that are known; names cover `ahead` tokens after their block, or none."""
    return tokens if ahead is None else jnp.maximum(tokens - ahead, 0)
