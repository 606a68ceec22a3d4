"""Energy of steps from their work: formulas that hold in numpy and in JAX, for numbers and arrays alike."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp

from simjax.latency.rounding import product

SHARPNESS = 16.0
"""How sharply the limit of a board takes over: at the limit the power is 4 % below it."""
LEAST = 1e-30


class Parts(NamedTuple):
    """Numbers by what a device does: being busy at all, moving bytes, computing."""

    footprint: Any
    memory: Any
    compute: Any

    @property
    def total(self) -> Any:
        """Their sum."""
        return self.footprint + self.memory + self.compute


def energy_j(watts: Parts, limit_w: Any, step_s: Any, busy_s: Any, memory_s: Any, compute_s: Any, xp: ModuleType = jnp) -> Parts:
    """Energy of a step beyond standby.

    Args:
        watts: `footprint_w`, `memory_w` and `compute_w` of `DevicePower`.
        limit_w: most power beyond standby, on the mean of the step.
        step_s: seconds that the step takes.
        busy_s: seconds of it in which the device works.
        memory_s: seconds that its bytes take at the data sheet's bandwidth (`simjax.power.work`).
        compute_s: seconds that its FLOPs take at the data sheet's peak.
        xp: numpy or jax.numpy.
    """
    free = Parts(
        product(watts.footprint, busy_s, xp),
        product(watts.memory, _root(product(busy_s, memory_s, xp), xp), xp),
        product(watts.compute, _root(product(busy_s, compute_s, xp), xp), xp),
    )
    over = xp.minimum(free.total / xp.maximum(product(limit_w, step_s, xp), LEAST), 1e6)
    for _ in range(4):  # to the power of 16
        over = product(over, over, xp)
    held = xp.exp(xp.log1p(over) / -SHARPNESS)
    return Parts(*(product(x, held, xp) for x in free))


def _root(x: Any, xp: ModuleType) -> Any:
    """The square root, with a derivative of 0 at 0."""
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1.0)), 0.0)
