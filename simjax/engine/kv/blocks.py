"""KV-cache blocks."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def blocks_of(tokens: Array, block_size: Array) -> Array:
    """Blocks that hold the given tokens (int32, >= 0), ceil(tokens / block_size), int32.

    In float64, which vectorises on CPUs where integer division does not. Half a token less keeps the quotient away from the integers: XLA
    multiplies by the rounded reciprocal instead, and 525 / 75 would come out above 7.
    """
    return jnp.ceil((tokens.astype(jnp.float64) - 0.5) / block_size).astype(jnp.int32)


def full_blocks(tokens: Array, block_size: Array) -> Array:
    """Blocks that the given tokens (int32, >= 0) fill, floor(tokens / block_size), int32."""
    return jnp.floor((tokens.astype(jnp.float64) + 0.5) / block_size).astype(jnp.int32)
