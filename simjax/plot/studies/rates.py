"""Latency and throughput of a sweep's designs against the request rate, with the rates marked at which a design is saturated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from simjax.explore.labels import describe_design, differing_keys, short_keys
from simjax.explore.pareto.front import finished_rows, numbers
from simjax.metrics.catalog import label
from simjax.plot import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATE, SEED, STEADY = "workload.rate", "workload.seed", "steady"
PANELS = ("ttft_p99_s", "tpot_p99_s", "requests_per_s")
FEWEST, MOST_LINES = 3, 8  # rates of a design that make a line; lines in the figure


def plot_rates(table: pd.DataFrame, path: str | Path, keys: Sequence[str], title: str = "") -> Path | None:
    """Draw P99 of TTFT and TPOT and the throughput of designs against their request rate, a line for each.

    A point at which the load was not steady, so that its latencies grow with the length of the run, is hollow. Of more than eight designs
    those are drawn that are at even distances in the order of the highest steady rate.

    Args:
        table: one row per point or design, with the columns of `keys`.
        path: the PNG to write.
        keys: the swept keys, `workload.rate` among them.
        title: title at the top.

    Returns:
        The path; None, and no file is written, if no design was simulated at three rates at least.
    """
    lines = _lines(table, keys)
    panels = [name for name in PANELS if name in table.columns]
    if not lines or not panels:
        return None
    others = [key for key in keys if key not in (RATE, SEED)]
    shown = (
        [lines[at] for at in sorted({round(x) for x in np.linspace(0, len(lines) - 1, MOST_LINES)})] if len(lines) > MOST_LINES else lines
    )
    rows = table.iloc[np.concatenate(shown)]
    short = {key: name for key, name in short_keys(keys).items() if key in differing_keys(rows, others)}
    figure = style.new_figure(4.0 * len(panels), 3.9 + 0.2 * ((len(shown) + 1) // 2), title)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    colors = style.series(len(shown))
    for axes, name in zip(every, panels, strict=True):
        _draw(axes, table, name, shown, colors)
    words = [", ".join(describe_design(table.iloc[line[0]], short, rows)) or "all points" for line in shown]
    _legend(figure, words, colors, any(_saturated(table)[line].any() for line in shown))
    if len(shown) < len(lines):
        figure.supxlabel(f"{len(shown)} of {len(lines):,} designs", x=0.01, ha="left", fontsize=8.5, color=style.GREY)
    return style.save(figure, Path(path))


def _lines(table: pd.DataFrame, keys: Sequence[str]) -> list[np.ndarray]:
    """The rows of each design in the order of their rates, int64[n], the designs in the order of their highest steady rate."""
    if RATE not in keys or RATE not in table.columns:
        return []
    others = [key for key in keys if key != RATE and key in table.columns]
    rate, usable = numbers(table, RATE), finished_rows(table)
    names = [tuple(str(value) for value in row) for row in table[others].itertuples(index=False)] if others else [()] * len(table)
    found: dict[tuple[str, ...], list[int]] = {}
    for at, name in enumerate(names):
        if usable[at] and np.isfinite(rate[at]):
            found.setdefault(name, []).append(at)
    lines = [np.array(rows)[np.argsort(rate[rows], kind="stable")] for rows in found.values() if len(set(rate[rows])) >= FEWEST]
    steady = ~_saturated(table)
    return sorted(lines, key=lambda rows: float(np.where(steady[rows], rate[rows], 0.0).max()))


def _saturated(table: pd.DataFrame) -> np.ndarray:
    """bool[rows], points whose load was not steady; none where the table does not say."""
    return numbers(table, STEADY) == 0 if STEADY in table.columns else np.zeros(len(table), bool)


def _draw(axes: Axes, table: pd.DataFrame, name: str, lines: Sequence[np.ndarray], colors: Sequence[str]) -> None:
    rate, values, saturated = numbers(table, RATE), numbers(table, name), _saturated(table)
    style.dress(axes, label(name), "request rate, requests/s")
    for rows, color in zip(lines, colors, strict=True):
        axes.plot(rate[rows], values[rows], color=color, linewidth=1.5, zorder=3)
        full, hollow = rows[~saturated[rows]], rows[saturated[rows]]
        axes.plot(rate[full], values[full], "o", color=color, markersize=4.5, zorder=4)
        axes.plot(rate[hollow], values[hollow], "o", color=color, markersize=5.0, markerfacecolor="white", zorder=4)
    drawn = np.concatenate(list(lines))
    if name == "requests_per_s":
        reach = np.array([0.0, rate[drawn].max()])
        axes.plot(reach, reach, color=style.GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
    elif style.is_wide(values[drawn]):
        style.log_axis(axes, values[drawn], "y")


def _legend(figure: object, words: Sequence[str], colors: Sequence[str], saturated: bool) -> None:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    assert isinstance(figure, Figure)
    handles = [Line2D([], [], color=color, marker="o", markersize=4.5, label=text) for text, color in zip(words, colors, strict=True)]
    if saturated:
        handles.append(
            Line2D(
                [], [], color=style.GREY, linestyle="none", marker="o", markerfacecolor="white", label="saturated: the load is not steady"
            )
        )
    handles.append(Line2D([], [], color=style.GREY, linestyle=(0, (4, 2)), label="as many as arrive"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
