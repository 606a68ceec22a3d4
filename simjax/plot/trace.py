"""The figure of a workload: arrival rate over time, gaps between arrivals, and lengths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.plot.style import BLUE, GREY, RUST
from simjax.workload.describe import describe
from simjax.workload.workload import Workload

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FILL = "#a9c7e8"
_NICE_BINS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)
_RATE_BINS = 150  # about what a panel can show
_PER_BIN = 4  # mean requests in a bin: fewer would show counting noise
_LENGTH_BINS = 40
_DECADES = 30  # lengths that span more than this factor get a logarithmic axis


def plot_trace(workload: Workload, path: str | Path) -> Path:
    """Write a PNG with the arrival rate over time, the gaps against a Poisson process, and both length distributions.

    With sessions, the arrivals are those of their first calls, unless the source has them all. A closed loop has no arrivals of its own,
    so its figure has the two length panels only.

    Returns:
        The path written.
    """
    from matplotlib.figure import Figure

    arrivals = describe(workload).arrivals
    rows = 1 if arrivals is None else 2
    figure = Figure(figsize=(10.0, 3.4 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False)
    if arrivals is not None:
        _rate_panel(panels[0, 0], workload, arrivals.mean_rate)
        _gap_panel(panels[0, 1], workload, arrivals.interarrival_cv)
    _length_panel(panels[-1, 0], workload.prompt_tokens, "prompt tokens")
    _length_panel(panels[-1, 1], workload.output_tokens, "output tokens")
    loop = f", closed loop with {workload.concurrency:,} in flight" if workload.concurrency else ""
    if workload.sessions is not None:
        loop = f" in {len(workload.sessions.names):,} sessions"
    figure.suptitle(f"{workload.source}: {len(workload):,} requests{loop}", x=0.01, ha="left", fontsize=11)
    path = Path(path)
    figure.savefig(path, dpi=130, format="png")
    return path


def _rate_panel(axes: Axes, workload: Workload, mean_rate: float) -> None:
    times = workload.scheduled_s - workload.scheduled_s[0]
    wanted_s = max(times[-1] / _RATE_BINS, _PER_BIN / mean_rate)
    width_s = next((width for width in _NICE_BINS_S if width >= wanted_s), _NICE_BINS_S[-1])
    # The last bin is usually cut short by the end of the trace; drawn, it would look like a drop of the rate.
    bins = max(int(times[-1] // width_s), 1)
    counts = np.bincount((times // width_s).astype(np.int64), minlength=bins)[:bins]
    scale, unit = _time_unit(times[-1])
    axes.stairs(counts / width_s, np.arange(bins + 1) * width_s / scale, fill=True, color=_FILL, edgecolor=BLUE, linewidth=0.8)
    axes.axhline(mean_rate, color=RUST, linewidth=1.0, label=f"mean {mean_rate:.3g}/s")
    axes.set_ylim(0, 1.18 * max(counts.max() / width_s, mean_rate))  # room for the legend
    axes.set_xlim(0, times[-1] / scale)
    rate, name = ("requests/s", "arrival rate") if workload.sessions is None else ("sessions/s", "session starts")
    _finish(axes, f"time ({unit})", rate, f"{name}, {width_s:g} s bins")
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _gap_panel(axes: Axes, workload: Workload, cv: float) -> None:
    gaps = np.sort(np.diff(workload.scheduled_s))
    positive = gaps[gaps > 0]
    share = np.arange(1, len(gaps) + 1) / len(gaps)
    low, high = min(np.quantile(positive, 0.001), gaps.mean() / 100), positive[-1]
    grid = np.geomspace(low, max(1.5 * high, 8 * gaps.mean()), 300)
    axes.plot(grid, -np.expm1(-grid / gaps.mean()), color=RUST, linewidth=1.0, label="Poisson process of the same rate")
    axes.step(np.maximum(gaps, low), share, where="post", color=BLUE, linewidth=1.4, label=f"this workload, CV {cv:.2f}")
    axes.set_xscale("log")
    axes.set_xlim(grid[0], grid[-1])
    axes.set_ylim(0, 1.02)
    ties = len(gaps) - len(positive)
    title = f"gaps between {'arrivals' if workload.sessions is None else 'session starts'}" + (
        f", {100 * ties / len(gaps):.0f} % are zero" if ties else ""
    )
    _finish(axes, "gap (s)", "cumulative share", title)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _length_panel(axes: Axes, tokens: np.ndarray, what: str) -> None:
    low, high = int(tokens.min()), int(tokens.max())
    edges = _length_edges(low, high)
    counts, _ = np.histogram(tokens, edges)
    axes.stairs(100 * counts / len(tokens), edges, fill=True, color=_FILL, edgecolor=BLUE, linewidth=0.8)
    axes.set_ylim(0, None)
    if high > _DECADES * low:
        axes.set_xscale("log")
        left, right = edges[0], edges[-1]
    else:
        axes.locator_params(axis="x", integer=True)
        margin = max(0.04 * (edges[-1] - edges[0]), 2.0)
        left, right = edges[0] - margin, edges[-1] + margin
    axes.set_xlim(left, right)
    cumulative = axes.twinx()
    values, repeats = np.unique(tokens, return_counts=True)
    cumulative.step(
        np.concatenate([[left], values, [right]]),
        np.concatenate([[0.0], np.cumsum(repeats) / len(tokens), [1.0]]),
        where="post",
        color=RUST,
        linewidth=1.2,
    )
    cumulative.set_ylim(0, 1.02)
    cumulative.set_ylabel("cumulative share", color=RUST, fontsize=9)
    cumulative.tick_params(labelsize=8, colors=RUST)
    cumulative.spines["top"].set_visible(False)
    p50, p99 = np.percentile(tokens, (50, 99))
    _finish(axes, what, "% of requests", f"mean {tokens.mean():,.0f}, p50 {p50:,.0f}, p99 {p99:,.0f}, max {high:,}", right_spine=True)


def _length_edges(low: int, high: int) -> np.ndarray:
    """Bin edges on half integers, so that no length falls on an edge; evenly spaced in the logarithm when lengths span decades."""
    if high <= _DECADES * low:
        step = max(1, -(-(high - low + 1) // _LENGTH_BINS))
        return np.arange(low - 0.5, high + step, step)
    edges = np.unique(np.floor(np.geomspace(low, high + 1, _LENGTH_BINS + 1)))
    return edges - 0.5


def _time_unit(span_s: float) -> tuple[float, str]:
    for scale, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if span_s >= 3 * scale:
            return scale, unit
    return 1.0, "s"


def _finish(axes: Axes, x: str, y: str, title: str, right_spine: bool = False) -> None:
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.set_title(title, loc="left", fontsize=9, color=GREY)
    axes.tick_params(labelsize=8)
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(right_spine)
