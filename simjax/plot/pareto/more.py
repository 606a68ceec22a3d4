"""Fronts that are not a line in a plane: the best rows of one metric, all pairs of four and more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.pareto.objective import CI95
from simjax.explore.pareto.pareto import ParetoResult, numbers
from simjax.plot import style
from simjax.plot.pareto import parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = 10
_MOST = 5  # metrics of a matrix of pairs
_COLORS = (style.GREEN, style.GOLD, style.VIOLET, style.INK, style.GREY)  # of the best rows


def draw_ranking(result: ParetoResult, metric: str, keys: Sequence[str], title: str) -> Figure:
    """Bars of the ten best rows in the only metric, the best at the top."""
    values = numbers(result.table, metric)
    feasible = np.flatnonzero(result.feasible)
    sign = -1.0 if metric in result.objective.maximize else 1.0
    best = feasible[np.argsort(sign * values[feasible], kind="stable")][:_BARS]
    short = parts.names_within(result, best, keys)
    names = ["\n".join(parts.design_lines(result, int(row), short, 48)) for row in best]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = style.new_figure(8.4, 1.5 + 0.12 * len(best) + 0.19 * lines, title)
    axes = figure.subplots()
    head = f"the best {len(best)} of {len(feasible):,} {result.rows_are}" if len(feasible) > len(best) else f"{len(best)} {result.rows_are}"
    style.dress(axes, head, parts.axis_label(result, metric))
    half = np.zeros(len(best))
    if f"{metric}{CI95}" in result.table.columns:
        half = np.nan_to_num(numbers(result.table, f"{metric}{CI95}")[best])
    _draw_bars(axes, values[best], half, [parts.BEST if row in result.front else parts.FRONT for row in best], names)
    parts.caption(figure, result, keys)
    return figure


def _draw_bars(axes: Axes, values: np.ndarray, half: np.ndarray, colors: list[str], names: list[str]) -> None:
    places = np.arange(len(values))[::-1]
    axes.barh(places, values, height=0.62, color=colors, alpha=0.85)
    if half.any():
        axes.errorbar(values, places, xerr=half, fmt="none", ecolor=style.INK, elinewidth=0.9, capsize=2.5)
    for place, end, value in zip(places, np.maximum(values + half, 0.0), values, strict=True):
        axes.annotate(f"{value:,.4g}", (end, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.0, color=style.INK)
    axes.set_yticks(places, names, fontsize=8.0, color=style.INK)
    axes.grid(False, axis="y")
    axes.set_ylim(-0.6, len(values) - 0.4)
    low, high = min(0.0, float((values - half).min())), max(0.0, float((values + half).max()))
    axes.set_xlim(1.1 * low, high + 0.14 * ((high - low) or 1.0))


def draw_pairs(result: ParetoResult, metrics: list[str], keys: Sequence[str], title: str) -> Figure:
    """A panel for each pair of up to five metrics; the knee and the best rows are marked in all, and named in the free corner."""
    metrics = metrics[:_MOST]
    count = len(metrics) - 1
    figure = style.new_figure(3.0 * count + 0.8, 2.6 * count + 0.9, title)
    panels = figure.subplots(count, count, squeeze=False, sharex="col", sharey="row")
    columns = {name: numbers(result.table, name) for name in metrics}
    others = iter(_COLORS)
    colors = [parts.KNEE if row == result.knee else next(others, style.GREY) for row in parts.marked_rows(result)]
    for row, up in enumerate(metrics[1:]):
        for column, across in enumerate(metrics[:-1]):
            axes = panels[row, column]
            axes.set_visible(column <= row)
            if column > row:
                continue
            xlabel = parts.axis_label(result, across, narrow=True) if row == count - 1 else ""
            style.dress(axes, "", xlabel, parts.axis_label(result, up, narrow=True) if column == 0 else "")
            x, y = columns[across], columns[up]
            axes.plot(x[result.front], y[result.front], "o", color=parts.FRONT, markersize=3.5, markeredgewidth=0.0, zorder=3)
            parts.draw_cloud(axes, result, x, y)
            parts.draw_limits(axes, result, across, up)
            parts.draw_marks(axes, result, x, y, colors)
            parts.scale_axes(axes, result, across, up, narrow=True)
    panels[0, 0].set_title(parts.headline(result), loc="left", fontsize=10.5, color=style.INK)
    _name_marks(figure, result, colors, parts.label_texts(result, keys))
    parts.caption(figure, result, keys)
    return figure


def _name_marks(figure: Figure, result: ParetoResult, colors: list[str], texts: list[str]) -> None:
    """What the markers of all panels are, in the corner that the matrix leaves free."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker="D" if row == result.knee else "s", color=color, markersize=7, label=text)
        for row, color, text in zip(parts.marked_rows(result), colors, texts, strict=True)
    ]
    handles.append(Line2D([], [], linestyle="none", marker="o", color=parts.FRONT, markersize=4, label="front"))
    handles.append(Line2D([], [], linestyle="none", marker="o", color=parts.DOMINATED, markersize=4, label="dominated"))
    if result.left_out.rows_violating:
        handles.append(Line2D([], [], linestyle="none", marker="x", color=parts.OUTSIDE, markersize=4, label="outside the constraints"))
    figure.legend(handles=handles, loc="upper right", fontsize=8.0, frameon=False, labelspacing=0.9, handletextpad=0.6)
