"""Single runs: from a configuration, or a cluster and a workload, to a simulated result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from simjax.batch.design import RunOptions, design_of, known_warnings
from simjax.caveat import grouped
from simjax.cluster.alike import alike_instances
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import LatencySource, held_down, latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.cluster.warnings import about_requests
from simjax.config.conditional import conditional_options
from simjax.config.schema import MetricsConfig, SimulatedConfig, SloConfig
from simjax.engine.host.result import Result
from simjax.engine.simulate import DEFAULT_MAX_TICKS, simulate
from simjax.metrics.slo import Slo
from simjax.metrics.steady.verdict import is_undecided
from simjax.metrics.steady.window import Window
from simjax.options.effect import implausible, looking_at, without_effect
from simjax.power.source import PowerSource, power_source
from simjax.pricing.rates import Prices, prices_of
from simjax.renamed import renamed
from simjax.validity.groups import calibrated_groups
from simjax.validity.left import LeftRanges
from simjax.workload import build_workload
from simjax.workload.config import WorkloadConfig
from simjax.workload.synthetic.extent import longest
from simjax.workload.workload import Workload

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        cluster: the instances and their router.
        workload: the requests.
        result: the outcome.
        warnings: caveats for a reader of the numbers, one line each: options without effect or in doubt, flags that vLLM would refuse, and
            step times used outside what they were measured or calibrated on; what the step times rest on comes last, in one line.
    """

    cluster: ClusterSpec
    workload: Workload
    result: Result
    warnings: tuple[str, ...]


def simulate_cluster(
    cluster: ClusterSpec,
    workload: Workload,
    source: LatencySource | None = None,
    *,
    seed: int = 0,
    leap: bool = True,
    max_ticks: int = DEFAULT_MAX_TICKS,
    activity: bool = False,
    power: PowerSource | None = None,
    prices: Prices | None = None,
    on_progress: Progress | None = None,
) -> Run:
    """Simulate a workload on a cluster.

    Args:
        cluster: instances and router.
        workload: the requests.
        source: source of step times; the shipped profiles when None.
        seed: seed of the random router.
        leap: take pure-decode steps many at a time (same results, faster).
        max_ticks: bound on the length of the run, in ticks.
        activity: record busy seconds and tokens by phase of each instance (`Result.instances`).
        power: power of devices and servers, None to leave energy out.
        prices: money and carbon, None to leave them out.
        on_progress: called now and then with (requests finished, all requests).

    Raises:
        SimjaxError: a model does not fit its device, there are no step times for it, or a request can never be served.
    """
    source = source or LatencySource()
    timing = cluster_timing(cluster.instances, source)
    options = RunOptions(seed, leap, max_ticks, activity=activity, power=power, prices=prices)
    design = design_of(cluster, timing, workload, options, calibrated=calibrated_groups(cluster, source), log=True)
    result = simulate(design.lowered.shape, design.lowered.params, max_ticks, on_progress)
    result = replace(result, sessions=workload.sessions, stationary=workload.stationary, pools=design.pools)
    found = {"alike_instances": alike_instances(cluster), "tiers": design.tiers, "plant": design.plant, "rates": design.rates}
    result = replace(result, classes=workload.classes, **found)
    left = LeftRanges()
    left.add(design.calibrated, result)
    known = [*about_requests(cluster, workload), *known_warnings(cluster.instances, timing, workload.longest_tokens)]
    return Run(cluster, workload, result, grouped(left.warnings_of_run(known)))


def service_levels(config: SloConfig) -> Slo | None:
    """The service-level limits that a configuration sets, None when it sets none."""
    limits = {name: limit for name, limit in asdict(config).items() if limit is not None}
    return Slo(**limits) if limits else None


def measurement_window(config: MetricsConfig) -> Window:
    """The measurement window that a configuration describes."""
    return Window(**asdict(config))


def run(config: SimulatedConfig, on_progress: Progress | None = None) -> Run:
    """Simulate the cluster and workload of a configuration (`simjax.compose` makes one from command-line overrides).

    A workload whose length is automatic is simulated again, as long as can be, if the run turns out too short to say whether it is steady.

    Args:
        config: the configuration.
        on_progress: called now and then with (requests finished, all requests).

    Raises:
        SimjaxError: as for `simulate_cluster`, or a file or value of the configuration is wrong.
    """
    cluster = configured_cluster(config)
    power, prices = power_source(config.power, config.cluster.file), prices_of(config.price)
    source = held_down(latency_source(config.profile), power)

    def simulated(workload: WorkloadConfig) -> Run:
        return simulate_cluster(
            cluster,
            build_workload(workload),
            source,
            seed=workload.seed,
            leap=config.sim.leap,
            max_ticks=config.sim.max_ticks,
            activity=config.sim.activity,
            power=power,
            prices=prices,
            on_progress=on_progress,
        )

    done, longer = simulated(config.workload), longest(config.workload)
    if longer is not None and is_undecided(done.result):
        done = simulated(longer)
    return replace(done, warnings=(*about_options(config), *done.warnings))


def about_options(config: SimulatedConfig) -> list[str]:
    """One line for each option of a configuration that has no effect, or whose number was probably given in another unit."""
    kind, look = type(config), looking_at(config)
    return [*without_effect(conditional_options(kind), look), *implausible(kind, look)]


def _current(name: str) -> Any:
    if name in globals():
        return globals()[name]
    raise AttributeError(f"module 'simjax.job' has no attribute '{name}'")


__getattr__ = renamed("simjax.job", {"cost_source": "latency_source"}, _current)
