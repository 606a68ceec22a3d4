"""Residuals in which outliers count less."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

UNFINISHED = 5.0
"""Logarithm of the ratio that counts where a simulation never finishes: 150 times too late."""


def pseudo_huber(residual: Array, outlier: float) -> Array:
    """The square root of the pseudo-Huber loss 2 c^2 (sqrt(1 + (r/c)^2) - 1), signed: r if it is small, sqrt(2 c |r|) if it is large.

    Args:
        residual: r, in standard deviations.
        outlier: c, beyond which a residual counts linearly, not squared.
    """
    scaled = residual / outlier
    return residual * jnp.sqrt(2.0 / (1.0 + jnp.sqrt(1.0 + scaled * scaled)))
