"""Systems side by side, for `jax.vmap`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from simjax.engine.host.batch import joint_shape, make_batch, program_key
from simjax.engine.host.lower import Lowered
from simjax.errors import SimjaxError
from simjax.library.system import System


def stack(systems: Sequence[System]) -> System:
    """Systems as one whose leaves have a leading axis B, for `jax.vmap(simjax.simulate)`; sizes are those of the largest.

    They may differ in every number, and in the number of requests and ranks; subsystems (prefix caches, closed loops, ...) and the kinds of
    instances must be the same.

    Args:
        systems: from `simjax.prepare`, not traced.

    Raises:
        SimjaxError: there are none, or two cannot share a program.
    """
    if not systems:
        raise SimjaxError("stack: there are no systems")
    first = systems[0]
    step_time = first.static.times.on_host().step_time
    designs = [Lowered(replace(x.static.shape), _on_host(x, step_time)) for x in systems]
    for i, (system, design) in enumerate(zip(systems, designs, strict=True)):
        if [k[1] for k in system.static.times.kinds] != [k[1] for k in first.static.times.kinds] or set(system.parameters) != set(
            first.parameters
        ):
            raise SimjaxError(
                f"stack: system {i} has other devices, models or parallelism than system 0; simulate it apart, or use simjax.run_sweep"
            )
        if system.static.times != first.static.times:
            raise SimjaxError(
                f"stack: system {i} has another profile, or larger limits, than system 0; give both the larger ones, and change them by with_values"
            )
        if program_key(design) != program_key(designs[0]):
            raise SimjaxError(
                f"stack: system {i} has other subsystems (prefix caches, closed loops, roles, ...) than system 0; simulate it apart"
            )
    shape = joint_shape(designs)
    with jax.enable_x64(True):
        batch = make_batch(designs, shape)
    rows = batch.params.workload
    requests = jax.tree.map(lambda x: x[rows][:, None], batch.params.requests)
    ranks = replace(batch.params.ranks, slots=np.full_like(batch.params.ranks.slots, shape.slots))
    cluster = replace(batch.params, requests=requests, ranks=ranks, workload=np.zeros_like(rows), step_time=None)  # pyright: ignore
    side_by_side = lambda *leaves: np.stack([np.asarray(x) for x in leaves])
    numbers = {name: side_by_side(*(getattr(x, name) for x in systems)) for name in ("rate", "stationary", "warmup_s", "cooldown_s")}
    parameters = {name: side_by_side(*(x.parameters[name] for x in systems)) for name in first.parameters}
    gpus = {x.static.gpus for x in systems}
    if len(gpus) > 1:
        raise SimjaxError(f"stack: the systems have {', '.join(map(str, sorted(gpus)))} GPUs; stack those with equally many")
    ticks = max(x.static.ticks for x in systems)
    return System(parameters, cluster=cluster, **numbers, static=replace(first.static, shape=shape, ticks=ticks))


def _on_host(system: System, step_time: object) -> object:
    params = jax.tree.map(np.asarray, system.cluster)
    return replace(params, step_time=step_time)
