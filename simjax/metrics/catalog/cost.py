"""Metrics of money and carbon: what the cluster costs by the hour over what it serves in one, in the measurement window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simjax.metrics.catalog.metric import Column, Metric
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.energy.cost import RunCost

_PRICES = frozenset({"prices"})
Served = Callable[[Runs], Column]


def _per(name: str, unit: str, words: str, of: Callable[[RunCost], float | None], scale: float, served: Served) -> Metric:
    """What an hour costs, over what is served in it; `scale`: of the unit of what is served."""

    def value(runs: Runs, xp: object) -> Column:
        found = [None if cost is None else of(cost) for cost in runs.costs]
        known, hourly = np.array([x is not None for x in found]), np.array([0.0 if x is None else x for x in found])
        rate = served(runs)
        there = known & rate.known & (rate.values > 0)
        return Column(scale * hourly / 3600.0 / np.where(there, rate.values, 1.0), there)

    return Metric(name, unit, "lower", words, value, path=("cost", name), needs=_PRICES)


def _rate(*names: str) -> Served:
    return lambda runs: runs.clients.per_s(sum(getattr(runs.clients, name) for name in names), np)


def _good(runs: Runs) -> Column:
    return runs.clients.per_s(runs.goodput, np)


def _sessions(runs: Runs) -> Column:
    """Sessions that finish in a second of the run."""
    count = np.array([0 if x.sessions is None else _finished(x) for x in runs.results], float)
    return Column(count / np.where(runs.clients.duration_s > 0, runs.clients.duration_s, 1.0), (count > 0) & (runs.clients.duration_s > 0))


def _finished(result: object) -> int:
    requests, sessions = result.requests, result.sessions  # type: ignore[attr-defined]
    return int(len(np.unique(sessions.session)) - len(np.unique(sessions.session[~requests.finished])))


_USD, _G = (lambda cost: cost.usd_per_hour), (lambda cost: cost.g_per_hour)

COST = (
    _per(
        "cost_per_million_tokens_usd",
        "USD",
        "cost per million tokens, in and out",
        _USD,
        1e6,
        _rate("prompt_tokens", "output_tokens"),
    ),
    _per("cost_per_million_output_tokens_usd", "USD", "cost per million output tokens", _USD, 1e6, _rate("output_tokens")),
    _per("cost_per_million_input_tokens_usd", "USD", "cost per million input tokens", _USD, 1e6, _rate("prompt_tokens")),
    _per("cost_per_good_request_usd", "USD", "cost per request within the SLO", _USD, 1.0, _good),
    _per("cost_per_session_usd", "USD", "cost per session", _USD, 1.0, _sessions),
    _per("carbon_g_per_1k_tokens", "g", "CO2e per thousand output tokens", _G, 1e3, _rate("output_tokens")),
)
