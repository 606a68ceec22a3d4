"""The metrics of the runs of a search: those of the catalogue, and what its verdicts need besides."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from simjax.engine.host.result import NEVER
from simjax.metrics.catalog import CATALOG, Catalog, Column, Metric
from simjax.metrics.catalog.metric import always
from simjax.metrics.catalog.runs import Runs
from simjax.sizing.verdict import ATTAINED, MET, STEADY

SATURATED = "saturated_requests_per_s"
"""Column with the throughput between the first and the last quarter of the finishes: that of a backlogged system."""

_WINDOW = 0.25, 0.9  # measured requests, by the order of their arrivals: those before fill the system, those after see it drain
_LOOKS = 33  # times at which the number of requests in the system is counted
_GROWTH = 0.01  # share of the arrivals that may pile up in a steady run


def _window(runs: Runs) -> tuple[np.ndarray, np.ndarray]:
    """First and last arrival that count, float64[B] each."""
    arrival = np.sort(runs.requests.arrival_s, axis=1)
    known = np.isfinite(arrival).sum(axis=1)
    at = [np.maximum((known * share).astype(int) - 1, 0) for share in _WINDOW]
    first, last = (np.take_along_axis(arrival, x[:, None], axis=1)[:, 0] for x in at)
    return first, last


def _measured(runs: Runs) -> np.ndarray:
    first, last = _window(runs)
    return (runs.requests.arrival_s >= first[:, None]) & (runs.requests.arrival_s <= last[:, None])


def _attainment(name: str) -> Metric:
    def value(runs: Runs, xp: ModuleType) -> Column:
        counts = _measured(runs)
        return always((counts & runs.meets[name]).sum(axis=1) / np.maximum(counts.sum(axis=1), 1), np)

    return Metric(MET[name], "fraction", "higher", f"share of requests within {name}", value)


def _attained(runs: Runs, xp: ModuleType) -> Column:
    counts = _measured(runs)
    met = np.logical_and.reduce([counts, *runs.meets.values()])
    return always(met.sum(axis=1) / np.maximum(counts.sum(axis=1), 1), np)


def _steady(runs: Runs, xp: ModuleType) -> Column:
    """1 where the number of requests in the system does not grow over the window, by more than its noise and a percent of the arrivals."""
    steady = np.zeros(len(runs.results))
    first, last = _window(runs)
    for b, (start, end) in enumerate(zip(first, last, strict=True)):
        times = np.linspace(start, end, _LOOKS)
        arrival, finish = runs.requests.arrival_s[b], np.where(runs.requests.finished[b], runs.requests.finish_s[b], NEVER)
        inside = np.searchsorted(np.sort(arrival), times, "right") - np.searchsorted(np.sort(finish), times, "right")
        growth = float(np.polyfit(np.linspace(0.0, 1.0, _LOOKS), inside, 1)[0])
        arrived = float(((arrival > start) & (arrival <= end)).sum())
        steady[b] = float(growth <= max(_GROWTH * arrived, 2.0 * np.sqrt(inside.mean())))
    return always(steady, np)


def _saturated(runs: Runs, xp: ModuleType) -> Column:
    finish = np.sort(np.where(runs.requests.finished, runs.requests.finish_s, NEVER), axis=1)
    done = np.isfinite(finish).sum(axis=1)
    early, late = (np.maximum((done * share).astype(int) - 1, 0) for share in (0.25, 0.75))
    at = lambda x: np.take_along_axis(finish, x[:, None], axis=1)[:, 0]
    span, known = np.where(done > 1, at(late) - at(early), 0.0), done > 1
    return Column((late - early) / np.where(span > 0, span, 1.0), known & (span > 0))


_OWN = [
    Metric(STEADY, "", "higher", "steady", _steady, whole=True),
    Metric(ATTAINED, "fraction", "higher", "SLO attainment", _attained),
    *(_attainment(name) for name in MET),
    Metric(SATURATED, "requests/s", "higher", "saturated throughput", _saturated),
]
PROBED: Catalog = {**CATALOG, **{metric.name: metric for metric in _OWN}}
"""Metrics of a run of a search, by name."""
