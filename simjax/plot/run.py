"""Figures of one run: latency distributions, the state of the cluster over time, and sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.caching import caches, hits
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.handover.legs import first_legs
from simjax.metrics.latency import latencies
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.metrics.timeseries import sum_instances, timeline
from simjax.plot import style
from simjax.plot.handover import plot_handovers
from simjax.plot.power import plot_power
from simjax.plot.sessions import plot_sessions
from simjax.plot.tiers import plot_tiers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PANELS = (
    ("ttft_s", "finished", "time to first token (TTFT)"),
    ("tpot_s", "has_tpot", "time per output token (TPOT)"),
    ("e2e_s", "finished", "end-to-end latency"),
)
_MARKED = (50, 90, 99)
_MOST_LINES = 4  # with more instances than this their sums are drawn
_MOST_BINS = 250
_HIT_BINS = 50  # bins of the prefix hits: with few requests per bin the line is noisy


def plot_run(
    result: Result,
    out_dir: str | Path,
    title: str = "",
    window: Window = AUTOMATIC,
    slo: Slo = NO_LIMITS,
    intervals: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `latency_cdf.png`, `timeline.png` if the run has a leap log, and `sessions.png` if it has sessions, into a folder.

    A run with power and a leap log also has `power.png`, one with KV tiers and a leap log `kv_tier.png`; one with prefill and decode
    instances has `ttft_parts.png` and, with a leap log, `pools.png`.

    Args:
        result: the run.
        out_dir: the folder, created when missing.
        title: title at the top of the figures, such as the names of what was simulated.
        window: what is left out of the distributions, and pale in the timeline.
        slo: limits, drawn into the distributions.
        intervals: intervals of percentiles (`simjax.run_draws(...).intervals()`), drawn as bands; None for none.

    Returns:
        The paths written. A run without finished requests has no figures of latencies and sessions.
    """
    out = Path(out_dir)
    paths = []
    part = Runs.of([result], [NO_LIMITS], [1], [window]).measured
    if (result.requests.finished & part.arrived[0]).any():
        paths.append(plot_latency_cdf(result, out / "latency_cdf.png", title, part.arrived[0], slo, intervals))
    if result.leaps is not None:
        edges = None if part.whole[0] else (float(part.start_s[0]), float(part.end_s[0]))
        paths.append(plot_timeline(result, out / "timeline.png", title, edges))
    if result.plant is not None and result.leaps is not None:
        paths.append(plot_power(result, out / "power.png", title))
    if result.tiers is not None and result.leaps is not None:
        paths.append(plot_tiers(result, out / "kv_tier.png", title))
    if result.handovers is not None:
        paths += plot_handovers(result, out, title, part.arrived[0])
    if result.sessions is not None and result.requests.finished.any():
        paths.append(plot_sessions(result.requests, result.sessions, out / "sessions.png", title))
    return paths


def plot_latency_cdf(
    result: Result,
    path: Path,
    title: str = "",
    counts: np.ndarray | None = None,
    slo: Slo = NO_LIMITS,
    intervals: Mapping[str, Any] | None = None,
) -> Path:
    """Draw the distributions of TTFT, TPOT and E2E latency over the finished requests, with P50, P90 and P99 marked.

    Args:
        result: the run.
        path: the PNG to write.
        title: title at the top.
        counts: bool[R], the requests that count; None for all.
        slo: limits on the latencies, drawn as lines with the share of the requests that meet them.
        intervals: of percentiles, as in `summary.json`; drawn as bands beside the marks.
    """
    lat = latencies(result.requests)
    counts = lat.finished if counts is None else counts
    figure = style.new_figure(10.5, 3.5, title)
    for axes, (metric, mask, label) in zip(figure.subplots(1, 3), PANELS, strict=True):
        values = getattr(lat, metric)[getattr(lat, mask) & counts]
        scale, unit = style.latency_unit(values)
        style.dress(axes, label, unit, "requests, %" if metric == "ttft_s" else "")
        if len(values) == 0:
            style.note(axes, "no request has two output tokens")
            continue
        style.cdf(axes, values * scale, style.BLUE, label)
        style.log_if_wide(axes, [values * scale])
        lines = [
            *_draw_limit(axes, values, getattr(slo, metric), scale, unit),
            *_draw_bands(axes, (intervals or {}).get(metric) or {}, scale, (intervals or {}).get("level")),
        ]
        _mark_percentiles(axes, values * scale, unit, lines)
    return style.save(figure, path)


