"""A loop whose state may be large, for work that is cond_any needed more than once or twice.

`lax.while_loop` updates its state in place, which `lax.cond` does not; but under `vmap` it selects between the old and the new state of
every member of the batch in every trip. A body that leaves alone what needs nothing does not need that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def while_any(needed: Callable[..., jax.Array], body: Callable[..., Any], state: Any, *operands: Any) -> Any:
    """`state = body(state, *operands)` while `needed(state, *operands)`, bool[].

    The body must return the state unchanged where it is not needed: in a batch it runs for every member until none needs it. Integers and
    bools only: nothing here has a derivative.
    """
    # A list of leaves: a derivative in a batch takes a None within the operands for one more of them. With a tangent among them reverse
    # mode would take no result for known.
    leaves, tree = jax.tree.flatten(jax.lax.stop_gradient(operands))
    of_leaves = lambda function: lambda s, *leaves: function(s, *jax.tree.unflatten(tree, leaves))  # noqa: E731
    goes_on, once = of_leaves(needed), of_leaves(body)

    def alone(state: Any, operands: list[jax.Array]) -> Any:
        return jax.lax.while_loop(lambda s: goes_on(s, *operands), lambda s: once(s, *operands), state)

    loop = custom_vmap(alone)

    @loop.def_vmap
    def _(size: int, in_batched: Any, state: Any, operands: list[jax.Array]) -> tuple[Any, Any]:
        state_batched, operands_batched = in_batched
        if not any(jax.tree.leaves(in_batched)):  # only tangents are
            return alone(state, operands), jax.tree.map(lambda _: False, state)
        state = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (size, *jnp.shape(x))), state, state_batched)
        axes = (0, *(0 if b else None for b in operands_batched))
        every = lambda function: jax.vmap(function, in_axes=axes, axis_size=size)  # noqa: E731
        state = jax.lax.while_loop(lambda s: jnp.any(every(goes_on)(s, *operands)), lambda s: every(once)(s, *operands), state)
        return state, jax.tree.map(lambda _: True, state)

    return loop(state, leaves)
