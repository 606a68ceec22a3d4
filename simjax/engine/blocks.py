"""KV-cache blocks."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def blocks_of(tokens: Array, block_size: Array) -> Array:
    """Blocks that hold the given tokens, ceil(tokens / block_size), int32.

    In float64, which is exact for int32 and vectorises on CPUs where integer division does not.
    """
    return jnp.ceil(tokens.astype(jnp.float64) / block_size).astype(jnp.int32)