def _draw_limit(axes: Axes, values: np.ndarray, limit_s: float, scale: float, unit: str) -> list[str]:
    """Draw a service level; a line with the share of the requests that meet it, none without a limit."""
    if not np.isfinite(limit_s):
        return []
    axes.axvline(limit_s * scale, color=style.INK, linewidth=1.1, linestyle=(0, (4, 2)), zorder=2, label="limit")
    met = 100.0 * float(np.mean(values <= limit_s))
    return [f"limit {limit_s * scale:,.{_decimals(limit_s * scale)}f} {unit}: {met:.3g} % meet it"]


def _draw_bands(axes: Axes, intervals: Mapping[str, Any], scale: float, level: float | None) -> list[str]:
    """Draw the intervals of the marked percentiles as bands at their heights; a line that says so, none without intervals."""
    found = {q: intervals[f"p{q}"] for q in _MARKED if intervals.get(f"p{q}") is not None}
    for q, (low, high) in found.items():
        axes.plot([low * scale, high * scale], [q, q], color=style.RUST, alpha=0.35, linewidth=6.0, solid_capstyle="butt", zorder=2)
    return [f"bands: {100 * (level or 0.0):.3g} % intervals"] if found else []


def _mark_percentiles(axes: Axes, values: np.ndarray, unit: str, more: Sequence[str] = ()) -> None:
    """Mark percentiles as dots on the curve, and list them, and further lines, in the corner that the curve leaves empty."""
    found = np.percentile(values, _MARKED)
    axes.plot(found, _MARKED, "o", color=style.RUST, markersize=4.5, zorder=3)
    lines = [f"P{q}  {value:,.{_decimals(value)}f} {unit}" for q, value in zip(_MARKED, found, strict=True)]
    text = "\n".join([*lines, *more])
    # The lower right corner is free if the curve reaches 35 % far enough to the left (as a fraction of the panel's width).
    to_axes = axes.transData + axes.transAxes.inverted()
    reached = to_axes.transform((float(np.percentile(values, 35)), 35.0))[0]
    style.note(axes, text, style.RUST, low_right=bool(reached < 0.62))


