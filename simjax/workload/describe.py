"""Statistics of a workload: how much arrives, how bursty, how long."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.workload.workload import Workload

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class LengthStats:
    """Token counts over the requests."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True)
class ArrivalStats:
    """Arrivals of an open loop over their span (first to last).

    Bins of 1, 10 and 60 s start at the first arrival; the last one may reach past the span, so 60 s figures mean little for short spans.

    Attributes:
        span_s: last minus first arrival.
        mean_rate: (R - 1) / span, requests/s.
        peak_rate_1s, peak_rate_10s, peak_rate_60s: requests/s in the busiest bin of that width.
        interarrival_cv: standard deviation over mean of the gaps; 1 for a Poisson process.
        dispersion_1s, dispersion_60s: variance over mean of the requests per bin; 1 for a Poisson process. None when there is one bin.
        distinct_stamps: different arrival times; fewer than requests means ties or a quantised clock.
        prompt_tokens_per_s, output_tokens_per_s: tokens asked for over the span.
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
    prompt_tokens_per_s: float
    output_tokens_per_s: float


@dataclass(frozen=True)
class WorkloadDescription:
    """What `describe` says; `arrivals` is None in a closed loop and when all requests arrive at once."""

    source: str
    requests: int
    concurrency: int
    think_s: float
    arrivals: ArrivalStats | None
    prompt_tokens: LengthStats
    output_tokens: LengthStats
    max_total_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return asdict(self)


def describe(workload: Workload) -> WorkloadDescription:
    """Statistics of `workload`."""
    prompt, output = workload.prompt_tokens, workload.output_tokens
    return WorkloadDescription(
        source=workload.source,
        requests=len(workload),
        concurrency=workload.concurrency,
        think_s=workload.think_s,
        arrivals=_arrivals(workload),
        prompt_tokens=_lengths(prompt),
        output_tokens=_lengths(output),
        max_total_tokens=int((prompt.astype(np.int64) + output).max()),
    )


def describe_table(description: WorkloadDescription) -> RenderableType:
    """The description as a table for the terminal."""
    from rich.console import Group
    from rich.table import Table

    facts = Table(title=description.source, title_justify="left", show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _facts(description):
        facts.add_row(name, value)
    lengths = Table(box=None, pad_edge=False)
    lengths.add_column("tokens", style="dim")
    for name in ("mean", "p50", "p90", "p99", "max"):
        lengths.add_column(name, justify="right")
    for name, stats in (("prompt", description.prompt_tokens), ("output", description.output_tokens)):
        lengths.add_row(name, *(f"{value:,.0f}" for value in (stats.mean, stats.p50, stats.p90, stats.p99, stats.max)))
    return Group(facts, "", lengths)


def _facts(description: WorkloadDescription) -> list[tuple[str, str]]:
    facts = [("requests", f"{description.requests:,}"), ("longest prompt + output", f"{description.max_total_tokens:,} tokens")]
    arrivals = description.arrivals
    if description.concurrency:
        return [*facts, ("closed loop", f"{description.concurrency:,} in flight"), ("think time", f"{description.think_s:g} s")]
    if arrivals is None:
        return [*facts, ("arrivals", "all at once")]
    dispersion = [f"{value:.2f}" if value is not None else "—" for value in (arrivals.dispersion_1s, arrivals.dispersion_60s)]
    return [
        *facts,
        ("span", f"{arrivals.span_s:,.1f} s"),
        ("mean rate", f"{arrivals.mean_rate:.4g} requests/s"),
        (
            "peak rate in 1 / 10 / 60 s",
            f"{arrivals.peak_rate_1s:g} / {arrivals.peak_rate_10s:.1f} / {arrivals.peak_rate_60s:.2f} requests/s",
        ),
        ("CV of the gaps (1: Poisson)", f"{arrivals.interarrival_cv:.2f}"),
        ("dispersion in 1 / 60 s (1: Poisson)", " / ".join(dispersion)),
        ("distinct arrival times", f"{arrivals.distinct_stamps:,}"),
        ("prompt tokens", f"{arrivals.prompt_tokens_per_s:,.0f} /s"),
        ("output tokens", f"{arrivals.output_tokens_per_s:,.0f} /s"),
    ]


def _arrivals(workload: Workload) -> ArrivalStats | None:
    times = workload.arrival_s
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
        prompt_tokens_per_s=float(workload.prompt_tokens.sum(dtype=np.int64) / span_s),
        output_tokens_per_s=float(workload.output_tokens.sum(dtype=np.int64) / span_s),
    )


def _binned(times: np.ndarray, width_s: float) -> tuple[float, float | None]:
    """The rate of the busiest bin, and variance over mean of the counts; empty bins are counted but never stored."""
    occupied, counts = np.unique(np.floor(times / width_s), return_counts=True)
    bins = occupied[-1] + 1
    mean = len(times) / bins
    variance = (counts.astype(np.float64) ** 2).sum() / bins - mean**2
    return float(counts.max() / width_s), None if bins == 1 else float(variance / mean)


def _lengths(tokens: np.ndarray) -> LengthStats:
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99))
    return LengthStats(float(tokens.mean()), float(p50), float(p90), float(p99), int(tokens.max()))
