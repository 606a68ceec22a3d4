"""Statistics of a workload: arrival rates, burstiness, lengths, sessions, shared prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents.reuse import prefix_reuse
from simjax.workload.formats.base import Reading
from simjax.workload.workload import Workload

if TYPE_CHECKING:
    pass

_CACHE_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class LengthStats:
    """Distribution of whole numbers, such as the tokens of each request or the calls of each session."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True)
class SessionStats:
    """Calls that wait for others.

    Attributes:
        sessions: number of sessions, single requests included.
        waiting_calls: number of requests that wait for others.
        calls: calls per session.
        recorded_calls: number of those that are sent at their recorded times, if they have nothing to wait for any more.
        mean_pause_s, p50_pause_s, p90_pause_s, max_pause_s: pauses before the other waiting calls; None without any.
    """

    sessions: int
    waiting_calls: int
    recorded_calls: int
    calls: LengthStats
    mean_pause_s: float | None
    p50_pause_s: float | None
    p90_pause_s: float | None
    max_pause_s: float | None


@dataclass(frozen=True)
class CacheStats:
    """Hits of an LRU prefix cache of `blocks` blocks, as a fraction of all prompt tokens."""

    blocks: int
    hit_fraction: float


@dataclass(frozen=True)
class PrefixStats:
    """Hits of prefix caches if requests came one after the other (see `simjax.workload.contents.reuse`).

    Attributes:
        block_size: tokens per block.
        distinct_blocks: different blocks, outputs included; a cache of that size never evicts.
        ideal_hit_fraction: fraction of all prompt tokens found when nothing is ever evicted.
        hit_requests_fraction: fraction of the requests that find at least one block then.
        lru: hits of caches of several sizes.
    """

    block_size: int
    distinct_blocks: int
    ideal_hit_fraction: float
    hit_requests_fraction: float
    lru: tuple[CacheStats, ...]


@dataclass(frozen=True)
class ArrivalStats:
    """Arrivals of an open loop over their span (first to last); with sessions, those of their first calls, unless all are recorded.

    Bins of 1, 10 and 60 s start at the first arrival; the last one may reach past the span, so 60 s figures mean little for short spans.

    Attributes:
        span_s: last minus first arrival.
        mean_rate: (R - 1) / span, requests/s.
        peak_rate_1s, peak_rate_10s, peak_rate_60s: requests/s in the busiest bin of that width.
        interarrival_cv: standard deviation over mean of the gaps; 1 for a Poisson process.
        dispersion_1s, dispersion_60s: variance over mean of the requests per bin; 1 for a Poisson process. None when there is one bin.
        distinct_stamps: number of different arrival times; fewer than requests means ties or a quantised clock.
        prompt_tokens_per_s, output_tokens_per_s: tokens requested over the span; None for sessions, which continue after it.
        of_sessions: whether these are the starts of sessions.
    """

    span_s: float
    mean_rate: float
    peak_rate_1s: float
    peak_rate_10s: float
    peak_rate_60s: float
    interarrival_cv: float
    dispersion_1s: float | None
    dispersion_60s: float | None
    distinct_stamps: int
    prompt_tokens_per_s: float | None
    output_tokens_per_s: float | None
    of_sessions: bool


@dataclass(frozen=True)
class WorkloadDescription:
    """Statistics of a workload, from `describe`.

    `arrivals` is None in a closed loop and when all requests arrive at once, `sessions` where no request waits for another, `prefixes`
    where nothing is known about what requests share, `reading` where they were not read from a file.
    """

    source: str
    requests: int
    concurrency: int
    think_s: float
    max_concurrency: int
    arrivals: ArrivalStats | None
    prompt_tokens: LengthStats
    output_tokens: LengthStats
    max_total_tokens: int
    sessions: SessionStats | None
    prefixes: PrefixStats | None
    reading: Reading | None = None

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return asdict(self)


