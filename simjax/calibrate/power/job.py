"""Calibrations of power: from the log of a meter and the requests that were served meanwhile to the power of a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simjax.calibrate.power.log_fit import Boards, PowerFit, fit_log
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import held_down, latency_source
from simjax.config.calibrate import PowerFitConfig
from simjax.engine.host.result import Status
from simjax.errors import SimjaxError
from simjax.job import Progress, Run, simulate_cluster
from simjax.power.config import PowerConfig
from simjax.power.logs import PowerLog, read_power_log
from simjax.power.source import power_source
from simjax.power.spec import DevicePower
from simjax.workload import build_workload

POOR_PCT = 15.0  # mean absolute error of a second
ODD_FACTOR = (0.3, 3.0)  # measured over simulated power of steps: beyond it, something else was measured
LEAST_FACTOR = 1e-3  # by which the limit is scaled where steps draw nothing: a device must have something above standby
_BEYOND = ("node", "node_share", "node_cap_w", "pue")


@dataclass(frozen=True)
class CalibratedPower:
    """A finished calibration of power.

    Attributes:
        run: the simulated run.
        log: the samples.
        devices: devices that the meter saw, over which its power is divided.
        before: power of a device as it was.
        device: power of a device as fitted.
        fit: what the log says of all devices together.
        problems: reasons why this is no success, one line each; empty when it is one.
    """

    run: Run
    log: PowerLog
    devices: int
    before: DevicePower
    device: DevicePower
    fit: PowerFit
    problems: tuple[str, ...]


def calibrate_power(config: PowerFitConfig, on_progress: Progress | None = None) -> CalibratedPower:
    """Fit the power of a device to a meter's log.

    What the meter saw at rest, with clocks raised and in steps is divided over the devices of the cluster, whatever of their servers it saw
    besides them; footprint, memory and compute of the device's power are scaled by one factor.

    Raises:
        SimjaxError: an option has no effect on a fit, the log is wrong or too short, or the cluster has several kinds of devices.
    """
    if config.log is None:
        raise SimjaxError("nothing to fit to: simjax power fit LOG, the samples of a meter (simjax power fit --help)")
    for name in _BEYOND:
        if getattr(config.power, name) != getattr(PowerConfig(), name):
            raise SimjaxError(f"power.{name} has no effect on a fit: what counts is what the meter saw; leave it out")
    if config.sim.activity:
        raise SimjaxError("sim.activity has no effect on a fit; leave it out")
    log, cluster = read_power_log(Path(config.log)), configured_cluster(config)
    source = power_source(config.power, config.cluster.file)
    if source is None:
        raise SimjaxError("power=none: a fit needs power=utilization or power=three_state")
    kinds = {x.device.name for x in cluster.instances}
    if len(kinds) > 1:
        raise SimjaxError(f"a log of {', '.join(sorted(kinds))} together does not say what each draws; fit one kind of device at a time")
    run = simulate_cluster(
        cluster,
        build_workload(config.workload),
        held_down(latency_source(config.profile), source),
        seed=config.workload.seed,
        leap=config.sim.leap,
        max_ticks=config.sim.max_ticks,
        power=source,
        on_progress=on_progress,
    )
    device, devices = cluster.instances[0].device, cluster.num_devices
    before, held = source.of_board(device), source.of_device(device)  # a cap and a clock are of the run, not of the board
    counts = np.array([x.parallelism.num_devices / x.parallelism.data for x in cluster.ranks])
    fit = fit_log(run.result, log, config.latest_s, Boards(counts, held.standby_w, held.limit_w))
    rest_w, standby_w = fit.rest_w / devices, (fit.rest_w + fit.standby_w) / devices
    scaled = {name: fit.factor * getattr(before, name) for name in ("footprint_w", "memory_w", "compute_w")}
    # Where it does not stay, the soft limit is part of the simulated power that was scaled: above standby it is as far as before, scaled.
    beyond_w = max(fit.factor, LEAST_FACTOR) * (before.limit_w - before.standby_w)
    limit_w = before.limit_w if fit.limited else standby_w + beyond_w
    fitted = replace(
        before, idle_w=rest_w, standby_w=standby_w, standby_s=fit.standby_s, limit_w=limit_w, error=fit.mape_pct / 100, **scaled
    )
    return CalibratedPower(run, log, devices, before, fitted, fit, tuple(_problems(run, fit)))


def _problems(run: Run, fit: PowerFit) -> list[str]:
    found = []
    if run.result.status is Status.TICK_LIMIT:
        found.append("the run ended at sim.max_ticks, with requests left; raise it")
    if fit.mape_pct > POOR_PCT:
        found.append(f"mean error of a second {fit.mape_pct:.1f} %: are these the requests that were served, on these devices?")
    if not ODD_FACTOR[0] <= fit.factor <= ODD_FACTOR[1]:
        found.append(f"steps draw {fit.factor:.2g} times what they are simulated to: does the meter see all the devices, and no others?")
    if np.isfinite(fit.measured_w).mean() < 0.5:
        found.append("more than half of the seconds have no sample")
    return found
