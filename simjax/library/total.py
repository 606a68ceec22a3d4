"""Total derivatives: how a metric changes with a number when requests may join other steps, queues and ranks because of it.

With common random numbers (the same requests, the same draws) the metric is a function of the number that jumps by little and often; its
slope is what a difference over a few percent shows, where a pathwise derivative has the slope between two jumps, which leaves out what
the jumps add up to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from simjax.errors import SimjaxError

STEP = 0.05
"""Relative change in both directions: experiments/derivatives has the error that it leaves, and that of others."""


def total(function: Callable[..., Any], step: float = STEP) -> Callable[..., Any]:
    """The function with total derivatives by its first argument, for `jax.grad`, `jax.jacfwd` and the like.

    Its values are those of the function. A derivative is the central difference over a relative change of `step` in each number of the
    argument (an absolute one where the number is 0), with all else held, random numbers included: K numbers take 2 K simulations side by
    side, in both modes. So keep the argument small: settings, not a whole `System`.

    Args:
        function: function of a pytree of float64 numbers, and of other arguments, that returns a pytree of float64 numbers, such as
            `lambda x: simjax.simulate(system.with_values(**x))["e2e_mean_s"]`.
        step: the relative change.

    Raises:
        SimjaxError: the step is not within (0, 1), or (on a call) the argument or the value has other numbers than float64 ones.
    """
    if not 0 < step < 1:
        raise SimjaxError(f"total: step={step}: it must be a relative change within (0, 1), such as {STEP}")

    @wraps(function)
    def with_total(x: Any, *others: Any, **named: Any) -> Any:
        x = jax.tree.map(jnp.asarray, x)
        _require_floats("the first argument", x)
        leaves, back = ravel_pytree(x)

        @jax.custom_jvp
        def of(flat: Array) -> Any:
            return function(back(flat), *others, **named)

        @of.defjvp
        def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
            (flat,), (moved,) = primals, tangents
            value = of(flat)
            _require_floats("its value", value)
            change = jnp.where(flat == 0.0, step, step * jnp.abs(flat))
            sides = jnp.concatenate([flat + jnp.diag(change), flat - jnp.diag(change)])
            values = jax.lax.stop_gradient(jax.vmap(of)(jax.lax.stop_gradient(sides)))
            high, low = (jax.tree.map(lambda v, part=part: v[part], values) for part in (slice(len(flat)), slice(len(flat), None)))
            slopes = jax.tree.map(lambda a, b: (a - b) / (2.0 * change).reshape(-1, *[1] * (a.ndim - 1)), high, low)
            return value, jax.tree.map(lambda s: jnp.tensordot(moved, s, 1), slopes)

        return of(leaves)

    return with_total


def _require_floats(what: str, tree: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.result_type(leaf) != jnp.float64:
            raise SimjaxError(f"total: {what}{jax.tree_util.keystr(path)} is {jnp.result_type(leaf)}; it must be float64")
