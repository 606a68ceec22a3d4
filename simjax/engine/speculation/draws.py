"""Draws of accepted drafts: functions of seed, request and number of its tokens, so that they are the same in whatever order they are made.

A run, a batch of runs and the reference simulator draw alike, and so do runs that differ in a limit: a request accepts the same drafts at
the same place of its text. The draw is a 32-bit integer hash (lowbias32 of C. Wellons' hash prospector) over the three, a word at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32

FIRST, SECOND = 0x7FEB352D, 0x846CA68B


def uniform(seed: Int32[Array, ""], request: Int32[Array, " A"], tokens: Int32[Array, " A"]) -> Float64[Array, " A"]:
    """A number in [0, 1) for each request (any int32) with so many tokens."""
    x = _mixed(seed.astype(jnp.uint32))
    for word in (request, tokens):
        x = _mixed(x + word.astype(jnp.uint32))
    return x.astype(jnp.float64) * 2.0**-32


def _mixed(x: Array) -> Array:
    x = (x ^ (x >> 16)) * jnp.uint32(FIRST)
    x = (x ^ (x >> 15)) * jnp.uint32(SECOND)
    return x ^ (x >> 16)


def accepted(u: Float64[Array, " A"], rates: Float64[Array, " U"], drafts: Int32[Array, " A"]) -> Int32[Array, " A"]:
    """Drafts that are accepted of so many: the i-th and all before it with the probability `rates[i]`, which never rises."""
    count = jnp.zeros_like(drafts)
    for i in range(rates.shape[0]):  # not a sum over them, which would be a kernel of its own
        count += ((u < rates[i]) & (i < drafts)).astype(jnp.int32)
    return count
