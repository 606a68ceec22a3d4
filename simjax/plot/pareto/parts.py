"""What the figures of a Pareto front share: the rows behind it, marks, scales, and what is written about them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.labels import describe_design, differing_keys, format_cell, short_keys
from simjax.explore.pareto.objective import CI95
from simjax.explore.pareto.pareto import ParetoResult, finished_rows, numbers
from simjax.metrics.catalog import label, short_label
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT, KNEE, BEST = style.BLUE, style.RUST, style.GREEN
DOMINATED, OUTSIDE = "#8fb0d6", "#a8a8a8"  # tints: thousands of dots over each other must not look like the front
_MANY = 1500  # dots beyond which they are drawn smaller and fainter
_BEYOND = 0.3  # how far the axes follow rows that miss a constraint, in widths of what the others take
_CORNER = 0.1  # a front that takes less of a linear axis is better seen on a logarithmic one
_LABEL_WIDTH, _LABEL_LINES = 34, 4  # characters of a line of a label; lines


def drawn_rows(result: ParetoResult, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The dominated rows and those outside the constraints that have a finite value in all columns, as two bool[rows]."""
    drawable = np.logical_and.reduce([np.isfinite(column) for column in columns])
    drawable &= finished_rows(result.table)
    beaten = drawable & result.feasible
    beaten[result.front] = False
    return beaten, drawable & ~result.feasible


def draw_cloud(axes: Axes, result: ParetoResult, x: np.ndarray, y: np.ndarray, color: str = DOMINATED) -> None:
    """Dominated rows as faint dots, those outside the constraints as fainter crosses."""
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
    """Dashed lines at the constraints on the two axes that some row does not keep."""
    for name, draw in ((across, axes.axvline), (up, axes.axhline)):
        for value in _limits(result, name):
            label = "_limit" if "limit" in axes.get_legend_handles_labels()[1] else "limit"
            draw(value, color=style.GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1, label=label)


def _limits(result: ParetoResult, name: str) -> list[float]:
    return [limit.value for limit in result.left_out.violated if limit.column == name]


def marked_rows(result: ParetoResult) -> list[int]:
    """The knee and the best rows, each once."""
    return list(dict.fromkeys([*([] if result.knee is None else [result.knee]), *result.best.values()]))


def draw_marks(axes: Axes, result: ParetoResult, x: np.ndarray, y: np.ndarray, colors: Sequence[str]) -> None:
    """Larger markers on the knee and on the best rows, in the order of `marked_rows`."""
    for row, color in zip(marked_rows(result), colors, strict=True):
        shape = "D" if row == result.knee else "s"
        axes.plot(x[row], y[row], shape, color=color, markersize=7.5, markeredgecolor="white", zorder=5, label="_mark")


def scale_axes(axes: Axes, result: ParetoResult, across: str, up: str, narrow: bool = False) -> None:
    """Choose the scales and the limits of a panel.

    A scale is logarithmic where the rows that count span more than a decade and a half, or where the front would shrink into a corner
    otherwise. Rows outside the constraints do not widen the axes beyond a part of their width: they may lie orders of magnitude away.
    """
    from matplotlib.ticker import LogLocator

    columns = numbers(result.table, across), numbers(result.table, up)
    beaten, refused = drawn_rows(result, columns)
    for name, column, which in zip((across, up), columns, "xy", strict=True):
        front = _with_errors(result, name, column[result.front])
        core = np.concatenate([column[beaten], front, _limits(result, name)])
        log = bool((core > 0).all()) and (style.is_wide(core) or _in_corner(core, column[result.front]))
        others = column[refused & (column > 0)] if log else column[refused]
        low, high = _range(np.log10(core) if log else core, np.log10(others) if log else others)
        limits = (10.0**low, 10.0**high) if log else (low, high)
        if log:
            style.log_axis(axes, np.array(limits), which)
            if narrow and high - low > 2.0:
                (axes.xaxis if which == "x" else axes.yaxis).set_major_locator(LogLocator())
        axes.set_xlim(*limits) if which == "x" else axes.set_ylim(*limits)


def _in_corner(values: np.ndarray, front: np.ndarray) -> bool:
    span = float(np.ptp(values))
    return bool(values.max() > 6.0 * values.min()) and len(np.unique(front)) > 1 and float(np.ptp(front)) < _CORNER * span


