"""Several results in one kernel.

XLA fuses a chain of scalar arithmetic into every array that is computed from it: the fields of a record that share their arithmetic repeat
it, each in a kernel of its own. A reduction is repeated in none of its readers, and one of several operands is a single kernel. (An
`optimization_barrier` is gone before XLA's CPU backend fuses.)
"""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

T = TypeVar("T")


def together(record: T) -> T:
    """The record itself, whose leaves (arrays or scalars of one shape) are computed in one kernel; derivatives pass as they are."""
    leaves, structure = jax.tree.flatten(record)
    return jax.tree.unflatten(structure, _in_one_kernel([jnp.asarray(x) for x in leaves]))


def entry(record: T, i: Array | int) -> T:
    """The record of row i of the leaves, vectors of one length: one kernel in a batch too, where every indexing is another."""
    leaves, structure = jax.tree.flatten(record)
    if isinstance(i, int):
        return jax.tree.unflatten(structure, [x[i] for x in leaves])
    return jax.tree.unflatten(structure, _entry(leaves, i))


@jax.custom_jvp
def _in_one_kernel(leaves: list[Array]) -> list[Array]:
    """The leaves, as reductions over two equal entries of each."""
    pairs = [jnp.broadcast_to(x[..., None], (*x.shape, 2)) for x in leaves]
    start = [jnp.zeros((), x.dtype) for x in leaves]
    return list(jax.lax.reduce(pairs, start, lambda _, last: last, (leaves[0].ndim,)))


@_in_one_kernel.defjvp
def _(primals: tuple[list[Array]], tangents: tuple[list[Array]]) -> tuple[list[Array], list[Array]]:
    return _in_one_kernel(*primals), tangents[0]


@jax.custom_jvp
def _entry(leaves: list[Array], i: Array) -> list[Array]:
    """Row i of each, as a reduction that keeps what is at i."""
    here = jnp.arange(leaves[0].shape[0], dtype=jnp.int32) == i
    start = [jnp.zeros((), x.dtype) for x in (here, *leaves)]

    def keep(kept: tuple[Array, ...], new: tuple[Array, ...]) -> tuple[Array, ...]:
        return kept[0] | new[0], *(jnp.where(new[0], y, x) for x, y in zip(kept[1:], new[1:], strict=True))

    return list(jax.lax.reduce([here, *leaves], start, keep, (0,))[1:])


@_entry.defjvp
def _(primals: tuple[list[Array], Array], tangents: tuple[list[Array], Array]) -> tuple[list[Array], list[Array]]:
    i = primals[1]
    none = jax.dtypes.float0
    return _entry(*primals), [np.zeros((), none) if x.dtype == none else x[i] for x in tangents[0]]  # pyright: ignore[reportReturnType]
