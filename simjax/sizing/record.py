"""Capacities as records, as rows of a sweep's table, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from simjax.metrics.catalog import CATALOG, Catalog, Column, Metric
from simjax.metrics.catalog.metric import catalog_of
from simjax.sizing.verdict import Outcome


@dataclass(frozen=True)
class Tried:
    """A rate that was tried.

    Attributes:
        rate: requests/s (of sessions: starts/s).
        passes: whether it passed.
        attained: share of the measured requests that met all limits, mean over the workloads.
        steady: share of the workloads in which the run is steady.
        runs: the runs, one for each workload on which it was tried.
        metrics: means over the workloads of the metrics of `simjax.metrics.catalog.CATALOG`, None where unknown.
    """

    rate: float
    passes: bool
    attained: float
    steady: float
    runs: tuple[Outcome, ...]
    metrics: Mapping[str, float | None]


@dataclass(frozen=True)
class Capacity:
    """The highest rate that a design holds.

    Attributes:
        point: number of the design.
        design: values of the swept keys.
        gpus: devices of its cluster, None if it cannot be simulated.
        rate_per_s: highest rate that passed, requests/s (of sessions: starts/s); None if no rate passed, or none failed.
        calls: requests of a start: 1 without sessions.
        low, high: interval of the capacity, see `covers`. Where all rates passed, `low` is the highest of them, and `high` None.
        bracket: the highest rate that passed, and the lowest that did not.
        covers: what the interval covers.
        limited_by: why higher rates do not pass, or why there is no capacity.
        valid: whether the design could be simulated.
        seeds: number of workloads on which rates were tried.
        num_requests: requests of each of them.
        saturated_per_s: throughput with all requests at once.
        tried: all rates that were tried on all workloads, in their order.
        looked: the rates of the first look, on one workload.
    """

    point: int
    design: Mapping[str, Any]
    gpus: int | None = None
    rate_per_s: float | None = None
    calls: float = 1.0
    low: float | None = None
    high: float | None = None
    bracket: tuple[float, float] | None = None
    covers: str = ""
    limited_by: str = ""
    valid: bool = True
    seeds: int = 0
    num_requests: int = 0
    saturated_per_s: float | None = None
    tried: tuple[Tried, ...] = field(default=(), repr=False)
    looked: tuple[Tried, ...] = field(default=(), repr=False)

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Metrics at the capacity, means over the workloads; empty without one."""
        return next((x.metrics for x in self.tried if x.rate == self.rate_per_s), {})

    def per_gpu(self, rate: float | None) -> float | None:
        """A rate by the number of devices."""
        return None if rate is None or not self.gpus else rate / self.gpus

    @property
    def unit(self) -> str:
        """Unit of the rates."""
        return "requests/s" if self.calls == 1.0 else "sessions/s"

    def as_row(self) -> dict[str, Any]:
        """The row of a sweep's table: point, status, reason, the columns `CAPACITY`, and the metrics at the capacity."""
        status, reason = ("finished", "") if self.valid else ("invalid", self.limited_by)
        if self.valid and self.rate_per_s is None:
            reason = self.limited_by
        own = {name: column.value([self], np).values[0] for name, column in CAPACITY.items()}
        known = {name: bool(column.value([self], np).known[0]) for name, column in CAPACITY.items()}
        cells = {name: float(value) if known[name] else None for name, value in own.items()}
        metrics = {name: self.metrics.get(name) for name in CATALOG} | ({} if self.gpus is None else {"gpus": self.gpus})
        return {"point": self.point, "status": status, "reason": reason, **cells, **metrics}

    def as_json(self) -> dict[str, Any]:
        """The record as it goes into capacity.json."""
        names = (
            "point",
            "gpus",
            "unit",
            "rate_per_s",
            "low",
            "high",
            "covers",
            "limited_by",
            "valid",
            "seeds",
            "num_requests",
            "saturated_per_s",
        )
        tried = [{"rate_per_s": x.rate, "passes": x.passes, "slo_attainment": x.attained, "steady": x.steady} for x in self.tried]
        bracket = None if self.bracket is None else list(self.bracket)
        return {
            "design": dict(self.design),
            **{name: getattr(self, name) for name in names},
            "bracket": bracket,
            "metrics": dict(self.metrics),
            "tried": tried,
        }


@dataclass(frozen=True)
class Capacities:
    """The capacities of the designs of a search, by `simjax.capacity`.

    Attributes:
        keys: the swept keys.
        designs: a record for each design, in the order of the points.
        runs: number of simulations that it took.
        rounds: number of rounds of simulations.
        warnings: caveats for a reader of the numbers, one line each.
    """

    keys: tuple[str, ...]
    designs: tuple[Capacity, ...]
    runs: int
    rounds: int
    warnings: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """The table: a row for each design, with the columns of results.csv."""
        rows = [{"point": x.point, **x.design, **x.as_row()} for x in self.designs]
        return pd.DataFrame(rows, columns=["point", *self.keys, "status", "reason", *METRICS])


def _column(get: Callable[[Capacity], float | None]) -> Callable[[Sequence[Capacity], ModuleType], Column]:
    def value(capacities: Sequence[Capacity], xp: ModuleType) -> Column:
        found = [get(x) for x in capacities]
        return Column(np.array([0.0 if x is None else x for x in found]), np.array([x is not None for x in found]))

    return value


def _rate(suffix: str, words: str, get: Callable[[Capacity], float | None]) -> list[Metric]:
    """A rate in requests/s, with sessions all of their calls, and the same per GPU."""
    name = f"capacity_requests_per_s{suffix}"
    calls = lambda x: None if (rate := get(x)) is None else rate * x.calls
    return [
        Metric(name, "requests/s", "higher", words, _column(calls)),
        Metric(f"{name}_per_gpu", "requests/s", "higher", f"{words} per GPU", _column(lambda x: x.per_gpu(calls(x)))),
    ]


CAPACITY: Catalog = catalog_of(
    [
        *_rate("", "capacity", lambda x: x.rate_per_s),
        *_rate("_low", "low end of the capacity's interval", lambda x: x.low),
        *_rate("_high", "high end of the capacity's interval", lambda x: x.high),
        Metric(
            "saturated_requests_per_s",
            "requests/s",
            "higher",
            "saturated throughput",
            _column(lambda x: x.saturated_per_s and x.saturated_per_s * x.calls),
        ),
    ]
)
"""Metrics of a capacity: columns of the results.csv of `simjax capacity`, before those of a run at that rate."""
METRICS: tuple[str, ...] = (*CAPACITY, *CATALOG)
"""Columns of metrics of that table."""
