"""Simulation of a measured run: its cluster and its arrivals, with the overrides of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simjax.backend.releases import balancer_rules, release_of
from simjax.cluster.balancer import Balancer
from simjax.cluster.configured.groups import engine_limits, instance_link, release_limits
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.unsimulated import Setting
from simjax.config.calibrate import CalibrateConfig
from simjax.config.cluster import ClusterConfig
from simjax.config.schema import ValidateConfig
from simjax.hardware import load_device
from simjax.job import Progress, Run, simulate_cluster
from simjax.model import load_model
from simjax.text import counted
from simjax.validate.client import as_its_client_sent
from simjax.validate.compare import compare
from simjax.validate.contents import unknown_contents, with_contents
from simjax.validate.deployed import RATES, drafts_of, parallelism_of, simulated
from simjax.validate.measured import read_measured
from simjax.validate.run import MeasuredRun
from simjax.validate.unrecorded import presumed_limits, presumption, require_names

DRIFT_PCT, TIMES_TPOT = 5.0, 3.0  # a backlog is not the measured one if it is farther off than this, and than so many errors of mean TPOT
FEW_IN_FLIGHT = 8  # a smaller number in flight is no backlog


def validate(config: ValidateConfig, on_progress: Progress | None = None) -> tuple[MeasuredRun, Run]:
    """Read a measured run and simulate it.

    Raises:
        SimjaxError: the run or a profile is missing or malformed, or `workload.file` is not what was replayed.
    """
    files = [] if config.workload.file is None else [Path(config.workload.file)]
    (measured,) = read_to_replay([Path(str(config.measured))], config.device, files, config.workload.max_concurrency)
    cluster = measured_cluster(measured, config)
    measured = with_presumption(measured, cluster, config)
    run = simulate_cluster(
        cluster,
        measured.workload(),
        latency_source(config.profile),
        leap=config.sim.leap,
        max_ticks=config.sim.max_ticks,
        activity=config.sim.activity,
        on_progress=on_progress,
    )
    notes = [
        unknown_contents(measured, cluster),
        *(f"{measured.name}: {x} is recorded but not simulated; it is replayed without{remedy(x)}" for x in asked_for(measured, cluster)),
        _drift(measured, run),
    ]
    return measured, replace(run, warnings=(*(line for line in notes if line is not None), *run.warnings))


def read_to_replay(
    paths: Sequence[Path], device: str | None = None, traces: Sequence[Path] = (), max_concurrency: int | None = None
) -> list[MeasuredRun]:
    """Measured runs as they are replayed: with what their requests share, the caps of their clients, and their failed requests as load.

    Args:
        paths: their folders.
        device: the GPU, which overrides those in the files.
        traces: traces that they replayed.
        max_concurrency: cap of the clients, see `as_its_client_sent`.

    Raises:
        SimjaxError: a run cannot be read, a trace is not what any run replayed, or the cap is negative.
    """
    runs = with_contents([read_measured(path, device) for path in paths], traces)
    return [_with_failures_told(as_its_client_sent(run, max_concurrency)) for run in runs]


def with_presumption(measured: MeasuredRun, cluster: ClusterSpec, config: ValidateConfig | CalibrateConfig) -> MeasuredRun:
    """The run with a line about what is presumed of its server."""
    line = presumption(measured, config, cluster.instances[0], release(measured, config))
    return measured if line is None else replace(measured, replay_notes=(*measured.replay_notes, line))


def asked_for(measured: MeasuredRun, cluster: ClusterSpec) -> list[Setting]:
    """Recorded settings that the simulation of a run does not have; a data type that its model has anyway is none."""
    instance = cluster.instances[0]
    known = {"quantization": instance.model.quantization, "dtype": instance.model.dtype}
    others = [x for x in measured.unsimulated if x.name not in known or str(x.value).lower() != known[x.name]]
    return [x for x in others if not simulated(x.name, x.value, instance)]


def remedy(setting: Setting) -> str:
    """What makes a setting simulated, after a semicolon; "" where nothing does."""
    return f"; {RATES}" if setting.name == "speculative_config" else ""


def _with_failures_told(run: MeasuredRun) -> MeasuredRun:
    if not run.failed:
        return run
    others = run.replayed_failed
    replayed = "none" if others is None else "all" if len(others) == run.failed else f"{len(others):,} of them"
    line = f"{counted(run.failed, 'requests')} failed: {replayed} replayed as load, as far as the record tells; the others are compared"
    return replace(run, replay_notes=(*run.replay_notes, line))


def _drift(measured: MeasuredRun, run: Run) -> str | None:
    """A warning if the number of requests in flight drifts away from the measured one."""
    report = compare(measured, run.result)
    seen, of_steps = report["in_flight"], abs(report["tpot_s"]["mean"]["error_pct"] or 0.0)
    if seen["drift_pct"] is None or seen["drift_pct"] <= max(DRIFT_PCT, TIMES_TPOT * of_steps):
        return None
    mean, peak = seen["mean"], seen["peak"]
    if max(peak["measured"], peak["simulated"]) < FEW_IN_FLIGHT:
        return None
    return (
        f"{measured.name}: the number of requests in flight drifts from the measured one by {seen['drift_pct']:.0f} % on average "
        f"(mean {mean['simulated']:.0f}, measured {mean['measured']:.0f}): near its capacity a server piles up the smallest errors of step "
        "times, so TTFT and E2E errors are those of the backlog, not of the step times"
    )


def release(measured: MeasuredRun, config: ValidateConfig | CalibrateConfig) -> str:
    """The release whose defaults hold for flags that are not recorded: the one that the configuration names, else the recorded one."""
    return config.backend.release or release_of(measured.engine.vllm_version)


def measured_cluster(measured: MeasuredRun, config: ValidateConfig | CalibrateConfig) -> ClusterSpec:
    """The cluster that was measured, with the configuration's overrides."""
    named, wires = release(measured, config), measured.hardware
    require_names(measured, config, named)
    device = load_device(config.device or measured.device)
    if wires.device_memory_bandwidth_bytes_per_s is not None:
        device = replace(device, memory_bandwidth_bytes_per_s=wires.device_memory_bandwidth_bytes_per_s)
    links = ClusterConfig(
        link_bandwidth_bytes_per_s=config.cluster.link_bandwidth_bytes_per_s or wires.link_bandwidth_bytes_per_s,
        link_latency_s=wires.link_latency_s if config.cluster.link_latency_s is None else config.cluster.link_latency_s,
    )
    model = load_model(config.model or measured.model)
    defaults = replace(release_limits(named), **presumed_limits(measured, device, named))
    instance = InstanceSpec(
        model=model,
        device=device,
        parallelism=parallelism_of(measured, config.cluster, model),
        limits=engine_limits(config.scheduler, engine_limits(measured.engine, defaults)),
        link=instance_link(links, device),
        speculation=drafts_of(measured, config.speculation, release(measured, config)),
    )
    balancer = Balancer(**balancer_rules(named))
    return ClusterSpec((_without_idle_cache(instance, measured, config),) * measured.instances, config.cluster.router, balancer=balancer)


def _without_idle_cache(instance: InstanceSpec, measured: MeasuredRun, config: ValidateConfig | CalibrateConfig) -> InstanceSpec:
    """The instance without its prefix cache where it has pp stages or drafts, and nobody knows of anything that requests shared: only
    preempted ones would find something, and steps are taken one by one.
    """
    known = measured.prefixes is not None or measured.prefix_key is not None or config.scheduler.enable_prefix_caching is not None
    if known or (instance.parallelism.pipeline == 1 and instance.speculation is None):
        return instance
    return replace(instance, limits=replace(instance.limits, enable_prefix_caching=False))
