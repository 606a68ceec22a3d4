"""A choice between two records of arrays."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array

T = TypeVar("T")


def select(mask: Array, new: T, old: T) -> T:
    """The leaves of `new` where the mask (a bool that broadcasts to every leaf) holds, those of `old` elsewhere, in the dtypes of `old`.

    Arrays, scalars or records of one structure; a record without leaves is its own choice.
    """
    return jax.tree.map(lambda x, y: jnp.where(mask, x, y).astype(jnp.asarray(y).dtype), new, old)
