"""Several reductions in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

INT32_MAX = 2**31 - 1


def reduce_slots(sums: Sequence[Array] = (), maxima: Sequence[Array] = (), minima: Sequence[Array] = ()) -> tuple[list[Array], ...]:
    """Sums, maxima and minima of integer arrays over the slots, see `reduce_last`."""
    return reduce_last(sums, maxima, minima)


def reduce_last(sums: Sequence[Array] = (), maxima: Sequence[Array] = (), minima: Sequence[Array] = ()) -> tuple[list[Array], ...]:
    """Sums, maxima and minima of integer arrays over their last axis; a bool counts as int32, maxima and minima are of int32 >= 0.

    Integers only: they carry no gradient, and JAX cannot differentiate a variadic reduction.
    One variadic reduction is a single loop (and, on an accelerator, a single kernel); XLA would make one or two of each of them.
    """
    wide = [x.astype(jnp.int32) if x.dtype == jnp.bool_ else x for x in sums]
    operands = (*wide, *maxima, *minima)
    start = [jnp.zeros((), x.dtype) for x in (*wide, *maxima)] + [jnp.asarray(INT32_MAX, x.dtype) for x in minima]
    a, b = len(sums), len(sums) + len(maxima)

    def combine(left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        pairs = list(zip(left, right, strict=True))
        added = [x + y for x, y in pairs[:a]]
        return tuple(added + [jnp.maximum(x, y) for x, y in pairs[a:b]] + [jnp.minimum(x, y) for x, y in pairs[b:]])

    found = list(jax.lax.reduce(operands, tuple(start), combine, (operands[0].ndim - 1,)))
    return found[:a], found[a:b], found[b:]


def argmin(first: Array, then: Array) -> Array:
    """Index of the smallest entry of `first`, of equals the one with the smallest entry of `then` (int32 >= 0), int32[]; no derivative."""
    index = jnp.arange(first.shape[0], dtype=jnp.int32)
    start = (jnp.asarray(jnp.inf, first.dtype), jnp.asarray(INT32_MAX, jnp.int32), jnp.asarray(0, jnp.int32))

    def smaller(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        take_b = (b[0] < a[0]) | ((b[0] == a[0]) & (b[1] < a[1]))
        return tuple(jnp.where(take_b, y, x) for x, y in zip(a, b, strict=True))

    return jax.lax.reduce((jax.lax.stop_gradient(first), then, index), start, smaller, (0,))[2]
