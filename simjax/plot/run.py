"""Figures of one run: latency distributions, and what the cluster did over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.engine.result import Result
from simjax.metrics.latency import latencies
from simjax.metrics.timeline import sum_instances, timeline
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("ttft_s", "finished", "time to first token (TTFT)"),
    ("tpot_s", "has_tpot", "time per output token (TPOT)"),
    ("e2e_s", "finished", "end-to-end latency"),
)
_MARKED = (50, 90, 99)
_MOST_LINES = 4  # more instances than this are drawn together
_MOST_BINS = 250


def plot_run(result: Result, out_dir: str | Path, title: str = "") -> list[Path]:
    """Write `latency_cdf.png` and, when the run has a leap log, `timeline.png` into a folder.

    Args:
        result: the run.
        out_dir: the folder, created when missing.
        title: what was simulated, for the top of the figures.

    Returns:
        The paths written. A run without a finished request has no latency figure.
    """
    out = Path(out_dir)
    paths = []
    if result.requests.finished.any():
        paths.append(plot_latency_cdf(result, out / "latency_cdf.png", title))
    if result.leaps is not None:
        paths.append(plot_timeline(result, out / "timeline.png", title))
    return paths


def plot_latency_cdf(result: Result, path: Path, title: str = "") -> Path:
    """The distributions of TTFT, TPOT and E2E latency over the finished requests, with P50, P90 and P99 marked."""
    lat = latencies(result.requests)
    figure = style.new_figure(10.5, 3.5, title)
    for axes, (metric, mask, label) in zip(figure.subplots(1, 3), PANELS, strict=True):
        values = getattr(lat, metric)[getattr(lat, mask)]
        scale, unit = style.latency_unit(values)
        style.dress(axes, label, unit, "requests, %" if metric == "ttft_s" else "")
        if len(values) == 0:
            style.note(axes, "no request has two output tokens")
            continue
        style.cdf(axes, values * scale, style.BLUE, label)
        style.log_if_wide(axes, [values * scale])
        _mark_percentiles(axes, values * scale, unit)
    return style.save(figure, path)


def _mark_percentiles(axes: Axes, values: np.ndarray, unit: str) -> None:
    """Dots on the curve, and what they say in the corner that the curve leaves empty."""
    found = np.percentile(values, _MARKED)
    axes.plot(found, _MARKED, "o", color=style.RUST, markersize=4.5, zorder=3)
    text = "\n".join(f"P{q}  {value:,.{_decimals(value)}f} {unit}" for q, value in zip(_MARKED, found, strict=True))
    # Where 35 % of the requests are reached, in parts of the panel's width: the low right corner is free when that is far left.
    to_axes = axes.transData + axes.transAxes.inverted()
    reached = to_axes.transform((float(np.percentile(values, 35)), 35.0))[0]
    style.note(axes, text, style.RUST, low_right=bool(reached < 0.62))


def _decimals(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2


def plot_timeline(result: Result, path: Path, title: str = "") -> Path:
    """Token rates, running and waiting requests, and KV use over time: a line an instance, or sums over more than four of them."""
    frame = timeline(result, most_bins=_MOST_BINS)
    instances = len(result.num_blocks)
    together = instances > _MOST_LINES
    groups = [sum_instances(frame, result.num_blocks)] if together else [rows for _, rows in frame.groupby("instance")]
    starts = groups[0]["t_s"].to_numpy()
    width_s = starts[1] - starts[0] if len(starts) > 1 else 1.0
    scale, unit = style.time_unit(len(starts) * width_s)
    edges = np.append(starts, starts[-1] + width_s) * scale
    figure = style.new_figure(10.5, 7.6, title)
    prompt, output, requests, kv = panels = figure.subplots(4, 1, sharex=True)
    style.dress(prompt, "prefill" + (f", {instances} instances together" if together else ""), "", "prompt tokens/s")
    style.dress(output, "decode", "", "output tokens/s")
    style.dress(requests, "requests", "", "requests")
    style.dress(kv, "KV cache" + (", mean and range of the instances" if together else ""), f"time, {unit}", "blocks used, %")
    for i, rows in enumerate(groups):
        color = style.SERIES[i]
        waiting_color, name = (style.RUST, "") if len(groups) == 1 else (color, f"{i} ")
        line = {"baseline": None, "color": color, "linewidth": 1.3}
        prompt.stairs(rows["prompt_tokens_per_s"], edges, label=f"instance {i}", **line)
        output.stairs(rows["output_tokens_per_s"], edges, **line)
        requests.stairs(rows["running"], edges, label=f"{name}running", **line)
        requests.stairs(rows["waiting"], edges, label=f"{name}waiting", **{**line, "color": waiting_color, "linestyle": (0, (3, 1.5))})
        kv.stairs(rows["kv_used_fraction"] * 100.0, edges, **line)
        if together:
            kv.stairs(rows["kv_high"] * 100.0, edges, baseline=rows["kv_low"] * 100.0, fill=True, color=color, alpha=0.18, linewidth=0.0)
    if len(groups) > 1:
        style.legend(prompt, columns=len(groups))
    style.legend(requests, columns=2 * len(groups))
    for axes in panels:
        axes.set_ylim(bottom=0.0)
        style.plain_thousands(axes)
    # A nearly empty cache is drawn larger, a well used one against its capacity.
    kv.set_ylim(top=105.0 if kv.get_ylim()[1] > 40.0 else None)
    kv.set_xlim(edges[0], edges[-1])
    return style.save(figure, path)
