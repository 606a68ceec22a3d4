"""Residuals in which outliers count less."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp

UNFINISHED = 5.0
"""Logarithm of the ratio that counts where a simulation never finishes: 150 times too late."""


def pseudo_huber(residual: Any, outlier: float, xp: ModuleType = jnp) -> Any:
    """The square root of the pseudo-Huber loss 2 c^2 (sqrt(1 + (r/c)^2) - 1), signed: r if it is small, sqrt(2 c |r|) if it is large.

    Args:
        residual: r, in standard deviations.
        outlier: c, beyond which a residual counts linearly, not squared.
        xp: `numpy` for values on the host.
    """
    scaled = residual / outlier
    return residual * xp.sqrt(2.0 / (1.0 + xp.sqrt(1.0 + scaled * scaled)))
