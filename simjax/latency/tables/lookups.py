"""Arrays of step times, computed by numpy where they can be: JAX compiles a small program for each operation on each size of an array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def numpy_of(*values: Any) -> Any:
    """The module numpy, or jax.numpy if one of the values is traced."""
    return jnp if any(isinstance(value, Tracer) for value in values) else np


def placed(value: Any) -> jax.Array:
    """An array on the device; `jnp.asarray` would compile a program for each size."""
    return value if isinstance(value, Tracer) else jax.device_put(np.asarray(value))


def row_of(value: Any, dtype: Any = float) -> jax.Array:
    """A value with a leading axis of 1; call it inside `jax.enable_x64(True)`."""
    return placed(numpy_of(value).asarray(value, dtype=dtype)[None])


def lookup(seconds: Any) -> jax.Array:
    """A lookup by number, with a leading axis of 1; entry 0 is 0 because an empty step takes no time."""
    xp = numpy_of(seconds)
    return row_of(xp.concatenate([xp.zeros(1), xp.asarray(seconds, dtype=float)]))
