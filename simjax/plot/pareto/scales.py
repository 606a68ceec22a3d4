"""Scales and limits of the axes of a panel with a Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simjax.explore.pareto.front import ParetoResult, numbers
from simjax.plot import style
from simjax.plot.pareto import marks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BEYOND = 0.3  # reach of the axes towards rows outside the constraints, as a fraction of the span of the others
_CORNER = 0.1  # a front that takes up less of a linear axis gets a logarithmic one


def scale_axes(axes: Axes, result: ParetoResult, across: str, up: str, narrow: bool = False) -> None:
    """Choose the scales and the limits of a panel.

    A scale is logarithmic where the rows within the constraints span more than a decade and a half, or where the front would otherwise
    shrink into a corner. Rows outside the constraints, which may lie orders of magnitude away, widen the axes only by a limited amount.
    """
    from matplotlib.ticker import LogLocator

    columns = numbers(result.table, across), numbers(result.table, up)
    beaten, refused = marks.drawn_rows(result, columns)
    for name, column, which in zip((across, up), columns, "xy", strict=True):
        front = _with_errors(result, name, column[result.front])
        core = np.concatenate([column[beaten], front, marks.limits(result, name)])
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
    half = marks.half_widths(result, name)
    return front if half is None else np.concatenate([np.where(front > half, front - half, front), front + half])


def _range(core: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    low, high = float(core.min()), float(core.max())
    reach = _BEYOND * (high - low)
    if len(others):
        low, high = min(low, max(low - reach, float(others.min()))), max(high, min(high + reach, float(others.max())))
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
