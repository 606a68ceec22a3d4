"""The figure of a Pareto front, and its form for two or three metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.pareto.front import ParetoResult, numbers
from simjax.plot import style
from simjax.plot.labels import Label, place_labels
from simjax.plot.pareto import marks, scales, texts
from simjax.plot.pareto.pairs import draw_pairs
from simjax.plot.pareto.ranking import draw_ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_pareto(result: ParetoResult, path: str | Path, keys: Sequence[str], title: str = "") -> Path | None:
    """Draw a front: the ten best rows for one metric, the front in a plane for two, with a colour for a third, all pairs for more.

    Args:
        result: from `simjax.explore.pareto.front.pareto`.
        path: the PNG to write.
        keys: the swept keys, columns of the result's table; their values label the points.
        title: title at the top of the figure, such as the swept keys.

    Returns:
        The path; None, and no file is written, if the front is empty.
    """
    if len(result.front) == 0:
        return None
    metrics = _axes_order(result)
    if len(metrics) == 1:
        figure = draw_ranking(result, metrics[0], keys, title)
    elif len(metrics) <= 3:
        figure = _draw_plane(result, metrics, keys, title)
    else:
        figure = draw_pairs(result, metrics, keys, title)
    return style.save(figure, Path(path))


def _axes_order(result: ParetoResult) -> list[str]:
    """The metrics in the order of the axes: across one to minimise (such as a latency), up one to maximise."""
    up, down = result.objective.maximize, result.objective.minimize
    return [down[0], up[0], *up[1:], *down[1:]] if up and down else [*up, *down]


def _draw_plane(result: ParetoResult, metrics: list[str], keys: Sequence[str], title: str) -> Figure:
    figure = style.new_figure(8.4, 5.4, title)
    axes = figure.subplots()
    across, up = metrics[:2]
    style.dress(axes, texts.headline(result), texts.axis_label(result, across), texts.axis_label(result, up))
    x, y = numbers(result.table, across), numbers(result.table, up)
    order = result.front[np.argsort(x[result.front], kind="stable")]
    groups = marks.front_groups(result)
    if len(metrics) == 2 and groups:
        curve = _draw_groups(axes, result, metrics, x, y, groups)
        marks.draw_cloud(axes, result, x, y, marks.OUTSIDE)
    elif len(metrics) == 2:
        curve = _draw_line(axes, result, metrics, x, y, order[::-1] if across in result.objective.maximize else order)
        marks.draw_cloud(axes, result, x, y)
    else:
        curve = np.zeros((0, 2))
        _draw_colored(axes, result, metrics, x, y, order)
        marks.draw_cloud(axes, result, x, y, marks.OUTSIDE)
    marks.draw_limits(axes, result, across, up)
    names = texts.label_texts(result, keys)
    colors = [marks.KNEE if row == result.knee else marks.BEST for row in marks.marked_rows(result)]
    of_group = {int(row): color for rows, color in groups.values() for row in rows}
    colors = [of_group.get(row, color) for row, color in zip(marks.marked_rows(result), colors, strict=True)]
    marks.draw_marks(axes, result, x, y, colors)
    scales.scale_axes(axes, result, across, up)
    style.legend(axes, columns=min(5, 1 + len(groups)) if groups else 5)
    texts.caption(figure, result, keys)
    labels = [
        Label(float(x[row]), float(y[row]), text, color) for row, text, color in zip(marks.marked_rows(result), names, colors, strict=True)
    ]
    beaten, refused = marks.drawn_rows(result, (x, y))
    if labels:
        place_labels(axes, labels, curve, np.stack([x, y], axis=1)[result.front], np.stack([x, y], axis=1)[beaten | refused])
    return figure


def _draw_groups(
    axes: Axes, result: ParetoResult, metrics: list[str], x: np.ndarray, y: np.ndarray, groups: dict[str, tuple[np.ndarray, str]]
) -> np.ndarray:
    """Draw the front of two metrics in the colours of its groups; returns the vertices of its lines, float64[n, 2].

    Each group has a line of its own where the objective has a front for each; else one grey line goes through all.
    """
    down = metrics[0] in result.objective.maximize
    ordered = lambda rows: rows[np.argsort(x[rows] * (-1.0 if down else 1.0), kind="stable")]
    own = bool(result.objective.by)
    lines = [(rows, color) for rows, color in groups.values()] if own else [(result.front, style.GREY)]
    vertices = []
    for rows, color in lines:
        row = ordered(rows)
        vertices.append(np.stack([np.repeat(x[row], 2)[1:], np.repeat(y[row], 2)[:-1]], axis=1))
        axes.plot(*vertices[-1].T, color=color, linewidth=1.6 if own else 1.0, zorder=3, label="_line")
    for name, (rows, color) in groups.items():
        axes.plot(x[rows], y[rows], "o", color=color, markersize=5.5, markeredgecolor="white", markeredgewidth=0.4, zorder=4, label=name)
    return np.concatenate(vertices)


def _draw_line(axes: Axes, result: ParetoResult, metrics: list[str], x: np.ndarray, y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Draw the front of two metrics with its markers and error bars; returns the vertices of its line, float64[n, 2].

    The line is the border of the dominated region: from the best x on, the y of each row holds until the next one, which is worse in x and
    better in y.
    """
    x, y = x[order], y[order]
    corners = np.stack([np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]], axis=1)
    axes.plot(corners[:, 0], corners[:, 1], color=marks.FRONT, linewidth=1.6, zorder=3, label="_line")
    axes.plot(x, y, "o", color=marks.FRONT, markersize=5.0, zorder=4, label="front")
    places = {row: place for place, row in enumerate(result.front)}
    picked = [places[row] for row in order]
    halves = [None if half is None else half[picked] for half in (marks.half_widths(result, name) for name in metrics[:2])]
    if any(half is not None for half in halves):
        axes.errorbar(
            x, y, xerr=halves[0], yerr=halves[1], fmt="none", ecolor=marks.FRONT, elinewidth=0.9, alpha=0.6, capsize=2.0, zorder=3,
            label="95 % confidence",
        )  # fmt: skip
    return corners


def _draw_colored(axes: Axes, result: ParetoResult, metrics: list[str], x: np.ndarray, y: np.ndarray, order: np.ndarray) -> None:
    """Draw the front of three metrics, the third as a colour."""
    from matplotlib.colors import LogNorm

    third = numbers(result.table, metrics[2])[order]
    norm = LogNorm() if (third > 0).all() and style.is_wide(third) else None
    dots = axes.scatter(
        x[order], y[order], c=third, cmap="viridis", norm=norm, s=34, edgecolors="white", linewidths=0.5, zorder=4, label="front"
    )
    bar = axes.figure.colorbar(dots, ax=axes, pad=0.02, aspect=30)
    bar.set_label(texts.axis_label(result, metrics[2]), fontsize=9.5, color=style.INK)
    bar.ax.tick_params(which="both", colors=style.GREY, labelsize=8.5)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
