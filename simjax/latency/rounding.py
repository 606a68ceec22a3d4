"""Products that are rounded before anything is added to them.

Compilers contract `a * b + c` to one fused multiply-add, rounded once, where both operations end up in the same kernel; which they do
depends on the program around them. A simulated time would then differ in its last bit between a single run and the same design in a batch.
Every product that feeds a sum on the way to a time goes through here, so that a design has one result however it is run.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp


def rounded(x: Any, xp: ModuleType = jnp) -> Any:
    """The value x, computed before it is used: the identity, differentiable."""
    # No compiler can tell that x is a number, so none may look through the selection; a NaN stays one.
    return jnp.where(x == x, x, jnp.nan) if xp is jnp else x


def product(a: Any, b: Any, xp: ModuleType = jnp) -> Any:
    """The product a * b, rounded to its own type; scalars or arrays that broadcast."""
    return rounded(a * b, xp)
