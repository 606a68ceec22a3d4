"""Operands of a branch or a loop that has no derivative, as a list of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def flattened(operands: tuple[Any, ...]) -> tuple[list[jax.Array], Callable[..., Callable[..., Any]]]:
    """The leaves of the operands without their tangents, and a wrapper that lets a function of the operands take the leaves instead.

    The leaves are a list because a derivative in a batch would count a None within the operands as one more of them; and they have no
    tangents because reverse mode does not take the result of a branch with a tangent among its operands for known.
    """
    leaves, tree = jax.tree.flatten(jax.lax.stop_gradient(operands))

    def of_leaves(function: Callable[..., Any], before: int = 0) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return function(*arguments[:before], *jax.tree.unflatten(tree, arguments[before:]))

        return call

    return leaves, of_leaves
