"""A branch that stays a branch in a batch.

Under `vmap` a `lax.cond` becomes a select: every member of the batch pays for both sides. What is seldom needed (a preemption, the exact
count of blocks) is then better skipped as long as no member of the batch needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap


def seldom(needed: Array, work: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """`work(*operands)` where needed (bool[]), else `otherwise(*operands)`, both of the same structure; in a batch both are skipped to
    `otherwise` alone when no member needs the work, and otherwise every member takes its own of the two results.
    """

    @custom_vmap
    def branch(needed: Array, operands: tuple) -> Any:
        return jax.lax.cond(needed, work, otherwise, *operands)

    @branch.def_vmap
    def _(size: int, in_batched: Any, needed: Array, operands: tuple) -> tuple[Any, Any]:
        condition_batched, batched = in_batched
        axes = tuple(jax.tree.map(lambda b: 0 if b else None, x) for x in batched)
        every = lambda function: jax.vmap(function, in_axes=axes, axis_size=size)  # noqa: E731
        if not condition_batched:
            found = jax.lax.cond(needed, every(work), every(otherwise), *operands)
        else:

            def some(*operands: Any) -> Any:
                choose = jax.vmap(lambda mine, a, b: jax.tree.map(lambda x, y: jnp.where(mine, x, y), a, b))
                return choose(needed, every(work)(*operands), every(otherwise)(*operands))

            found = jax.lax.cond(jnp.any(needed), some, every(otherwise), *operands)
        return found, jax.tree.map(lambda _: True, found)

    return branch(needed, operands)
