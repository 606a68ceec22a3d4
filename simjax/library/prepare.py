"""From a configuration to a `System`."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.batch.design import RunOptions, design_of
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import latency_source
from simjax.config.schema import SimulatedConfig
from simjax.engine.accounting.totals import Overflow
from simjax.engine.differentiate import FEWEST_TICKS, Outcome, outcome
from simjax.engine.host.lower import Lowered, with_larger_caches, with_larger_tiers, with_more_rows
from simjax.engine.programs import compiled
from simjax.engine.shape import power_of_two
from simjax.engine.simulate import effort_for
from simjax.errors import SimjaxError
from simjax.library.system import Static, System
from simjax.library.times import Times
from simjax.power.source import power_source
from simjax.workload import build_workload


def prepare(config: SimulatedConfig) -> System:
    """The system that a configuration describes (`simjax.compose` makes one), for `simjax.simulate`; arrays are numpy's.

    It is simulated once, which tells how many ticks a derivative needs and whether tables are large enough. A workload of automatic
    length has the length that `simjax run` begins with.

    Raises:
        SimjaxError: a value of the configuration is wrong, a request can never be served, or step times come from measured op tables or
            from devices that a cap or a clock slows, which have no parameters.
    """
    cluster, source = configured_cluster(config), latency_source(config.profile)
    if source.bundle_root is not None:
        raise SimjaxError("prepare: profile.bundle_root: measured op tables have no parameters; use a profile, or simjax.run")
    power = power_source(config.power, config.cluster.file)
    if power is not None:
        raise SimjaxError(f"prepare: power={config.power.model}: a system has no energy; leave power out, or use simjax.run")
    workload = build_workload(config.workload)
    times = Times.of(cluster.instances, source)
    options = RunOptions(seed=config.workload.seed, leap=config.sim.leap)
    lowered = design_of(cluster, times.on_host(), workload, options).lowered
    lowered = replace(lowered, shape=replace(lowered.shape, log_rows=0))
    lowered, ticks = _large_enough(lowered)
    left_out = {name: np.float64(np.nan if x is None else x) for name, x in asdict(config.metrics).items()}
    static = Static(lowered.shape, times, ticks, cluster.num_devices)
    # The step times follow from the parameters, wherever the system is simulated.
    ranks = lowered.params.ranks
    ranks = replace(ranks, slots=np.full_like(ranks.slots, lowered.shape.slots))  # pyright: ignore[reportArgumentType]
    params: Any = replace(lowered.params, step_time=None, ranks=ranks)  # pyright: ignore[reportArgumentType]
    numbers: dict[str, Any] = {"rate": np.float64(1.0), "stationary": np.bool_(lowered.stationary), **left_out}
    return System(times.parameters, cluster=params, static=static, **numbers)  # pyright: ignore[reportArgumentType]


def _large_enough(lowered: Lowered) -> tuple[Lowered, int]:
    """The run with tables that hold it, and ticks that suffice to differentiate it, with at least a quarter to spare."""
    o = _run(lowered)
    if int(o.overflow) & Overflow.HANDOVERS and (more := with_more_rows(lowered)) is not None:
        return _large_enough(more)
    if int(o.overflow) & Overflow.CACHES:
        return _large_enough(with_larger_caches(lowered))
    if int(o.overflow) & Overflow.TIERS:
        return _large_enough(with_larger_tiers(lowered))
    ticks = int(o.ticks)
    return lowered, max(power_of_two(ticks + ticks // 4 + 1), FEWEST_TICKS)


def _run(lowered: Lowered) -> Outcome:
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, lowered.params)
        return compiled(partial(outcome, lowered.shape), ("outcome", lowered.shape), (params,), effort_for(lowered.shape))(params)
