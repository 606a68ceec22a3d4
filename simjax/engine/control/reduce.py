"""Several reductions over the slots in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

INT32_MAX = 2**31 - 1


def reduce_slots(sums: Sequence[Array] = (), maxima: Sequence[Array] = (), minima: Sequence[Array] = ()) -> tuple[list[Array], ...]:
    """Sums, maxima and minima of integer arrays over the slots; a bool counts as int32, maxima and minima are of int32 >= 0.

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

    found = list(jax.lax.reduce(operands, tuple(start), combine, (0,)))
    return found[:a], found[a:b], found[b:]
