"""The metrics of the runs of a search: those of the catalogue, and what its verdicts need besides."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from simjax.engine.host.result import NEVER
from simjax.metrics.catalog import CATALOG, Catalog, Column, Metric
from simjax.metrics.catalog.runs import Runs
from simjax.sizing.verdict import MET

SATURATED = "saturated_requests_per_s"
"""Column with the throughput between the first and the last quarter of the finishes: that of a backlogged system."""


def _attainment(name: str) -> Metric:
    value = lambda runs, xp: runs.attainment(runs.meets[name])
    return Metric(MET[name], "fraction", "higher", f"share of requests within {name}", value)


def _saturated(runs: Runs, xp: ModuleType) -> Column:
    finish = np.sort(np.where(runs.requests.finished, runs.requests.finish_s, NEVER), axis=1)
    done = np.isfinite(finish).sum(axis=1)
    early, late = (np.maximum((done * share).astype(int) - 1, 0) for share in (0.25, 0.75))
    at = lambda x: np.take_along_axis(finish, x[:, None], axis=1)[:, 0]
    span = np.where(done > 1, at(late), 1.0) - np.where(done > 1, at(early), 1.0)
    return Column((late - early) / np.where(span > 0, span, 1.0), span > 0)


_OWN = [*map(_attainment, MET), Metric(SATURATED, "requests/s", "higher", "saturated throughput", _saturated)]
PROBED: Catalog = {**CATALOG, **{metric.name: metric for metric in _OWN}}
"""Metrics of a run of a search, by name."""
