"""The parts of the time to first token as a waterfall of means, and stacked by how long requests took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.handover.parts import PARTS, ttft_parts
from simjax.metrics.latency import latencies
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = dict(zip(PARTS, (style.GREY, style.BLUE, style.GOLD, style.RUST, style.GREEN), strict=True))
_EDGES = (0, 20, 40, 60, 80, 90, 95, 99, 100)  # percentiles of TTFT between which requests are taken together


def plot_ttft_parts(result: Result, path: Path, title: str, there: np.ndarray) -> Path:
    """Draw the mean parts of TTFT one after the other, and on top of each other for requests of similar TTFT.

    Args:
        result: a run with hand-overs.
        path: the PNG to write.
        title: title at the top.
        there: bool[R], the requests to draw; they were handed over.
    """
    assert result.handovers is not None
    parts = {name: part[there] for name, part in ttft_parts(result.requests, result.handovers).items()}
    total = latencies(result.requests).ttft_s[there]
    scale, unit = style.latency_unit(total)
    figure = style.new_figure(10.5, 4.2, title)
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.35))
    style.dress(left, f"mean of {len(total):,} requests", f"time since the arrival, {unit}")
    _waterfall(left, {name: float(part.mean()) * scale for name, part in parts.items()}, unit)
    style.dress(right, "by time to first token (TTFT)", "requests between two percentiles of TTFT", f"mean of the parts, {unit}")
    _stack(right, {name: part * scale for name, part in parts.items()}, total)
    return style.save(figure, path)


def _waterfall(axes: Axes, means: dict[str, float], unit: str) -> None:
    """A bar for each part, which begins where the one above it ends."""
    begin, whole = 0.0, sum(means.values())
    for row, (name, mean) in enumerate(means.items()):
        axes.barh(row, mean, left=begin, color=COLORS[name], height=0.62)
        text = f"{mean:,.3g} {unit}, {100.0 * mean / whole if whole else 0.0:.0f} %"
        late = begin + mean > 0.62 * whole  # there is more room to the left of the bar
        x = begin - 0.012 * whole if late else begin + mean + 0.012 * whole
        axes.text(x, row, text, ha="right" if late else "left", va="center", fontsize=8.5, color=style.INK)
        begin += mean
    axes.set_yticks(range(len(means)), [PARTS[name] for name in means])
    axes.tick_params(axis="y", labelsize=9.0, colors=style.INK)
    axes.grid(False, axis="y")
    axes.set_ylim(len(means) - 0.4, -0.6)
    axes.set_xlim(0.0, whole * 1.04 or 1.0)


def _stack(axes: Axes, parts: dict[str, np.ndarray], total: np.ndarray) -> None:
    """A bar for each group of requests, the means of their parts on top of each other."""
    last = len(_EDGES) - 2
    group = np.clip(np.searchsorted(np.percentile(total, _EDGES), total, side="left") - 1, 0, last)
    count = np.bincount(group, minlength=last + 1)
    full = np.flatnonzero(count)
    below = np.zeros(len(full))
    for name, part in parts.items():
        mean = np.bincount(group, part, last + 1)[full] / count[full]
        axes.bar(np.arange(len(full)), mean, bottom=below, color=COLORS[name], width=0.8, label=PARTS[name])
        below = below + mean
    axes.set_xticks(range(len(full)), [f"{_EDGES[i]}–{_EDGES[i + 1]}" for i in full])
    axes.grid(False, axis="x")
    axes.set_ylim(top=1.12 * float(below.max()) or 1.0)
    style.plain_thousands(axes)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", fontsize=8.5, frameon=False)
