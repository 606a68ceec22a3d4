"""A branch that stays a branch in a batch.

Under `vmap` a `lax.cond` becomes a select: every member of the batch pays for both sides. What is cond_any needed (a preemption, the exact
count of blocks) is then better skipped as long as no member of the batch needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap


def cond_any(needed: Array, work: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """`work(*operands)` where needed (bool[]), else `otherwise(*operands)`, both of the same structure; in a batch both are skipped to
    `otherwise` alone when no member needs the work, and otherwise every member takes its own of the two results.

    These are integers and bools: nothing here has a derivative.
    """
    # A list of leaves: a derivative in a batch takes a None within the operands for one more of them. With a tangent among them reverse
    # mode would take no result for known.
    leaves, tree = jax.tree.flatten(jax.lax.stop_gradient(operands))
    work, otherwise = (partial(_of_leaves, tree, function) for function in (work, otherwise))

    @custom_vmap
    def branch(needed: Array, operands: list[Array]) -> Any:
        return jax.lax.cond(needed, work, otherwise, *operands)

    @branch.def_vmap
    def _(size: int, in_batched: Any, needed: Array, operands: list[Array]) -> tuple[Any, Any]:
        condition_batched, batched = in_batched
        if not (condition_batched or any(batched)):  # only tangents are
            found = jax.lax.cond(needed, work, otherwise, *operands)
            return found, jax.tree.map(lambda _: False, found)
        axes = tuple(0 if b else None for b in batched)
        every = lambda function: jax.vmap(function, in_axes=axes, axis_size=size)  # noqa: E731
        if not condition_batched:
            found = jax.lax.cond(needed, every(work), every(otherwise), *operands)
        else:

            def some(*operands: Any) -> Any:
                choose = jax.vmap(lambda mine, a, b: jax.tree.map(lambda x, y: jnp.where(mine, x, y), a, b))
                return choose(needed, every(work)(*operands), every(otherwise)(*operands))

            found = jax.lax.cond(jnp.any(needed), some, every(otherwise), *operands)
        return found, jax.tree.map(lambda _: True, found)

    return branch(needed, leaves)


def _of_leaves(tree: Any, function: Callable[..., Any], *leaves: Array) -> Any:
    return function(*jax.tree.unflatten(tree, leaves))