def _with_errors(result: ParetoResult, name: str, front: np.ndarray) -> np.ndarray:
    half = half_widths(result, name)
    return front if half is None else np.concatenate([np.where(front > half, front - half, front), front + half])


def _range(core: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    low, high = float(core.min()), float(core.max())
    reach = _BEYOND * (high - low)
    if len(others):
        low, high = min(low, max(low - reach, float(others.min()))), max(high, min(high + reach, float(others.max())))
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def half_widths(result: ParetoResult, name: str) -> np.ndarray | None:
    """Half-widths of the 95 % confidence intervals of the front's rows, 0 where one has none; None where the table has no such column."""
    column = f"{name}{CI95}"
    return np.nan_to_num(numbers(result.table, column)[result.front]) if column in result.table.columns else None


def label_texts(result: ParetoResult, keys: Sequence[str]) -> list[str]:
    """What to write at each of `marked_rows`: what it is, then the swept values that tell it from the rest of the front."""
    short, texts = names_within(result, result.front, keys), []
    for row in marked_rows(result):
        best = [f"best {short_label(name)}" for name, found in result.best.items() if found == row]
        said = ["knee", *best] if row == result.knee else best
        texts.append("\n".join([*wrapped(said), *design_lines(result, row, short, _LABEL_WIDTH)]))
    return texts


def names_within(result: ParetoResult, rows: np.ndarray, keys: Sequence[str]) -> dict[str, str]:
    """The keys that tell some rows apart (where they are all alike, from the others), with their short names."""
    differing = differing_keys(result.table.iloc[rows], keys) or differing_keys(result.table, keys)
    return {key: name for key, name in short_keys(keys).items() if key in differing}


def design_lines(result: ParetoResult, row: int, short: Mapping[str, str], width: int) -> list[str]:
    """The values of a row in lines of a width; where they are too many for a label, the point's number stands for the rest."""
    lines = wrapped(describe_design(result.table.iloc[row], short, result.table), width)
    if len(lines) <= _LABEL_LINES:
        return lines
    rest = f"… (point {int(result.table['point'].iloc[row])})" if "point" in result.table.columns else "…"
    return [*lines[: _LABEL_LINES - 1], rest]


def wrapped(parts: Sequence[str], width: int = _LABEL_WIDTH) -> list[str]:
    """Parts in lines of a width, divided only between parts."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def axis_label(result: ParetoResult, name: str, narrow: bool = False) -> str:
    """A metric in words with its unit, and which end of it is the better one; in two lines for a narrow panel."""
    text = label(name)
    better = "(better →)" if name in result.objective.maximize else "(← better)"
    return f"{text.replace(', ', chr(10), 1)}  {better}" if narrow and len(text) > 16 else f"{text}   {better}"


def headline(result: ParetoResult) -> str:
    """How many rows are on the front, of how many."""
    return f"{len(result.front):,} of {result.feasible.sum():,} {result.rows_are} on the front"


def caption(figure: Figure, result: ParetoResult, keys: Sequence[str]) -> None:
    """Below the panels: what the rows of the front have in common, and what was left out."""
    lines = []
    front = result.table.iloc[result.front]
    differing = differing_keys(front, keys)
    common = [key for key in differing_keys(result.table, keys) if key not in differing]
    if common and len(front) > 1:
        short = short_keys(keys)
        lines.append("all on the front: " + ", ".join(f"{short[key]}={format_cell(front[key].iloc[0])}" for key in common))
    if result.left_out.total:
        lines.append(f"left out: {result.left_out}")
    if any(panel.get_visible() and _cut(panel, result) for panel in figure.axes):
        lines.append("some of those outside the constraints lie beyond the axes")
    if lines:
        text = "\n".join(textwrap.fill(line, 125, break_long_words=False) for line in lines)
        figure.supxlabel(text, x=0.008, ha="left", fontsize=8.0, color=style.GREY, linespacing=1.4)


def _cut(axes: Axes, result: ParetoResult) -> bool:
    """Whether crosses of a panel lie outside of it."""
    if result.left_out.rows_violating == 0:
        return False
    for line in axes.lines:
        if line.get_marker() == "x":
            x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
            return bool(((x < left) | (x > right) | (y < low) | (y > high)).any())
    return False
