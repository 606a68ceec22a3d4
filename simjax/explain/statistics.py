"""Statistics of latencies as sums of parts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from simjax.explain.parts import NAMES, Parts
from simjax.metrics.latency import PERCENTILES, STATISTICS

LATENCIES = ("ttft", "tpot", "e2e")


def statistics_frame(parts: Parts, measured: np.ndarray) -> pd.DataFrame:
    """A row for each statistic of each latency over the requests `measured` (bool[R]); the columns of parts add up to `value_s`.

    A mean has the means of the parts. A percentile lies between two requests; it has their parts in the same proportion.
    """
    rows = []
    for latency in LATENCIES:
        table = getattr(parts, f"{latency}_s")[measured[parts.request]]
        table = table[~np.isnan(table).any(axis=1)]
        if len(table) == 0:
            continue
        ordered = table[np.argsort(table.sum(axis=1), kind="stable")]
        for name in STATISTICS:
            mine = table.mean(axis=0) if name == "mean" else _at(ordered, PERCENTILES.get(name, 100.0))
            rows.append({"latency": latency, "statistic": name, "value_s": mine.sum(), **dict(zip(NAMES, mine, strict=True))})
    return pd.DataFrame(rows)


def requests_frame(parts: Parts) -> pd.DataFrame:
    """A row for each finished request: its latencies, and the parts of TTFT and E2E latency."""
    columns: dict[str, np.ndarray] = {"request_id": parts.request}
    for latency in ("ttft", "e2e"):
        table = getattr(parts, f"{latency}_s")
        columns |= {f"{latency}_s": table.sum(axis=1), **{f"{latency}_{name}_s": table[:, i] for i, name in enumerate(NAMES)}}
    return pd.DataFrame(columns)


def _at(ordered: np.ndarray, percent: float) -> np.ndarray:
    position = (len(ordered) - 1) * percent / 100.0
    low = int(np.floor(position))
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
