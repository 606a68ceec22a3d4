"""Sums over the steps of a leap, whose times and work grow evenly from step to step, from a few of them.

The energy of a step is smooth in its number but no polynomial. It is interpolated through seven places within the leap, those of Gauss and
Legendre, and the polynomial of degree six is summed over the steps exactly: for a leap of one step the sum is exact, for a long one it is
Gauss's rule. Steps that double in time during the leap leave an error below 1e-11.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from simjax.latency.rounding import product

NODES, _GAUSS = np.polynomial.legendre.leggauss(7)
# Means of the Legendre polynomials of degree 0, 2, 4 and 6 over N evenly spaced points in (-1, 1), in powers of 1 / N^2.
_MEANS = np.array(
    [[1.0, 0.0, 0.0, 0.0], [0.0, -1 / 2, 0.0, 0.0], [0.0, -5 / 3, 49 / 24, 0.0], [0.0, -56 / 16, 392 / 16, -341 / 16]],
)
_LEGENDRE = np.stack([np.polynomial.legendre.Legendre.basis(k)(NODES) for k in (0, 2, 4, 6)])
WEIGHTS = _GAUSS[:, None] * (_LEGENDRE.T @ (np.array([1, 5, 9, 13])[:, None] / 2 * _MEANS))
"""Weights of the places, in powers of 1 / N^2: float64[7, 4]."""


def places(steps: Any, xp: ModuleType = jnp) -> Any:
    """Places at which a sum over steps 0, 1, ..., N - 1 looks (not whole numbers), f64[7]; `steps`: N >= 1, f64."""
    return 0.5 * (steps - 1.0) + product(0.5 * steps, xp.asarray(NODES), xp)


def summed(at_places: Any, steps: Any, xp: ModuleType = jnp) -> Any:
    """The sum over the N steps of a number that is known at `places`, f64[7] -> f64[]."""
    u = 1.0 / product(steps, steps, xp)
    weights = xp.asarray(WEIGHTS)
    weight = weights[:, 3]
    for power in (2, 1, 0):
        weight = product(weight, u, xp) + weights[:, power]
    terms = product(weight, at_places, xp)
    total = terms[0]
    for k in range(1, len(NODES)):  # in this order, alone and in a batch
        total = total + terms[k]
    return product(steps, total, xp)


def growing(first: Any, slope: Any, at: Any, xp: ModuleType = jnp) -> Any:
    """A number that grows by `slope` a step, at some places."""
    return first + product(slope, at, xp)