def _decimals(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2


def plot_timeline(result: Result, path: Path, title: str = "", measured_s: tuple[float, float] | None = None) -> Path:
    """Draw token rates, running and waiting requests, and KV use over time: one line per instance, or sums over more than four of them.

    With prefix caching, cached blocks are drawn above those in use, and the cached fraction of the prompts in a further panel. What lies
    outside the measurement window `measured_s` (its edges; None for a whole run) has a grey ground.
    """
    frame = timeline(result, most_bins=_MOST_BINS)
    instances = len(result.instances.num_blocks)
    together = instances > _MOST_LINES
    groups = [sum_instances(frame, result.instances.num_blocks)] if together else [rows for _, rows in frame.groupby("instance")]
    starts = groups[0]["t_s"].to_numpy()
    width_s = starts[1] - starts[0] if len(starts) > 1 else 1.0
    scale, unit = style.time_unit(len(starts) * width_s)
    edges = np.append(starts, starts[-1] + width_s) * scale
    caching = caches(result)
    figure = style.new_figure(10.5, 9.2 if caching else 7.6, title)
    prompt, output, requests, kv, *below = panels = figure.subplots(5 if caching else 4, 1, sharex=True)
    style.dress(prompt, "prefill" + (f", {instances} instances together" if together else ""), "", "prompt tokens/s")
    style.dress(output, "decode", "", "output tokens/s")
    style.dress(requests, "requests", "", "requests")
    what = "KV cache, mean and range of the instances" if together else "KV cache"
    style.dress(kv, what, "", "blocks, %" if caching else "blocks used, %")
    for i, rows in enumerate(groups):
        color = style.SERIES[i]
        waiting_color, name = (style.RUST, "") if len(groups) == 1 else (color, f"{i} ")
        line = {"baseline": None, "color": color, "linewidth": 1.3}
        prompt.stairs(rows["prompt_tokens_per_s"], edges, label=f"instance {i}", **line)
        output.stairs(rows["output_tokens_per_s"], edges, **line)
        requests.stairs(rows["running"], edges, label=f"{name}running", **line)
        requests.stairs(rows["waiting"], edges, label=f"{name}waiting", **{**line, "color": waiting_color, "linestyle": (0, (3, 1.5))})
        kv.stairs(rows["kv_used_fraction"] * 100.0, edges, label="" if i else "used", **line)
        if caching:
            _draw_cached(kv, rows, edges, color, alone=instances == 1, named=i == 0)
        if together:
            kv.stairs(rows["kv_high"] * 100.0, edges, baseline=rows["kv_low"] * 100.0, fill=True, color=color, alpha=0.18, linewidth=0.0)
    if len(groups) > 1:
        style.legend(prompt, columns=len(groups))
    style.legend(requests, columns=2 * len(groups))
    if caching:
        style.legend(kv, columns=2)
        _draw_hits(below[0], result, edges / scale, scale, [None] if len(groups) == 1 else list(range(len(groups))))
    panels[-1].set_xlabel(f"time, {unit}" + ("" if measured_s is None else " (grey: outside the measurement window)"))
    for axes in panels:
        axes.set_ylim(bottom=0.0)
        style.plain_thousands(axes)
        if measured_s is not None:
            for low, high in ((edges[0], measured_s[0] * scale), (measured_s[1] * scale, edges[-1])):
                axes.axvspan(low, high, color=style.GREY, alpha=0.12, linewidth=0.0, zorder=0)
    # A nearly empty cache gets a closer view, a well-used one is drawn against its capacity.
    kv.set_ylim(top=105.0 if kv.get_ylim()[1] > 40.0 else None)
    kv.set_xlim(edges[0], edges[-1])
    return style.save(figure, path)


def _draw_cached(axes: Axes, rows: pd.DataFrame, edges: np.ndarray, color: str, alone: bool, named: bool) -> None:
    """Draw cached blocks on top of the blocks in use: an area, or a dashed line where other instances are drawn too."""
    used, kept = (rows[name].to_numpy(np.float64) * 100.0 for name in ("kv_used_fraction", "kv_cached_fraction"))
    if alone:
        axes.stairs(kept, edges, baseline=used, fill=True, color=style.GREEN, alpha=0.3, linewidth=0.0, label="cached")
    else:
        label = "used or cached" if named else ""
        axes.stairs(kept, edges, baseline=None, color=color, linewidth=1.1, linestyle=(0, (3, 1.5)), label=label)


def _draw_hits(axes: Axes, result: Result, edges_s: np.ndarray, scale: float, instances: Sequence[int | None]) -> None:
    """Draw cached over prompt tokens of the scheduled requests, in wider bins: one line per instance, or one for all (None)."""
    style.dress(axes, "prefix cache: cached part of the prompts that are scheduled", "", "prompt tokens, %")
    wide = np.append(edges_s[: -1 : max(1, len(edges_s) // _HIT_BINS)], edges_s[-1])
    for i, instance in enumerate(instances):
        found, requested = hits(first_legs(result), wide, instance)
        share = np.where(requested > 0, 100.0 * found / np.maximum(requested, 1), np.nan)
        axes.stairs(share, wide * scale, baseline=None, color=style.SERIES[i], linewidth=1.3)
    axes.set_ylim(top=105.0)
