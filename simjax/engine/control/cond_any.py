"""A branch that stays a branch in a batch.

Under `vmap` a `lax.cond` becomes a select: every member of the batch pays for both sides. A case that few ticks have (a preemption, the
exact count of blocks) is better skipped as long as no member of the batch has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from simjax.engine.control.operands import flattened


def cond_any(needed: Array, work: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """`work(*operands)` where needed (bool[]), else `otherwise(*operands)`, both of the same structure; no derivative passes.

    In a batch, `otherwise` alone runs when no member needs the work; else both run, and every member takes its own of the two results.
    """
    leaves, of_leaves = flattened(operands)
    work, otherwise = of_leaves(work), of_leaves(otherwise)

    @custom_vmap
    def branch(needed: Array, operands: list[Array]) -> Any:
        return jax.lax.cond(needed, work, otherwise, *operands)

    @branch.def_vmap
    def _(size: int, in_batched: Any, needed: Array, operands: list[Array]) -> tuple[Any, Any]:
        condition_batched, batched = in_batched
        if not (condition_batched or any(batched)):  # the batch is one of tangents, which do not come in here
            found = jax.lax.cond(needed, work, otherwise, *operands)
            return found, jax.tree.map(lambda _: False, found)
        axes = tuple(0 if b else None for b in batched)
        each_work, each_otherwise = (jax.vmap(function, in_axes=axes, axis_size=size) for function in (work, otherwise))
        if not condition_batched:
            found = jax.lax.cond(needed, each_work, each_otherwise, *operands)
        else:

            def some(*operands: Any) -> Any:
                choose = jax.vmap(lambda mine, a, b: jax.tree.map(lambda x, y: jnp.where(mine, x, y), a, b))
                return choose(needed, each_work(*operands), each_otherwise(*operands))

            found = jax.lax.cond(jnp.any(needed), some, each_otherwise, *operands)
        return found, jax.tree.map(lambda _: True, found)

    return branch(needed, leaves)
