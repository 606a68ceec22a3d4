"""Texts in the figures of a Pareto front: labels of designs, axis labels, headline and caption."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.labels import describe_design, differing_keys, format_cell, short_keys
from simjax.explore.pareto.front import ParetoResult
from simjax.metrics.catalog import label, short_label
from simjax.plot import style
from simjax.plot.pareto import marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_WIDTH, _LABEL_LINES = 34, 4  # characters per line of a label, and lines


def label_texts(result: ParetoResult, keys: Sequence[str]) -> list[str]:
    """The label of each of `marked_rows`: its distinction, then the swept values that distinguish it from the rest of the front."""
    short, texts = names_within(result, result.front, keys), []
    for row in marks.marked_rows(result):
        best = [f"best {short_label(name)}" for name, found in result.best.items() if found == row]
        distinctions = ["knee", *best] if row == result.knee else best
        texts.append("\n".join([*wrapped(distinctions), *design_lines(result, row, short, _LABEL_WIDTH)]))
    return texts


def names_within(result: ParetoResult, rows: np.ndarray, keys: Sequence[str]) -> dict[str, str]:
    """The keys in which some rows differ (or, if they are all alike, in which the table's rows differ), with their short names."""
    differing = differing_keys(result.table.iloc[rows], keys) or differing_keys(result.table, keys)
    return {key: name for key, name in short_keys(keys).items() if key in differing}


def design_lines(result: ParetoResult, row: int, short: Mapping[str, str], width: int) -> list[str]:
    """The values of a row in lines of a width; the point's number replaces values that do not fit into a label."""
    lines = wrapped(describe_design(result.table.iloc[row], short, result.table), width)
    if len(lines) <= _LABEL_LINES:
        return lines
    rest = f"… (point {int(result.table['point'].iloc[row])})" if "point" in result.table.columns else "…"
    return [*lines[: _LABEL_LINES - 1], rest]


def wrapped(parts: Sequence[str], width: int = _LABEL_WIDTH) -> list[str]:
    """Parts joined into lines of a width, broken only between parts."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines


def axis_label(result: ParetoResult, name: str, narrow: bool = False) -> str:
    """A metric in words with its unit and the direction of better values; in two lines for a narrow panel."""
    words = label(name)
    better = "(better →)" if name in result.objective.maximize else "(← better)"
    return f"{words.replace(', ', chr(10), 1)}  {better}" if narrow and len(words) > 16 else f"{words}   {better}"


def headline(result: ParetoResult) -> str:
    """The number of rows on the front and in total."""
    return f"{len(result.front):,} of {result.feasible.sum():,} {result.rows_are} on the front"


def caption(figure: Figure, result: ParetoResult, keys: Sequence[str]) -> None:
    """Write below the panels which values the rows of the front have in common, and which rows were left out."""
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
    """Whether a panel has crosses that lie beyond its axes."""
    if result.left_out.rows_violating == 0:
        return False
    for line in axes.lines:
        if line.get_marker() == "x":
            x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
            (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
            return bool(((x < left) | (x > right) | (y < low) | (y > high)).any())
    return False
