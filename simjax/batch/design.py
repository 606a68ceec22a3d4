"""Designs: clusters under workloads as the engine's arrays, wired together here for everything that simulates many of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming, cluster_timings
from simjax.cluster.warnings import about_models, beyond_context, refused_by_vllm
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.lowering.power import plant_of, with_power
from simjax.engine.host.pools import Pools, pools_of
from simjax.engine.host.tiers import TierSizes, tier_sizes
from simjax.engine.params import RequestParams
from simjax.engine.simulate import DEFAULT_MAX_TICKS
from simjax.errors import SimjaxError, value_or_raise
from simjax.metrics.slo import Slo
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.power.plant import Plant
from simjax.power.source import PowerSource
from simjax.pricing.rates import Prices, Rates
from simjax.validity.groups import InstanceGroup
from simjax.workload.workload import Workload


class RunOptions(NamedTuple):
    """Options of how a simulation is run and judged.

    Attributes:
        seed: seed of the random router.
        leap: take pure-decode steps many at a time (same results, faster).
        max_ticks: bound on the length of the run, in ticks.
        slo: limits for goodput, None for none.
        window: what is left out of the metrics.
        activity: record busy seconds, tokens by phase and extremes of the steps of each instance.
        power: power of devices and servers, None to leave energy out.
        prices: money and carbon, None to leave them out.
    """

    seed: int = 0
    leap: bool = True
    max_ticks: int = DEFAULT_MAX_TICKS
    slo: Slo | None = None
    activity: bool = False
    window: Window = AUTOMATIC
    power: PowerSource | None = None
    prices: Prices | None = None


DEFAULT_OPTIONS = RunOptions()


@dataclass(frozen=True)
class Design:
    """A cluster under a workload, ready to be simulated in a batch.

    Attributes:
        lowered: its arrays; tables of equal workloads, and of all step times, are the same objects.
        gpus: devices of its cluster.
        slo: limits for its goodput.
        window: what is left out of its metrics.
        max_ticks: bound on the length of its run, in ticks.
        calibrated: the groups of its instances whose profile has a calibration, and so ranges that the run may leave.
        pools: its prefill and decode instances, None if all run both phases.
        tiers: sizes of the KV tiers of its instances, None without.
        plant: power of its devices at rest, of its servers and its building; None without power.
        rates: its money and carbon by the hour; None without.
    """

    lowered: Lowered
    gpus: int
    slo: Slo | None
    window: Window
    max_ticks: int
    calibrated: tuple[InstanceGroup, ...] = ()
    pools: Pools | None = None
    tiers: TierSizes | None = None
    plant: Plant | None = None
    rates: Rates | None = None


def design_of(
    cluster: ClusterSpec,
    timing: ClusterTiming,
    workload: Workload,
    options: RunOptions = DEFAULT_OPTIONS,
    requests: RequestParams | None = None,
    calibrated: tuple[InstanceGroup, ...] = (),
    log: bool = False,
) -> Design:
    """The design of a cluster under a workload.

    Args:
        cluster: instances and router.
        timing: their step times.
        workload: the requests.
        options: options of how it is run and judged.
        requests: arrays of the workload, which designs of one batch share; None to make them.
        calibrated: the groups of instances whose ranges are watched.
        log: record a leap log, from which time series and inter-token latencies are made; batches have none.

    Raises:
        SimjaxError: the workload is malformed, or a request can never be served by any instance.
    """
    lowered = lower(cluster, timing, workload, seed=options.seed, leap=options.leap, log=log, requests=requests)
    # Groups whose ranges are watched need the smallest and largest steps of the run: from its leap log, or else from its activity.
    if options.activity or (calibrated and not log):
        lowered = replace(lowered, shape=replace(lowered.shape, activity=True))
    plant = None
    if options.power is not None:
        plant = plant_of(cluster, options.power)
        lowered = with_power(lowered, cluster, timing, options.power)
    return Design(
        lowered,
        cluster.num_devices,
        options.slo,
        options.window,
        options.max_ticks,
        calibrated,
        pools_of(cluster, lowered.params, named=log),
        tier_sizes(cluster, lowered.params),
        plant,
        None if options.prices is None else options.prices.of(_devices(cluster)),
    )


def _devices(cluster: ClusterSpec) -> dict[str, int]:
    """The devices of a cluster by short name."""
    found: dict[str, int] = {}
    for instance in cluster.instances:
        found[instance.device.name] = found.get(instance.device.name, 0) + instance.parallelism.num_devices
    return found


def timings_for(
    clusters: Sequence[tuple[InstanceSpec, ...]],
    sources: Sequence[LatencySource | Sequence[LatencySource]],
    workloads: Iterable[Workload],
) -> list[ClusterTiming | SimjaxError]:
    """Step times of clusters that serve some of the workloads, or why a cluster has none; one table, no longer than the workloads need.

    Args:
        clusters: the instances of each cluster.
        sources: sources of the step times of each cluster, one for all of its instances or one for each.
        workloads: all workloads that any of the clusters serves.
    """
    every = list(workloads)
    most_tokens, most_requests = max((x.tokens for x in every), default=None), max(map(len, every), default=None)
    return cluster_timings(clusters, sources, most_tokens, most_requests)


def required_timings(
    clusters: Sequence[tuple[InstanceSpec, ...]],
    sources: Sequence[LatencySource | Sequence[LatencySource]],
    workloads: Iterable[Workload],
) -> list[ClusterTiming]:
    """As `timings_for`, where every cluster must have step times.

    Raises:
        SimjaxError: one has none.
    """
    return [value_or_raise(timing) for timing in timings_for(clusters, sources, workloads)]


def known_warnings(instances: Sequence[InstanceSpec], timing: ClusterTiming, longest_tokens: int) -> list[str]:
    """The warnings that are known before a run: flags that vLLM would refuse, and step times used outside what they were measured on.

    Args:
        instances: the instances of a cluster.
        timing: their step times.
        longest_tokens: tokens of the longest request, prompt and output.
    """
    lines = [*about_models(instances), *refused_by_vllm(instances)]
    return [*lines, *timing.warnings, *beyond_context(timing.measured, longest_tokens)]
