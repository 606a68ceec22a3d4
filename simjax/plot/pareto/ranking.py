"""The figure of a front in one metric: the best rows as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.pareto.front import ParetoResult, numbers
from simjax.explore.pareto.objective import CI95
from simjax.plot import style
from simjax.plot.pareto import marks, texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BARS = 10


def draw_ranking(result: ParetoResult, metric: str, keys: Sequence[str], title: str) -> Figure:
    """Draw bars of the ten best rows in the only metric, the best at the top; with groups those of the best of each."""
    values = numbers(result.table, metric)
    feasible = np.flatnonzero(result.feasible)
    sign = -1.0 if metric in result.objective.maximize else 1.0
    best = feasible[np.argsort(sign * values[feasible], kind="stable")][:_BARS]
    best = result.front[:_BARS] if result.groups else best
    short = texts.names_within(result, best, keys)
    names = ["\n".join(texts.design_lines(result, int(row), short, 48)) for row in best]
    lines = sum(name.count("\n") + 1 for name in names)
    figure = style.new_figure(8.4, 1.5 + 0.12 * len(best) + 0.19 * lines, title)
    axes = figure.subplots()
    head = f"the best {len(best)} of {len(feasible):,} {result.rows_are}" if len(feasible) > len(best) else f"{len(best)} {result.rows_are}"
    style.dress(axes, head, texts.axis_label(result, metric))
    half = np.zeros(len(best))
    if f"{metric}{CI95}" in result.table.columns:
        half = np.nan_to_num(numbers(result.table, f"{metric}{CI95}")[best])
    _draw_bars(axes, values[best], half, [marks.BEST if row in result.front else marks.FRONT for row in best], names)
    texts.caption(figure, result, keys)
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
