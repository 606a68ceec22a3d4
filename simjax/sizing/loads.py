"""Designs under loads whose rate is still open: one request (of sessions: one start) a second, to be made faster or slower.

Arrivals are drawn for the rate 1 and divided by each rate that is tried, so that all rates of a seed see the same requests in the same
order, and differences between rates are not luck. Nothing but arrival times changes, so no rate needs a program of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simjax.batch.design import Design
from simjax.batch.forecast import forecast
from simjax.config.capacity import FEW, SearchConfig
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError, value_or_error
from simjax.explore.keys import SEED
from simjax.explore.options import Options
from simjax.explore.points import Points
from simjax.explore.resolve import resolve
from simjax.explore.values import format_value
from simjax.workload.classes import LIMITS

FEWEST, MOST = 2_048, 65_536  # requests of a workload, where the user gives no number
_TIMES_HELD, _TIMES_HELD_OF_MANY = 16, 8  # requests of a workload, in those that the cluster holds at once; of many designs fewer
_MARGIN = 1.3  # of the forecast of that number
_STEP = 256  # to multiples of which that number is rounded
_BURST = 1e9  # requests/s at which all of them arrive at once
_RATE, _SESSION_RATE, _REQUESTS, _SESSIONS, _DURATION = (
    f"workload.{name}" for name in ("rate", "session_rate", "num_requests", "num_sessions", "duration_s")
)
_SET_BY_SEARCH = (_RATE, _SESSION_RATE, _REQUESTS, _SESSIONS, _DURATION)
_OPEN = ("poisson", "gamma", "weibull", "constant", "sessions", "trace")


@dataclass(frozen=True)
class Load:
    """A design under one seed's requests at a rate of 1/s.

    Attributes:
        design: the design.
        starts: arrivals that the rate counts: requests, or starts of sessions.
    """

    design: Design
    starts: int

    def at(self, rate: float) -> Design:
        """The design under the same requests at another rate."""
        lowered = self.design.lowered
        requests = lowered.params.requests
        faster: Any = np.asarray(requests.arrival_s) / rate
        params = replace(lowered.params, requests=replace(requests, arrival_s=faster))
        return replace(self.design, lowered=replace(lowered, params=params))

    def on(self, other: Design) -> Load:
        """The same requests on the cluster of another design, whose table of step times a batch then holds only once."""
        params = replace(other.lowered.params, requests=self.design.lowered.params.requests)
        return replace(self, design=replace(other, lowered=replace(self.design.lowered, params=params)))

    @property
    def burst(self) -> Design:
        """The design with all requests at once."""
        return self.at(_BURST)

    @property
    def requests(self) -> int:
        """Number of requests."""
        return int(self.design.lowered.params.requests.count[0])


@dataclass(frozen=True)
class Loads:
    """The loads of many designs.

    Attributes:
        of: loads by point, one for each seed that gives other requests.
        counts: requests (of sessions: sessions) of a workload, by point.
        invalid: why the other points cannot be simulated, by point.
        warnings: caveats for a reader of the numbers, one line each.
    """

    of: dict[int, tuple[Load, ...]]
    counts: dict[int, int]
    invalid: dict[int, str]
    warnings: tuple[str, ...]


def loads_of(base: Sequence[str], points: Points, which: Sequence[int], search: SearchConfig) -> Loads:
    """The loads of the points numbered in `which`.

    Args:
        base: overrides that all points share.
        points: values of the swept keys.
        which: numbers of points.
        search: how many seeds and requests.

    Raises:
        SimjaxError: the base is wrong, or it or the points set what the search sets.
    """
    options = Options(base, points.keys)
    _refuse_set(base, points, options.config({}))
    configs, invalid = _configs(options, points, which)
    counts = dict.fromkeys(configs, search.num_requests or FEWEST)
    if search.num_requests is None:
        once = _resolved(base, points, configs, counts, range(1))
        invalid |= once.invalid
        configs = {point: config for point, config in configs.items() if point not in invalid}
        counts |= _lengths(once, _TIMES_HELD if len(points) <= FEW else _TIMES_HELD_OF_MANY)
    found = _resolved(base, points, configs, counts, range(search.seeds))
    return Loads({point: _distinct(loads) for point, loads in found.of.items()}, counts, invalid | found.invalid, found.warnings)


def further_loads(base: Sequence[str], points: Points, found: Loads, seeds: Mapping[int, range]) -> dict[int, tuple[Load, ...]]:
    """Loads of more seeds.

    Args:
        base: overrides that all points share.
        points: values of the swept keys.
        found: the loads of the first seeds.
        seeds: the seeds by point, counted from `workload.seed`; their number is the same for all points.
    """
    more: dict[int, tuple[Load, ...]] = {}
    for wanted in set(seeds.values()):
        configs, _ = _configs(Options(base, points.keys), points, [point for point, own in seeds.items() if own == wanted])
        more |= _resolved(base, points, configs, found.counts, wanted).of
    return more


def _configs(options: Options, points: Points, which: Sequence[int]) -> tuple[dict[int, RunConfig], dict[int, str]]:
    """Configurations of points, and why the others have none."""
    configs: dict[int, RunConfig] = {}
    invalid: dict[int, str] = {}
    for point in which:
        values = dict(zip(points.keys, points.rows[point], strict=True))
        config = value_or_error(lambda values=values: _checked(options.config(values)))
        if isinstance(config, SimjaxError):
            invalid[point] = str(config)
        else:
            configs[point] = config
    return configs, invalid


def _lengths(once: Loads, times: int) -> dict[int, int]:
    """Requests (sessions) of a workload that is long enough to see a steady state, by point: so many times as many as fit at once."""
    if not once.of:
        return {}
    held = forecast([loads[0].burst.lowered for loads in once.of.values()]).held
    counts = {}
    for (point, (load, *_)), fullest in zip(once.of.items(), held, strict=True):
        calls = load.requests / load.starts
        wanted = times * load.design.lowered.shape.ranks * int(fullest) / _MARGIN / calls
        counts[point] = min(max(_STEP * math.ceil(wanted / _STEP), math.ceil(FEWEST / calls)), MOST)
    return counts


def _resolved(base: Sequence[str], points: Points, configs: Mapping[int, RunConfig], counts: Mapping[int, int], seeds: range) -> Loads:
    """The loads of the points that have a configuration, for the seeds that lie so far from their `workload.seed`."""
    rows, owner = [], []
    for point, config in configs.items():
        for seed in seeds:
            own = dict(zip(points.keys, points.rows[point], strict=True))
            own |= _settings(config, counts[point], config.workload.seed + seed)
            rows.append(tuple(own.values()))
            owner.append(point)
    if not rows:
        return Loads({}, {}, {}, ())
    keys = tuple(dict.fromkeys([*points.keys, *_SET_BY_SEARCH, SEED]))
    fixed = [x for x in base if x.partition("=")[0].lstrip("+") not in (*_SET_BY_SEARCH, SEED)]
    resolved = resolve(fixed, Points(keys, tuple(rows)), range(len(rows)))
    of: dict[int, tuple[Load, ...]] = {}
    for row, design in resolved.designs.items():
        starts = int(np.isfinite(np.asarray(design.lowered.params.requests.arrival_s)).sum())
        of[owner[row]] = (*of.get(owner[row], ()), Load(design, starts))
    invalid = {owner[row]: reason for row, reason in resolved.invalid.items()}
    return Loads({point: loads for point, loads in of.items() if point not in invalid}, dict(counts), invalid, resolved.warnings)


def _settings(config: RunConfig, count: int, seed: int) -> dict[str, Any]:
    """Values of the options that the search sets: a rate of 1/s, and how long the workload is. A trace is as long as its user wants it."""
    workload = config.workload
    starts = workload.session_rate is not None
    own = {_RATE: None if starts else 1.0, _SESSION_RATE: 1.0 if starts else None}
    if workload.kind == "trace":
        length = {_REQUESTS: workload.num_requests, _SESSIONS: workload.num_sessions, _DURATION: workload.duration_s}
    else:
        sessions = workload.kind == "sessions"
        length = {_REQUESTS: None if sessions else count, _SESSIONS: count if sessions else None, _DURATION: None}
    return own | length | {SEED: seed}


def _distinct(loads: Sequence[Load]) -> tuple[Load, ...]:
    """The loads of all seeds, or only the first where the others are the same: a trace has no randomness of its own."""
    first, *others = (load.design.lowered.params for load in loads)
    same = lambda x, name: np.array_equal(getattr(x.requests, name), getattr(first.requests, name))
    drawn = ("arrival_s", "prompt_tokens", "output_tokens", *([] if first.requests.priority is None else ["priority"]))
    alike = all(same(x, name) for x in others for name in drawn)
    return (loads[0],) if alike and not bool(first.router.random) else tuple(loads)


def _checked(config: RunConfig) -> RunConfig:
    """The configuration, if its workload has a rate.

    Raises:
        SimjaxError: it has none.
    """
    kind = config.workload.kind
    if kind not in _OPEN:
        other = "give an open workload, or sweep workload.concurrency" if kind == "closed_loop" else f"use {', '.join(_OPEN)}"
        raise SimjaxError(f"workload.kind={kind} has no one rate to search for; {other}")
    for name, one in config.workload.classes.items():
        if own := [limit for limit in LIMITS if one.get(limit) is not None]:
            raise SimjaxError(f"workload.classes.{name}.{own[0]}: a search holds all requests to slo.*; leave out the limits of classes")
    return config


def _refuse_set(base: Sequence[str], points: Points, config: RunConfig) -> None:
    trace = config.workload.kind == "trace"
    allowed = (_REQUESTS, _SESSIONS, _DURATION, _SESSION_RATE) if trace else ()
    given = {x.partition("=")[0].lstrip("+"): x for x in base} | {key: f"{key}=..." for key in points.keys}
    for key, shown in given.items():
        if key in (*_SET_BY_SEARCH, "workload.rate_scale") and key not in allowed and not shown.endswith("=null"):
            instead = "capacity.num_requests sets how long a workload is" if key in (_REQUESTS, _SESSIONS, _DURATION) else "leave it out"
            raise SimjaxError(f"{shown} has no effect: the search sets the rate and the length of the workload; {instead}")
    if SEED in points.keys:
        raise SimjaxError(f"{SEED} is swept; capacity.seeds tries every rate on several workloads")
    if config.uncertainty.draws:
        raise SimjaxError(
            f"uncertainty.draws={format_value(config.uncertainty.draws)}: a capacity has an interval over workloads, not draws"
        )
