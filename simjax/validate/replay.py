"""Simulation of a measured run: its cluster and its arrivals, with the overrides of the configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simjax.cluster.from_config import engine_limits, instance_link, latency_source
from simjax.cluster.spec import ClusterSpec, InstanceSpec
from simjax.config.calibrate import CalibrateConfig
from simjax.config.cluster import ClusterConfig
from simjax.config.schema import ValidateConfig
from simjax.hardware import load_device
from simjax.job import Progress, Run, simulate_cluster
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.validate.contents import unknown_contents, with_contents
from simjax.validate.formats.results import stated
from simjax.validate.measured import read_measured
from simjax.validate.run import MeasuredRun


def validate(config: ValidateConfig, on_progress: Progress | None = None) -> tuple[MeasuredRun, Run]:
    """Read a measured run and simulate it.

    Raises:
        SimjaxError: the run or a profile is missing or malformed, or `workload.file` is not what was replayed.
    """
    measured = read_measured(Path(str(config.measured)), config.device)
    if config.workload.file is not None:
        (measured,) = with_contents([measured], [Path(config.workload.file)])
    cluster = measured_cluster(measured, config)
    run = simulate_cluster(
        cluster,
        measured.workload(),
        latency_source(config.profile),
        leap=config.sim.leap,
        max_ticks=config.sim.max_ticks,
        activity=config.sim.activity,
        on_progress=on_progress,
    )
    unknown = unknown_contents(measured, cluster)
    return measured, run if unknown is None else replace(run, warnings=(unknown, *run.warnings))


def measured_cluster(measured: MeasuredRun, config: ValidateConfig | CalibrateConfig) -> ClusterSpec:
    """The cluster that was measured, with the configuration's overrides."""
    wires = measured.hardware
    device = load_device(config.device or stated(measured.device, "device", measured))
    if wires.device_memory_bandwidth_bytes_per_s is not None:
        device = replace(device, memory_bandwidth_bytes_per_s=wires.device_memory_bandwidth_bytes_per_s)
    links = ClusterConfig(
        link_bandwidth_bytes_per_s=config.cluster.link_bandwidth_bytes_per_s or wires.link_bandwidth_bytes_per_s,
        link_latency_s=wires.link_latency_s if config.cluster.link_latency_s is None else config.cluster.link_latency_s,
    )
    instance = InstanceSpec(
        model=load_model(config.model or stated(measured.model, "model", measured)),
        device=device,
        parallelism=Parallelism(config.cluster.tensor_parallel_size or measured.tensor_parallel_size),
        limits=engine_limits(config.scheduler, engine_limits(measured.engine)),
        link=instance_link(links, device),
    )
    return ClusterSpec((instance,) * measured.instances, config.cluster.router)
