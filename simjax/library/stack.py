"""Systems side by side, for `jax.vmap`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from simjax.engine.host.batch import joint_shape, make_batch, program_key
from simjax.engine.host.lower import Lowered
from simjax.errors import SimjaxError
from simjax.library.system import Static, System

_NUMBERS = ("rate", "stationary", "warmup_s", "cooldown_s")


def stack(systems: Sequence[System]) -> System:
    """Systems as one whose leaves have a leading axis B, for `jax.vmap(simjax.simulate)`; sizes are those of the largest.

    They may differ in every number, and in the number of requests; instances and subsystems (caches, closed loops, ...) must be alike.

    Args:
        systems: from `simjax.prepare`, not traced.

    Raises:
        SimjaxError: there are none, or two cannot share a program.
    """
    if not systems:
        raise SimjaxError("stack: there are no systems")
    first = systems[0]
    for i, system in enumerate(systems):
        _require_alike(f"stack: system {i} has", system.static, first.static)
    step_time = first.static.times.on_host().step_time
    designs = [Lowered(x.static.shape, replace(jax.tree.map(np.asarray, x.cluster), step_time=step_time)) for x in systems]
    for i, design in enumerate(designs):
        if program_key(design) != program_key(designs[0]):
            raise SimjaxError(f"stack: system {i} has other subsystems (caches, closed loops, roles, ...) than system 0; simulate it apart")
    shape = joint_shape(designs)
    with jax.enable_x64(True):
        batch = make_batch(designs, shape)
    rows: Any = batch.params.workload
    requests = jax.tree.map(lambda x: x[rows][:, None], batch.params.requests)
    ranks: Any = batch.params.ranks
    ranks = replace(ranks, slots=np.full_like(ranks.slots, shape.slots))
    cluster: Any = replace(batch.params, requests=requests, ranks=ranks, workload=np.zeros_like(rows), step_time=None)  # pyright: ignore
    side_by_side = lambda *leaves: np.stack([np.asarray(x) for x in leaves])
    numbers: dict[str, Any] = {name: side_by_side(*(getattr(x, name) for x in systems)) for name in _NUMBERS}
    numbers["parameters"] = {name: side_by_side(*(x.parameters[name] for x in systems)) for name in first.parameters}
    ticks = max(x.static.ticks for x in systems)
    return System(cluster=cluster, static=replace(first.static, shape=shape, ticks=ticks), **numbers)


def _require_alike(which: str, one: Static, other: Static) -> None:
    """Refuse systems whose step times are not functions of the same parameters."""
    deployments = [[deployment for _, deployment in x.times.kinds] for x in (one, other)]
    if deployments[0] != deployments[1] or one.gpus != other.gpus:
        raise SimjaxError(f"{which} other devices, models or instances than system 0; simulate it apart, or use simjax.run_sweep")
    if one.times != other.times:
        raise SimjaxError(f"{which} another profile or larger limits than system 0; prepare both alike, then change them by with_values")
