"""Latencies as a client sees them: TTFT, TPOT, ITL and end to end, and their statistics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np

from simjax.engine.host.result import NEVER, LeapLog, RequestLog, Result
from simjax.metrics.steps import expand_steps

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
STATISTICS = ("mean", *PERCENTILES, "max")
NAMES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E latency"}
"""The latencies as tables and figures print them."""

Statistics = dict[str, float | None]


@dataclass(frozen=True)
class Latencies:
    """Per-request latencies, arrays over the R requests of one run or of many. Where the mask is false the value is `NEVER`.

    Attributes:
        ttft_s: float64[..., R], first token - arrival in seconds; valid where `finished`.
        tpot_s: float64[..., R], (finish - first token) / (output_tokens - 1) in seconds; valid where `has_tpot`.
        e2e_s: float64[..., R], finish - arrival in seconds; valid where `finished`.
        finished: bool[..., R].
        has_tpot: bool[..., R], finished with more than one output token.
    """

    ttft_s: np.ndarray
    tpot_s: np.ndarray
    e2e_s: np.ndarray
    finished: np.ndarray
    has_tpot: np.ndarray


def latencies(requests: RequestLog) -> Latencies:
    """TTFT, TPOT and E2E latency of every finished request (vLLM's definitions, measured from the client's arrival).

    Elementwise: the log of one run gives arrays [R], logs of B runs stacked into arrays [B, R] give arrays [B, R].
    """
    finished = requests.finished.astype(bool)
    has_tpot = finished & (requests.output_tokens > 1)
    arrival, first, finish = (np.where(finished, t, 0.0) for t in (requests.arrival_s, requests.first_token_s, requests.finish_s))
    gaps = np.maximum(requests.output_tokens.astype(np.float64) - 1.0, 1.0)
    return Latencies(
        ttft_s=np.where(finished, first - arrival, NEVER),
        tpot_s=np.where(has_tpot, (finish - first) / gaps, NEVER),
        e2e_s=np.where(finished, finish - arrival, NEVER),
        finished=finished,
        has_tpot=has_tpot,
    )


def statistics(values: np.ndarray) -> Statistics:
    """Mean, P50, P90, P95, P99 (numpy's linear interpolation) and maximum; all None for an empty sample."""
    if len(values) == 0:
        return dict.fromkeys(STATISTICS)
    return {name: float(value) for name, value in statistics_of(values, np.ones(len(values), bool), np).items()}


def statistics_of(values: Any, there: Any, xp: ModuleType) -> dict[str, Any]:
    """The `STATISTICS` of the values that exist, along the last axis: float64[...] each, 0 where there are none.

    In numpy they are bit for bit those of `np.mean` and `np.percentile`, where all values exist. In JAX they have derivatives.

    Args:
        values: float64[..., K], K >= 1, in C order: only then does numpy pair the sums of the means as in one row.
        there: bool[..., K], which of them exist.
        xp: numpy or jax.numpy.
    """
    count = xp.sum(there, axis=-1, keepdims=True)
    some, last = count > 0, xp.maximum(count - 1, 0)
    ordered = xp.sort(xp.where(there, values, xp.where(some, xp.inf, 0.0)), axis=-1)
    pick = lambda place: xp.take_along_axis(ordered, place, axis=-1)
    position = last.astype(np.float64) * (np.array(list(PERCENTILES.values())) / 100.0)
    floor = xp.floor(position)
    low, weight = floor.astype(last.dtype), position - floor
    below, above = pick(low), pick(xp.minimum(low + 1, last))
    step = above - below
    percentiles = xp.where(weight >= 0.5, above - step * (1.0 - weight), below + step * weight)  # numpy's formula, see its `_lerp`
    mean = xp.sum(xp.where(there, values, 0.0), axis=-1) / xp.maximum(count, 1)[..., 0].astype(np.float64)
    return {"mean": mean, **{name: percentiles[..., i] for i, name in enumerate(PERCENTILES)}, "max": pick(last)[..., 0]}


def weighted_statistics(values: np.ndarray, counts: np.ndarray) -> Statistics:
    """`statistics(np.repeat(values, counts))`, without building the repeated sample.

    Args:
        values: float64[P].
        counts: number of times that each value occurs, int64[P]; zeros are skipped.
    """
    values, counts = values[counts > 0], counts[counts > 0].astype(np.int64)
    if len(values) == 0:
        return dict.fromkeys(STATISTICS)
    order = np.argsort(values, kind="stable")
    values, ranks = values[order], np.cumsum(counts[order])
    last = ranks[-1] - 1
    position = np.array(list(PERCENTILES.values())) / 100.0 * last
    low = np.floor(position).astype(np.int64)
    below = values[np.searchsorted(ranks, low, side="right")]
    above = values[np.searchsorted(ranks, np.minimum(low + 1, last), side="right")]
    percentiles = below + (above - below) * (position - low)
    mean = float(np.dot(values, counts[order]) / ranks[-1])
    return {"mean": mean, **dict(zip(PERCENTILES, map(float, percentiles), strict=True)), "max": float(values[-1])}


def inter_token_gaps(leaps: LeapLog, within_s: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The gaps between successive tokens of the same request, as (values float64[K] in seconds, counts int64[K]).

    A token of a request that was in the step before too has a gap as long as its own step. Tokens that come after a pause (preemption,
    or a step that left the request out) share the mean of their leap's recorded pauses, which is the only approximation here.

    Args:
        leaps: the log.
        within_s: only those of leaps that start between these times; None for all.
    """
    if within_s is not None:
        some = (leaps.start_s >= within_s[0]) & (leaps.start_s <= within_s[1])
        leaps = LeapLog(**{field.name: getattr(leaps, field.name)[some] for field in fields(LeapLog)})
    steps = expand_steps(leaps)
    resumed = leaps.resumed > 0
    pauses = leaps.resumed_gap_s[resumed] / leaps.resumed[resumed]
    return np.concatenate([steps.duration_s, pauses]), np.concatenate([steps.decodes, leaps.resumed[resumed].astype(np.int64)])


def itl_statistics(result: Result, within_s: tuple[float, float] | None = None) -> Statistics:
    """Statistics of the inter-token latency over all tokens but the first of each request.

    Without a leap log only the mean is known: the time from first to last token of the finished requests over the number of their gaps.
    With a leap log, tokens of unfinished requests are included. `within_s` limits it to requests that arrive, or leaps that start, between
    two times.
    """
    if result.leaps is not None:
        return weighted_statistics(*inter_token_gaps(result.leaps, within_s))
    lat, arrival_s = latencies(result.requests), result.requests.arrival_s
    some = lat.has_tpot if within_s is None else lat.has_tpot & (arrival_s >= within_s[0]) & (arrival_s <= within_s[1])
    gaps = result.requests.output_tokens[some].astype(np.float64) - 1.0
    found: Statistics = dict.fromkeys(STATISTICS)
    if len(gaps):
        found["mean"] = float(np.dot(lat.tpot_s[some], gaps) / gaps.sum())
    return found
