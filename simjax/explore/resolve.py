"""From points to designs: the arrays that each point simulates, or why it cannot be simulated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from simjax.batch.design import Design, RunOptions, design_of, timings_for
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import LatencySource, held_down, latency_source
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.cluster.warnings import about_models, about_requests, beyond_context, refused_by_vllm
from simjax.config.conditional import conditional_options
from simjax.config.schema import RunConfig
from simjax.engine.host.lowering.requests import request_params
from simjax.engine.params import RequestParams
from simjax.errors import SimjaxError, value_or_error
from simjax.explore.from_config import check_base
from simjax.explore.options import Options
from simjax.explore.points import Points
from simjax.explore.values import format_value
from simjax.job import measurement_window, service_levels
from simjax.options.effect import implausible, looking_at, without_effect
from simjax.power.source import PowerSource, power_source
from simjax.pricing.rates import prices_of
from simjax.validity.groups import InstanceGroup, Profiles, calibrated_groups
from simjax.workload import build_workload
from simjax.workload.synthetic.extent import longest
from simjax.workload.workload import Workload

_T = TypeVar("_T")

# Roots of the options that each part of a design depends on.
WORKLOAD, RUN = ("workload",), ("sim", "slo", "metrics", "price")
CLUSTER = (
    *("model", "device", "cluster", "network", "scheduler", "backend", "speculation", "kv_tiers", "weights", "pim", "disaggregation"),
    *("profile", "power"),
)
_LOGGED = 3  # messages of a kind that are logged; the rest are only counted


@dataclass(frozen=True)
class Resolved:
    """The points of a sweep, resolved.

    Attributes:
        designs: the designs of the points that can be simulated.
        invalid: why the others cannot be.
        extensible: the points whose workload can be lengthened, because its length is automatic.
        warnings: caveats for a reader of the numbers, one line each.
    """

    designs: dict[int, Design]
    invalid: dict[int, str]
    extensible: frozenset[int]
    warnings: tuple[str, ...]


class _Requests(NamedTuple):
    workload: Workload
    params: RequestParams
    extensible: bool


class _Cluster(NamedTuple):
    spec: ClusterSpec
    source: LatencySource
    calibrated: tuple[InstanceGroup, ...]
    idle: tuple[str, ...]  # options that have no effect in it
    power: PowerSource | None


def resolve(base: Sequence[str], points: Points, which: Sequence[int], lengthen: bool = False) -> Resolved:
    """The designs of the points numbered in `which`; with `lengthen` those of automatic length as long as can be.

    A configuration has parts that do not depend on each other: the workload, the cluster with its step times, and the rest. Each part is
    built once for each combination of the values that it depends on.

    Raises:
        SimjaxError: the base itself is wrong.
    """
    options = Options(base, points.keys)
    check_base(base, points, options.unresolved())
    if options.config({}).uncertainty.draws:
        raise SimjaxError("uncertainty.draws: a sweep has no intervals; leave it out, and simulate a point of it as a single run with it")
    unread = [key for key in points.keys if key.split(".")[0] not in (*WORKLOAD, *CLUSTER, *RUN)]
    if unread:
        raise SimjaxError(f"{unread[0]} cannot be swept: no part of a design depends on it")
    with _few_messages():
        clusters = _part(options, points, which, CLUSTER, partial(_cluster, {}))
        requests = _part(options, points, which, WORKLOAD, partial(_requests, _caching(clusters.values()), lengthen))
        runs = _part(options, points, which, RUN, _run)
    distinct = {id(built): built for built in clusters.values() if isinstance(built, _Cluster)}
    workloads = {id(built): built.workload for built in requests.values() if isinstance(built, _Requests)}
    found = timings_for([x.spec.instances for x in distinct.values()], [x.source for x in distinct.values()], workloads.values())
    timings = dict(zip(distinct, found, strict=True))
    designs, invalid = {}, {}
    for point in which:
        made = _design(clusters[point], requests[point], runs[point], timings.get(id(clusters[point])))
        if isinstance(made, Design):
            designs[point] = made
        else:
            invalid[point] = str(made)
    warned = [*_idle(list(distinct.values())), *_doubts(options, points, which)]
    warned += _idle_routers(clusters, requests, designs)
    warned += [line for timing in found if isinstance(timing, ClusterTiming) for line in timing.warnings]
    warned += _cluster_warnings(clusters, requests, timings, designs)
    extensible = frozenset(x for x in designs if isinstance(built := requests[x], _Requests) and built.extensible)
    return Resolved(designs, invalid, extensible, tuple(dict.fromkeys(warned)))


def _idle(clusters: Sequence[_Cluster]) -> list[str]:
    """A line for each option of the clusters that has no effect in any of them."""
    every = [set(built.idle) for built in clusters]
    return [line for line in clusters[0].idle if all(line in idle for idle in every)] if clusters else []


def _doubts(options: Options, points: Points, which: Sequence[int]) -> list[str]:
    """A line for each number, of the base or swept, that was probably given in another unit; of an axis the first such value."""
    lines = implausible(RunConfig, looking_at(options.config({})))
    for number, key in enumerate(points.keys):
        doubts = (implausible(RunConfig, {key: points.rows[point][number]}.get) for point in which)
        lines += next((found for found in doubts if found), [])
    return lines


def _idle_routers(clusters: Mapping[int, Any], requests: Mapping[int, Any], designs: Mapping[int, Design]) -> list[str]:
    """The lines about routers that look for what is not there."""
    pairs = {(id(clusters[point]), id(requests[point])): point for point in designs}
    return [line for point in pairs.values() for line in about_requests(clusters[point].spec, requests[point].workload)]


def _design(
    cluster: _Cluster | SimjaxError,
    requests: _Requests | SimjaxError,
    run: RunOptions | SimjaxError,
    timing: ClusterTiming | SimjaxError | None,
) -> Design | SimjaxError:
    for part in (cluster, requests, run, timing):
        if isinstance(part, SimjaxError):
            return part
    assert isinstance(cluster, _Cluster) and isinstance(requests, _Requests)
    assert isinstance(run, RunOptions) and isinstance(timing, ClusterTiming)
    run = run._replace(power=cluster.power)
    return value_or_error(lambda: design_of(cluster.spec, timing, requests.workload, run, requests.params, cluster.calibrated))


def _part(
    options: Options, points: Points, which: Sequence[int], roots: tuple[str, ...], build: Callable[[RunConfig], _T]
) -> dict[int, _T | SimjaxError]:
    """The part that `build` makes of each point's configuration, of which it reads the options under `roots` only, or its error."""
    columns = [number for number, key in enumerate(points.keys) if key.split(".")[0] in roots]
    built: dict[tuple, _T | SimjaxError] = {}
    found: dict[int, _T | SimjaxError] = {}
    for point in which:
        values = {points.keys[number]: points.rows[point][number] for number in columns}
        key = tuple(map(_hashable, values.values()))
        if key not in built:
            built[key] = value_or_error(lambda values=values: build(options.config(values)))
        found[point] = built[key]
    return found


