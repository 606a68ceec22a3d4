"""The metrics of clusters with a tier behind the KV caches; runs of other clusters have none of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simjax.engine.host.result import Result
from simjax.engine.host.tiers import TierSizes
from simjax.metrics.catalog.instances import of_instances
from simjax.metrics.catalog.metric import Better, Column, Metric
from simjax.metrics.catalog.runs import Runs

_NEEDS = frozenset({"tiers"})
_SECTION = "kv_tier"


def _metric(name: str, unit: str, better: Better, words: str, of: Callable[[Result], float]) -> Metric:
    """A number of every run that has tiers, a count if it has no unit; NaN where a run does not have it."""
    whole = unit == ""

    def value(runs: Runs) -> Column:
        found = np.array([np.nan if result.tiers is None else of(result) for result in runs.results], np.float64)
        known = np.isfinite(found)
        return Column(np.where(known, found, 0.0).astype(np.int64 if whole else np.float64), known)

    path = (_SECTION, name.removeprefix("tier_"))
    return Metric(name, unit, better, words, lambda runs, xp: value(runs), whole, path=path, needs=_NEEDS)


def _sizes(result: Result) -> TierSizes:
    assert result.tiers is not None
    return result.tiers


def _total(name: str, per_block: str | None = None) -> Callable[[Result], float]:
    """A total over the instances; of blocks in what each has, an array of `TierSizes`."""
    return lambda result: float(np.sum(of_instances(result, name) * (1 if per_block is None else getattr(_sizes(result), per_block))))


def _share(*names: str) -> Callable[[Result], float]:
    """Some of the prompt tokens of the requests that were scheduled, as a part of all of them."""

    def share(result: Result) -> float:
        started = np.isfinite(result.requests.scheduled_s)
        asked = result.requests.prompt_tokens[started].sum()
        return sum(getattr(result.requests, name)[started].sum() for name in names) / asked if asked else np.nan

    return share


def _seconds(until: str, statistic: Callable[[np.ndarray], float]) -> Callable[[Result], float]:
    """A statistic of the seconds from the start of the copy to another time, over the requests whose first admission loaded."""

    def seconds(result: Result) -> float:
        requests = result.requests
        loaded = (requests.tier_hit_tokens > 0) & np.isfinite(requests.scheduled_s)
        took = getattr(requests, until)[loaded] - requests.tier_load_start_s[loaded]
        return statistic(took) if len(took) else np.nan

    return seconds


def _p99(values: np.ndarray) -> float:
    return float(np.percentile(values, 99.0))


TIERS = [
    _metric("tier_capacity_bytes", "bytes", None, "size of the KV tiers", lambda result: _sizes(result).capacity_bytes),
    _metric("tier_hit_fraction", "fraction", "higher", "prompt tokens loaded from the KV tier", _share("tier_hit_tokens")),
    _metric("kv_hit_fraction", "fraction", "higher", "prompt tokens cached or loaded", _share("cached_tokens", "tier_hit_tokens")),
    _metric("tier_loaded_tokens", "", None, "tokens loaded from the KV tier", _total("tier_loaded_blocks", "block_size")),
    _metric("tier_loaded_bytes", "bytes", None, "bytes loaded from the KV tier", _total("tier_loaded_blocks", "block_bytes")),
    _metric("tier_stored_tokens", "", None, "tokens stored to the KV tier", _total("tier_stored_blocks", "block_size")),
    _metric("tier_stored_bytes", "bytes", None, "bytes stored to the KV tier", _total("tier_stored_blocks", "block_bytes")),
    _metric("tier_evicted_blocks", "", "lower", "blocks evicted from the KV tier", _total("tier_evictions")),
    _metric("tier_failed_stores", "", "lower", "offers without room in the KV tier", _total("tier_failed_stores")),
    _metric("tier_flush_s", "s", "lower", "time that steps waited for stores", _total("tier_flush_s")),
    _metric("tier_load_mean_s", "s", "lower", "mean copy from the KV tier", _seconds("tier_load_end_s", np.mean)),
    _metric("tier_load_p99_s", "s", "lower", "P99 copy from the KV tier", _seconds("tier_load_end_s", _p99)),
    _metric("tier_wait_mean_s", "s", "lower", "mean time from load to first step", _seconds("scheduled_s", np.mean)),
    _metric("tier_wait_p99_s", "s", "lower", "P99 time from load to first step", _seconds("scheduled_s", _p99)),
]
"""Tokens, bytes and blocks count every load and store of the run; fractions and seconds are of the first load of each request."""
