"""Factors on the time of an operation by its shape, on a coarse grid: what a roofline with a few efficiencies leaves of measured tables.

Libraries choose kernels by shape, and no efficiency says which. The logarithm of the factor is linear between the knots in the logarithms
of three numbers, and stays as it is outside: the rows of a call; and of a matrix product its k and n, of experts their number on the rank
and the elements of one of their matrices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.model.ops import Op

ROWS = np.array([0, 2, 4, 5, 6, 7, 8, 9, 10, 12, 14], float)
PRODUCT = (np.array([9, 11, 13, 15], float), np.array([9, 11, 13, 15], float))
EXPERTS = (np.array([3, 5, 7, 9], float), np.array([18, 20, 22, 24], float))
"""Knots, logarithms to base 2: rows; k and n of a matrix product; number of experts and elements of one of their matrices."""
SHAPE = (len(ROWS), len(PRODUCT[0]), len(PRODUCT[1]))
SIZE = int(np.prod(SHAPE))


def knot_weights(at: Any, knots: np.ndarray) -> np.ndarray:
    """Weights of the knots in a linear interpolation at log2 of `at`, f64[N, len(knots)]; the nearest knot alone outside."""
    x = np.clip(np.log2(np.maximum(np.asarray(at, float), 1e-9)), knots[0], knots[-1])
    return np.stack([np.interp(x, knots, row) for row in np.eye(len(knots))], axis=-1)


def shape_weights(op: Op, rows: Any) -> np.ndarray:
    """Weights of all factors at each number of rows, f64[N, SIZE]."""
    first, second = ((op.experts, EXPERTS[0]), (op.k * op.n / 3.0, EXPERTS[1])) if op.experts else ((op.k, PRODUCT[0]), (op.n, PRODUCT[1]))
    sides = np.einsum("b,c->bc", knot_weights(*first), knot_weights(*second)).ravel()
    return (knot_weights(rows, ROWS)[:, :, None] * sides).reshape(len(np.atleast_1d(rows)), SIZE)


def shape_factor(factors: Any, op: Op, rows: Any, xp: Any) -> Any:
    """The factor of each number of rows, f[N]; 1 without factors.

    Args:
        factors: f[SIZE], in the order of the knots, or empty.
        op: a matrix product or experts.
        rows: known numbers of rows, f[N].
        xp: numpy, or jax.numpy when the factors are traced.
    """
    if len(factors) == 0:
        return 1.0
    return xp.exp(shape_weights(op, rows) @ xp.log(xp.asarray(factors, dtype=float)))
