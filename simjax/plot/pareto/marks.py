"""Rows of a Pareto result as marks in a panel: dominated rows, constraints, the knee and the best rows, error bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.pareto.front import ParetoResult, finished_rows, group_names, numbers
from simjax.explore.pareto.objective import CI95
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FRONT, KNEE, BEST = style.BLUE, style.RUST, style.GREEN
DOMINATED, OUTSIDE = "#8fb0d6", "#a8a8a8"  # light, so that thousands of overlapping dots do not look like the front
_MOST_GROUPS = 12
_MANY = 1500  # dots beyond which they are drawn smaller and fainter


def drawn_rows(result: ParetoResult, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The dominated rows and those outside the constraints that have a finite value in all columns, as two bool[rows]."""
    drawable = np.logical_and.reduce([np.isfinite(column) for column in columns])
    drawable &= finished_rows(result.table)
    beaten = drawable & result.feasible
    beaten[result.front] = False
    return beaten, drawable & ~result.feasible


def draw_cloud(axes: Axes, result: ParetoResult, x: np.ndarray, y: np.ndarray, color: str = DOMINATED) -> None:
    """Draw dominated rows as faint dots, and those outside the constraints as fainter crosses."""
    beaten, refused = drawn_rows(result, (x, y))
    small = np.count_nonzero(beaten | refused) > _MANY
    if beaten.any():
        axes.plot(
            x[beaten], y[beaten], "o", color=color, alpha=0.3 if small else 0.6, markersize=2.6 if small else 4.0, markeredgewidth=0.0,
            zorder=2, label="dominated",
        )  # fmt: skip
    if refused.any():
        axes.plot(
            x[refused], y[refused], "x", color=OUTSIDE, alpha=0.4 if small else 0.7, markersize=2.5 if small else 3.5,
            markeredgewidth=0.8, zorder=1, label="outside the constraints",
        )  # fmt: skip


def draw_limits(axes: Axes, result: ParetoResult, across: str, up: str) -> None:
    """Draw dashed lines at those constraints on the two axes that some row violates."""
    for name, draw in ((across, axes.axvline), (up, axes.axhline)):
        for value in limits(result, name):
            label = "_limit" if "limit" in axes.get_legend_handles_labels()[1] else "limit"
            draw(value, color=style.GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1, label=label)


def limits(result: ParetoResult, name: str) -> list[float]:
    """Values of the violated constraints on a metric."""
    return [limit.value for limit in result.left_out.violated if limit.column == name]


def marked_rows(result: ParetoResult) -> list[int]:
    """The knee and the best rows, each once."""
    return list(dict.fromkeys([*([] if result.knee is None else [result.knee]), *result.best.values()]))


def draw_marks(axes: Axes, result: ParetoResult, x: np.ndarray, y: np.ndarray, colors: Sequence[str]) -> None:
    """Draw larger markers on the knee and on the best rows, in the order of `marked_rows`."""
    for row, color in zip(marked_rows(result), colors, strict=True):
        shape = "D" if row == result.knee else "s"
        axes.plot(x[row], y[row], shape, color=color, markersize=7.5, markeredgecolor="white", zorder=5, label="_mark")


def half_widths(result: ParetoResult, name: str) -> np.ndarray | None:
    """Half-widths of the 95 % confidence intervals of the front's rows, 0 for rows without one; None if the table has no such column."""
    column = f"{name}{CI95}"
    return np.nan_to_num(numbers(result.table, column)[result.front]) if column in result.table.columns else None


def front_groups(result: ParetoResult) -> dict[str, tuple[np.ndarray, str]]:
    """The rows of the front, int64[n], and the colour of each group in which `objective.color`, or else `objective.by`, divides them.

    Groups of numbers are in their order. Empty without such columns, and where there would be more groups than a legend holds.
    """
    by = result.objective.color or result.objective.by
    if not by or len(result.front) == 0:
        return {}
    front = result.table.iloc[result.front]
    names = np.array(group_names(front, by), object)
    order = front.reset_index(drop=True).sort_values(list(by), kind="stable").index
    found = list(dict.fromkeys(names[order]))
    if len(found) > _MOST_GROUPS:
        return {}
    return {name: (result.front[names == name], color) for name, color in zip(found, style.series(len(found)), strict=True)}
