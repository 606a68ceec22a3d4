"""From points to designs: what each point simulates, as arrays; or why it cannot be simulated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from simjax.cluster.from_config import build_cluster, latency_source
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming, cluster_timings
from simjax.cluster.warnings import beyond_context, refused_by_vllm
from simjax.config.schema import RunConfig
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.lower_requests import request_params
from simjax.engine.params import RequestParams
from simjax.errors import SimjaxError, attempt
from simjax.explore.from_config import check_base
from simjax.explore.options import Options
from simjax.explore.points import Points
from simjax.explore.values import format_value
from simjax.job import service_levels
from simjax.metrics.slo import Slo
from simjax.workload import build_workload
from simjax.workload.workload import Workload

_T = TypeVar("_T")

# The roots of the options that each part of a design depends on.
LOAD, ENGINES, RUN = ("workload",), ("model", "device", "cluster", "scheduler", "profile"), ("sim", "slo")
_LOGGED = 3  # messages of a kind before the rest is only counted


@dataclass(frozen=True)
class Design:
    """A point that can be simulated.

    Attributes:
        lowered: its arrays; tables of equal workloads, and of all costs, are the same objects.
        slo: limits for its goodput.
        gpus: devices of its cluster.
        max_ticks: bound on the length of its run.
    """

    lowered: Lowered
    slo: Slo | None
    gpus: int
    max_ticks: int


@dataclass(frozen=True)
class Resolved:
    """The designs of a sweep by point, the reasons of those points that have none, and what a reader of the numbers must know."""

    designs: dict[int, Design]
    invalid: dict[int, str]
    warnings: tuple[str, ...]


class _Load(NamedTuple):
    workload: Workload
    requests: RequestParams


class _Engines(NamedTuple):
    cluster: ClusterSpec
    source: LatencySource


class _Run(NamedTuple):
    leap: bool
    max_ticks: int
    slo: Slo | None


def resolve(base: Sequence[str], points: Points, which: Sequence[int]) -> Resolved:
    """The designs of the points numbered in `which`.

    A configuration has parts that do not see each other: the workload, the engines with their costs, and the rest. Each part is built once
    for each combination of the values that it depends on.

    Raises:
        SimjaxError: the base itself is wrong.
    """
    options = Options(base, points.keys)
    check_base(base, points, options.unresolved())
    if options.config({}).uncertainty.draws:
        raise SimjaxError("uncertainty.draws: a sweep has no intervals; leave it out, and simulate a point of it as a single run with it")
    unread = [key for key in points.keys if key.split(".")[0] not in (*LOAD, *ENGINES, *RUN)]
    if unread:
        raise SimjaxError(f"{unread[0]} cannot be swept: no part of a design depends on it")
    with _few_messages():
        engines = _part(options, points, which, ENGINES, _engines)
        loads = _part(options, points, which, LOAD, partial(_load, _caching(engines.values())))
        runs = _part(options, points, which, RUN, _run)
    distinct = {id(built): built for built in engines.values() if isinstance(built, _Engines)}
    workloads = {id(load): load.workload for load in loads.values() if isinstance(load, _Load)}.values()
    found = cluster_timings(
        [built.cluster.instances for built in distinct.values()],
        [built.source for built in distinct.values()],
        most_tokens=max((workload.tokens for workload in workloads), default=None),
        most_seqs=max(map(len, workloads), default=None),
    )
    timings = dict(zip(distinct, found, strict=True))
    designs, invalid = {}, {}
    for point in which:
        made = _design(engines[point], loads[point], runs[point], timings.get(id(engines[point])))
        if isinstance(made, Design):
            designs[point] = made
        else:
            invalid[point] = str(made)
    warned = [line for timing in found if isinstance(timing, ClusterTiming) for line in timing.warnings]
    warned += _cluster_warnings(engines, loads, timings, designs)
    return Resolved(designs, invalid, tuple(dict.fromkeys(warned)))


def _design(
    engines: _Engines | SimjaxError, load: _Load | SimjaxError, run: _Run | SimjaxError, timings: ClusterTiming | SimjaxError | None
) -> Design | SimjaxError:
    for part in (engines, load, run, timings):
        if isinstance(part, SimjaxError):
            return part
    assert isinstance(engines, _Engines) and isinstance(load, _Load) and isinstance(run, _Run) and isinstance(timings, ClusterTiming)
    lowered = attempt(lambda: lower(engines.cluster, timings, load.workload, leap=run.leap, log=False, requests=load.requests))
    return lowered if isinstance(lowered, SimjaxError) else Design(lowered, run.slo, engines.cluster.num_devices, run.max_ticks)


def _part(
    options: Options, points: Points, which: Sequence[int], roots: tuple[str, ...], build: Callable[[RunConfig], _T]
) -> dict[int, _T | SimjaxError]:
    """What `build` makes of each point's configuration, of which it reads the options under `roots` only; or the mistake in them."""
    columns = [number for number, key in enumerate(points.keys) if key.split(".")[0] in roots]
    built: dict[tuple, _T | SimjaxError] = {}
    found: dict[int, _T | SimjaxError] = {}
    for point in which:
        values = {points.keys[number]: points.rows[point][number] for number in columns}
        key = tuple(map(_hashable, values.values()))
        if key not in built:
            built[key] = attempt(lambda values=values: build(options.config(values)))
        found[point] = built[key]
    return found


def _hashable(value: Any) -> Any:
    """A value to tell apart what it builds: 1 and True and 1.0 are different."""
    return (type(value), value) if isinstance(value, int | float | str | None) else format_value(value)


def _caching(engines: Iterable[_Engines | SimjaxError]) -> bool:
    """Whether an engine caches prefixes whatever it serves."""
    clusters = [built.cluster for built in engines if isinstance(built, _Engines)]
    return any(instance.limits.enable_prefix_caching for cluster in clusters for instance in cluster.instances)


def _load(contents: bool, config: RunConfig) -> _Load:
    workload = build_workload(config.workload).validate()
    return _Load(workload, request_params([workload], len(workload), [config.workload.seed], contents))


def _engines(config: RunConfig) -> _Engines:
    return _Engines(build_cluster(config.model, config.device, config.cluster, config.scheduler), latency_source(config.profile))


def _run(config: RunConfig) -> _Run:
    return _Run(config.sim.leap, config.sim.max_ticks, service_levels(config.slo))


def _cluster_warnings(
    engines: Mapping[int, Any], loads: Mapping[int, Any], timings: Mapping[int, ClusterTiming | SimjaxError], designs: Mapping[int, Design]
) -> list[str]:
    """What single runs warn of: flags that vLLM would refuse, and once for each source of costs, requests longer than what was measured."""
    lines: list[str] = []
    refused: dict[int, _Engines] = {}
    longest: dict[tuple[str, int], int] = {}
    for point in designs:
        built, timing = engines[point], timings[id(engines[point])]
        refused[id(built)] = built
        assert isinstance(timing, ClusterTiming)
        for source in timing.measured:
            longest[source] = max(longest.get(source, 0), loads[point].workload.longest_tokens)
    for source, tokens in longest.items():
        lines += beyond_context([source], tokens)
    never = [line for built in refused.values() for line in refused_by_vllm(built.cluster.instances)]
    never = list(dict.fromkeys(never))
    more = [f"and {len(never) - _LOGGED} more designs with which vLLM would not start"] if len(never) > _LOGGED else []
    return [*lines, *never[:_LOGGED], *more]


@contextmanager
def _few_messages() -> Iterator[None]:
    """Let the workloads of a sweep log the first few messages of each kind; thousands of points may say the same."""
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