def _hashable(value: Any) -> Any:
    """A value as a key that keeps 1, True and 1.0 apart."""
    return (type(value), value) if isinstance(value, int | float | str | None) else format_value(value)


def _caching(clusters: Iterable[_Cluster | SimjaxError]) -> bool:
    """Whether an instance caches prefixes whatever workload it serves."""
    specs = [built.spec for built in clusters if isinstance(built, _Cluster)]
    return any(instance.limits.enable_prefix_caching for spec in specs for instance in spec.instances)


def _requests(contents: bool, lengthen: bool, config: RunConfig) -> _Requests:
    longer = longest(config.workload)
    workload = build_workload(longer if lengthen and longer is not None else config.workload).validate()
    params = request_params([workload], len(workload), [config.workload.seed], contents)
    return _Requests(workload, params, longer is not None and not lengthen)


def _cluster(known: Profiles, config: RunConfig) -> _Cluster:
    spec, power = configured_cluster(config), power_source(config.power, config.cluster.file)
    source = held_down(latency_source(config.profile), power)
    calibrated = value_or_error(lambda: calibrated_groups(spec, source, known))  # an error here is reported with the step times
    idle = tuple(without_effect(conditional_options(RunConfig), looking_at(config)))
    return _Cluster(spec, source, () if isinstance(calibrated, SimjaxError) else calibrated, idle, power)


def _run(config: RunConfig) -> RunOptions:
    sim, slo, window = config.sim, service_levels(config.slo), measurement_window(config.metrics)
    options = RunOptions(leap=sim.leap, max_ticks=sim.max_ticks, slo=slo, activity=sim.activity, window=window)  # requests hold the draws
    return options._replace(prices=prices_of(config.price))


def _cluster_warnings(
    clusters: Mapping[int, Any],
    requests: Mapping[int, Any],
    timings: Mapping[int, ClusterTiming | SimjaxError],
    designs: Mapping[int, Design],
) -> list[str]:
    """The warnings of single runs: flags that vLLM would refuse, and for each source of step times, requests beyond what was measured."""
    lines: list[str] = []
    refused: dict[int, _Cluster] = {}
    longest: dict[tuple[str, int], int] = {}
    for point in designs:
        built, timing = clusters[point], timings[id(clusters[point])]
        refused[id(built)] = built
        assert isinstance(timing, ClusterTiming)
        for source in timing.measured:
            longest[source] = max(longest.get(source, 0), requests[point].workload.longest_tokens)
    for source, tokens in longest.items():
        lines += beyond_context([source], tokens)
    lines += dict.fromkeys(line for built in refused.values() for line in about_models(built.spec.instances))
    never = [line for built in refused.values() for line in refused_by_vllm(built.spec.instances)]
    never = list(dict.fromkeys(never))
    more = [f"and {len(never) - _LOGGED} more designs with which vLLM would not start"] if len(never) > _LOGGED else []
    return [*lines, *never[:_LOGGED], *more]


@contextmanager
def _few_messages() -> Iterator[None]:
    """Limit the messages of each kind that the workloads of a sweep log: thousands of points may log the same."""
    logger = logging.getLogger("simjax.workload.build")
    seen: dict[str, int] = {}

    def first(record: logging.LogRecord) -> bool:
        seen[record.msg] = seen.get(record.msg, 0) + 1
        return seen[record.msg] <= _LOGGED

    logger.addFilter(first)
    try:
        yield
    finally:
        logger.removeFilter(first)
        for message, count in seen.items():
            if count > _LOGGED:
                logger.warning("%d more like: %s", count - _LOGGED, message.partition(":")[0])