def describe(
    workload: Workload, block_size: int = 16, cache_blocks: Sequence[int] | None = None, reading: Reading | None = None
) -> WorkloadDescription:
    """Statistics of `workload`, with the hits of prefix caches of `cache_blocks` blocks (default: several sizes) of `block_size` tokens.

    `reading` tells how it was read from a file.

    Raises:
        SimjaxError: a block or cache size below 1.
    """
    prompt, output = workload.prompt_tokens, workload.output_tokens
    return WorkloadDescription(
        source=workload.source,
        requests=len(workload),
        concurrency=workload.concurrency,
        think_s=workload.think_s,
        max_concurrency=workload.max_concurrency,
        arrivals=_arrivals(workload),
        prompt_tokens=_lengths(prompt),
        output_tokens=_lengths(output),
        max_total_tokens=int((prompt.astype(np.int64) + output).max()),
        sessions=_sessions(workload),
        prefixes=_prefixes(workload, block_size, cache_blocks),
        reading=reading,
    )


def _arrivals(workload: Workload) -> ArrivalStats | None:
    times = workload.scheduled_s
    if workload.concurrency or times[-1] <= times[0]:
        return None
    span_s = float(times[-1] - times[0])
    gaps = np.diff(times)
    peaks, dispersions = zip(*(_binned(times - times[0], width_s) for width_s in (1.0, 10.0, 60.0)), strict=True)
    return ArrivalStats(
        span_s=span_s,
        mean_rate=len(gaps) / span_s,
        peak_rate_1s=peaks[0],
        peak_rate_10s=peaks[1],
        peak_rate_60s=peaks[2],
        interarrival_cv=float(gaps.std() / gaps.mean()),
        dispersion_1s=dispersions[0],
        dispersion_60s=dispersions[2],
        distinct_stamps=1 + int(np.count_nonzero(gaps)),
        prompt_tokens_per_s=_per_s(workload, workload.prompt_tokens, span_s),
        output_tokens_per_s=_per_s(workload, workload.output_tokens, span_s),
        of_sessions=len(times) < len(workload),
    )


def _per_s(workload: Workload, tokens: np.ndarray, span_s: float) -> float | None:
    return float(tokens.sum(dtype=np.int64) / span_s) if np.isfinite(workload.arrival_s).all() else None


def _sessions(workload: Workload) -> SessionStats | None:
    sessions = workload.sessions
    if sessions is None:
        return None
    pauses = (None, None, None, None)
    waits = sessions.predecessors > 0
    delay_s = sessions.delay_s[np.isposinf(workload.arrival_s[sessions.then])]
    if len(delay_s):
        p50, p90 = np.percentile(delay_s, (50, 90))
        pauses = (float(delay_s.mean()), float(p50), float(p90), float(delay_s.max()))
    calls = _lengths(np.bincount(sessions.session))
    recorded = int(np.count_nonzero(np.isfinite(workload.arrival_s[waits])))
    return SessionStats(len(sessions.names), int(np.count_nonzero(waits)), recorded, calls, *pauses)


def _prefixes(workload: Workload, block_size: int, cache_blocks: Sequence[int] | None) -> PrefixStats | None:
    if workload.prefixes is None:
        return None
    for blocks in cache_blocks or ():
        if blocks < 1:
            raise SimjaxError(f"cache_blocks={blocks}; a cache holds at least 1 block")
    reuse = prefix_reuse(workload, block_size)
    if cache_blocks is None:
        sizes = (share * reuse.distinct_blocks for share in _CACHE_SHARES)
        cache_blocks = sorted({int(float(f"{size:.1g}")) for size in sizes} - {0})
    return PrefixStats(
        block_size=block_size,
        distinct_blocks=reuse.distinct_blocks,
        ideal_hit_fraction=reuse.token_hit_fraction(),
        hit_requests_fraction=reuse.hit_requests / len(workload),
        lru=tuple(CacheStats(int(blocks), reuse.token_hit_fraction(int(blocks))) for blocks in cache_blocks),
    )


def _binned(times: np.ndarray, width_s: float) -> tuple[float, float | None]:
    """Rate of the busiest bin, and variance over mean of the counts (None with one bin); empty bins count but are never stored."""
    occupied, counts = np.unique(np.floor(times / width_s), return_counts=True)
    bins = occupied[-1] + 1
    mean = len(times) / bins
    variance = (counts.astype(np.float64) ** 2).sum() / bins - mean**2
    return float(counts.max() / width_s), None if bins == 1 else float(variance / mean)


def _lengths(tokens: np.ndarray) -> LengthStats:
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99))
    return LengthStats(float(tokens.mean()), float(p50), float(p90), float(p99), int(tokens.max()))
