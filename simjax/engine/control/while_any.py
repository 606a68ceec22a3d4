"""A loop whose state may be large, for work that a tick needs at most once or twice.

`lax.while_loop` updates its state in place, which `lax.cond` does not; but under `vmap` it selects between the old and the new state of
every member of the batch in every trip. A body that changes nothing where nothing is needed can do without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from simjax.engine.control.operands import flattened


def while_any(needed: Callable[..., jax.Array], body: Callable[..., Any], state: Any, *operands: Any) -> Any:
    """`state = body(state, *operands)` while `needed(state, *operands)`, bool[]; no derivative passes.

    The body must return the state unchanged where it is not needed: in a batch it runs for every member until none needs it.
    """
    leaves, of_leaves = flattened(operands)
    more, once = of_leaves(needed, 1), of_leaves(body, 1)

    def alone(state: Any, operands: list[jax.Array]) -> Any:
        return jax.lax.while_loop(lambda s: more(s, *operands), lambda s: once(s, *operands), state)

    loop = custom_vmap(alone)

    @loop.def_vmap
    def _(size: int, in_batched: Any, state: Any, operands: list[jax.Array]) -> tuple[Any, Any]:
        state_batched, operands_batched = in_batched
        if not any(jax.tree.leaves(in_batched)):  # the batch is one of tangents, which do not come in here
            return alone(state, operands), jax.tree.map(lambda _: False, state)
        state = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *jnp.shape(x))), state, state_batched)
        axes = (0, *(0 if b else None for b in operands_batched))
        each_more, each_once = (jax.vmap(function, in_axes=axes, axis_size=size) for function in (more, once))
        state = jax.lax.while_loop(lambda s: jnp.any(each_more(s, *operands)), lambda s: each_once(s, *operands), state)
        return state, jax.tree.map(lambda _: True, state)

    return loop(state, leaves)
