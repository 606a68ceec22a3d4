"""Figures of a capacity search: the capacities of many designs with their intervals, or one design against the rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.labels import describe_design, differing_keys, short_keys
from simjax.metrics.latency import NAMES
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from simjax.sizing.record import Capacities, Capacity, Tried

_MOST = 30  # designs that are drawn
_LINE = 0.27  # inches of a design
_AROUND = 0.4, 1.6  # rates that are drawn, in capacities
_FACTOR = 4.0  # reach of a latency axis over its limit


def plot_capacity(found: Capacities, path: Path, attainment: float, limits: Mapping[str, float]) -> Path | None:
    """Draw what a search has found.

    Args:
        found: one design is drawn against the rate, several as a line each, the highest capacity per GPU first.
        path: the PNG to write; a file of that name is removed if there is nothing to draw.
        attainment: share of the requests that must meet all limits.
        limits: the limits in seconds by name, such as `ttft_s`.

    Returns:
        The path, None if no design has a capacity.
    """
    drawn = [x for x in found.designs if x.rate_per_s is not None]
    if not drawn:
        path.unlink(missing_ok=True)
        return None
    if len(found.designs) == 1:
        return _against_rate(drawn[0], path, attainment, limits)
    return _designs(found, drawn, path)


def _designs(found: Capacities, drawn: list[Capacity], path: Path) -> Path:
    """A line for each design: its capacity per GPU with the interval, and the whole cluster's at the right."""
    table = found.frame()
    short = {key: short_keys(found.keys)[key] for key in differing_keys(table, found.keys) or found.keys}
    drawn = sorted(drawn, key=lambda x: -(x.per_gpu(x.rate_per_s) or 0.0))
    shown = drawn[:_MOST]
    figure = style.new_figure(7.6, _LINE * max(len(shown), 3) + 1.3, "Capacity: the highest rate that each design holds")
    axes = figure.subplots()
    style.dress(axes, xlabel=f"{drawn[0].unit} per GPU")
    axes.grid(False, axis="y")
    at = np.arange(len(shown))
    values = np.array([x.per_gpu(x.rate_per_s) or 0.0 for x in shown])
    low, high = (np.array([x.per_gpu(getattr(x, name)) or 0.0 for x in shown]) for name in ("low", "high"))
    axes.barh(at, values, height=0.62, color=style.BLUE, alpha=0.85)
    axes.errorbar(values, at, xerr=[values - low, high - values], fmt="none", ecolor=style.INK, elinewidth=1.1, capsize=2.5)
    rows = table.set_index("point").loc[[x.point for x in shown]]
    axes.set_yticks(at, [", ".join(describe_design(row, short, table)) for _, row in rows.iterrows()], fontsize=8.5, color=style.INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    reach = float(high.max())
    axes.set_xlim(0.0, 1.22 * reach)
    for y, one in enumerate(shown):
        text = f"{one.rate_per_s:.3g}/s, {one.gpus} GPU{'' if one.gpus == 1 else 's'}"
        axes.text(high[y] + 0.015 * reach, y, text, va="center", fontsize=8.0, color=style.GREY)
    notes = [f"bars: {min(shown, key=lambda x: x.seeds).covers} or more"]
    notes += [f"{len(drawn) - len(shown):,} more in results.csv"] if len(drawn) > len(shown) else []
    figure.supxlabel("; ".join(notes), x=0.008, ha="left", fontsize=8.0, color=style.GREY)
    return style.save(figure, path)


def _against_rate(one: Capacity, path: Path, attainment: float, limits: Mapping[str, float]) -> Path:
    """SLO attainment, and the P99 of each limited latency, against the rate, with the capacity and its interval."""
    assert one.rate_per_s is not None
    panels = [name for name in ("ttft_s", "tpot_s", "e2e_s") if name in limits] or ["ttft_s"]
    figure = style.new_figure(7.2, 2.1 * (1 + len(panels)) + 0.5, f"Capacity {one.rate_per_s:.4g} {one.unit}")
    tried = [x for x in (*one.looked, *one.tried) if _AROUND[0] <= x.rate / one.rate_per_s <= _AROUND[1]]
    tried.sort(key=lambda x: x.rate)
    first, *others = figure.subplots(1 + len(panels), 1, sharex=True)
    style.dress(first, ylabel="SLO attainment, %" if limits else "steady runs, %")
    _points(first, tried, [100.0 * (x.attained if limits else x.steady) for x in tried], style.BLUE)
    if limits:
        first.axhline(100.0 * attainment, color=style.RUST, linewidth=1.1, linestyle=(0, (4, 2)))
    for axes, name in zip(others, panels, strict=True):
        latency = name.removesuffix("_s")
        values = np.array([x.metrics.get(f"{latency}_p99_s") or np.nan for x in tried])
        factor, unit = style.latency_unit(np.array([limits[name]]) if name in limits else values[np.isfinite(values)])
        style.dress(axes, ylabel=f"P99 {NAMES[latency]}, {unit}")
        _points(axes, tried, factor * values, style.GREEN)
        if name in limits:
            axes.axhline(factor * limits[name], color=style.RUST, linewidth=1.1, linestyle=(0, (4, 2)))
            axes.set_ylim(0.0, factor * min(max(np.nanmax(values), 1.25 * limits[name]), _FACTOR * limits[name]))
        else:
            axes.set_ylim(bottom=0.0)
    for axes in (first, *others):
        axes.axvspan(one.low or one.rate_per_s, one.high or one.rate_per_s, color=style.BLUE, alpha=0.13, linewidth=0.0)
        axes.axvline(one.rate_per_s, color=style.BLUE, linewidth=1.3)
    others[-1].set_xlabel(one.unit, fontsize=9.5, color=style.INK)
    interval = f"capacity {one.rate_per_s:.4g}, interval [{one.low:.4g}, {one.high:.4g}]: {one.covers}"
    figure.supxlabel(f"{interval}\nabove: {one.limited_by}; hollow: one workload", x=0.008, ha="left", fontsize=8.0, color=style.GREY)
    return style.save(figure, path)


def _points(axes: Axes, tried: list[Tried], values: list[float] | np.ndarray, color: str) -> None:
    """A line through all rates; those tried on one workload only are hollow."""
    rates = [x.rate for x in tried]
    axes.plot(rates, values, color=color, linewidth=1.3, alpha=0.7)
    most = max(len(x.runs) for x in tried)
    for rate, value, one in zip(rates, values, tried, strict=True):
        axes.plot([rate], [value], "o", color=color, markersize=4.2, markerfacecolor=color if len(one.runs) == most else "white")
