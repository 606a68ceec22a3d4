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
    _waterfall(left, {name: float(part.mean()) for name, part in parts.items()}, scale)
    style.dress(right, "by time to first token (TTFT)", "requests between two percentiles of TTFT", f"mean of the parts, {unit}")
    _stack(right, {name: part * scale for name, part in parts.items()}, total)
    return style.save(figure, path)


def _waterfall(axes: Axes, means_s: dict[str, float], scale: float) -> None:
    """A bar for each part, which begins where the one above it ends; `scale` is from seconds to the axis."""
    begin, whole = 0.0, sum(means_s.values()) * scale
    for row, (name, mean_s) in enumerate(means_s.items()):
        end = begin + mean_s * scale
        axes.barh(row, end - begin, left=begin, color=COLORS[name], height=0.62)
        text = f"{_time(mean_s)}, {100.0 * (end - begin) / whole if whole else 0.0:.0f} %"
        if end <= 0.62 * whole:
            x, side, color = end + 0.012 * whole, "left", style.INK
        elif begin >= 0.38 * whole:
            x, side, color = begin - 0.012 * whole, "right", style.INK
        else:  # the bar is longer than the text
            x, side, color = (begin + end) / 2.0, "center", "white"
        axes.text(x, row, text, ha=side, va="center", fontsize=8.5, color=color)
        begin = end
    axes.set_yticks(range(len(means_s)), [PARTS[name] for name in means_s])
    axes.tick_params(axis="y", labelsize=9.0, colors=style.INK)
    axes.grid(False, axis="y")
    axes.set_ylim(len(means_s) - 0.4, -0.6)
    axes.set_xlim(0.0, whole * 1.04 or 1.0)


def _time(seconds: float) -> str:
    """Seconds with three digits, in milliseconds if they are less than one."""
    return f"{seconds:,.3g} s" if seconds >= 1.0 else f"{seconds * 1e3:,.3g} ms"


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
