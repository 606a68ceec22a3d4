"""Residuals of which outliers count less."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

UNFINISHED = 5.0
"""Logarithm of the ratio that counts where a simulation never finishes: 150 times too late."""


def robust(residual: Array, outlier: float) -> Array:
    """What squares to the pseudo-Huber loss 2 c^2 (sqrt(1 + (r/c)^2) - 1): r for small residuals, sqrt(2 c |r|) for large ones."""
    scaled = residual / outlier
    return residual * jnp.sqrt(2.0 / (1.0 + jnp.sqrt(1.0 + scaled * scaled)))
