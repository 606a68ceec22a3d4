"""The figure of a front in four or more metrics: all pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from simjax.explore.pareto.front import ParetoResult, numbers
from simjax.plot import style
from simjax.plot.pareto import marks, scales, texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 5  # metrics in the matrix of pairs
_COLORS = (style.GREEN, style.GOLD, style.VIOLET, style.INK, style.GREY)  # colours of the best rows


def draw_pairs(result: ParetoResult, metrics: list[str], keys: Sequence[str], title: str) -> Figure:
    """Draw a panel for each pair of up to five metrics, with the knee and the best rows marked in all and named in the free corner."""
    metrics = metrics[:_MOST]
    count = len(metrics) - 1
    figure = style.new_figure(3.0 * count + 0.8, 2.6 * count + 0.9, title)
    panels = figure.subplots(count, count, squeeze=False, sharex="col", sharey="row")
    columns = {name: numbers(result.table, name) for name in metrics}
    others = iter(_COLORS)
    colors = [marks.KNEE if row == result.knee else next(others, style.GREY) for row in marks.marked_rows(result)]
    for row, up in enumerate(metrics[1:]):
        for column, across in enumerate(metrics[:-1]):
            axes = panels[row, column]
            axes.set_visible(column <= row)
            if column > row:
                continue
            xlabel = texts.axis_label(result, across, narrow=True) if row == count - 1 else ""
            style.dress(axes, "", xlabel, texts.axis_label(result, up, narrow=True) if column == 0 else "")
            x, y = columns[across], columns[up]
            axes.plot(x[result.front], y[result.front], "o", color=marks.FRONT, markersize=3.5, markeredgewidth=0.0, zorder=3)
            marks.draw_cloud(axes, result, x, y)
            marks.draw_limits(axes, result, across, up)
            marks.draw_marks(axes, result, x, y, colors)
            scales.scale_axes(axes, result, across, up, narrow=True)
    panels[0, 0].set_title(texts.headline(result), loc="left", fontsize=10.5, color=style.INK)
    _name_marks(figure, result, colors, texts.label_texts(result, keys))
    texts.caption(figure, result, keys)
    return figure


def _name_marks(figure: Figure, result: ParetoResult, colors: list[str], texts: list[str]) -> None:
    """Explain the markers of all panels in the corner that the matrix leaves free."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker="D" if row == result.knee else "s", color=color, markersize=7, label=text)
        for row, color, text in zip(marks.marked_rows(result), colors, texts, strict=True)
    ]
    handles.append(Line2D([], [], linestyle="none", marker="o", color=marks.FRONT, markersize=4, label="front"))
    handles.append(Line2D([], [], linestyle="none", marker="o", color=marks.DOMINATED, markersize=4, label="dominated"))
    if result.left_out.rows_violating:
        handles.append(Line2D([], [], linestyle="none", marker="x", color=marks.OUTSIDE, markersize=4, label="outside the constraints"))
    figure.legend(handles=handles, loc="upper right", fontsize=8.0, frameon=False, labelspacing=0.9, handletextpad=0.6)
