"""Statistics of latencies as bars of parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simjax.explain.parts import PARTS
from simjax.metrics.latency import NAMES
from simjax.plot import style

_COLORS = (
    *(style.GREY, style.GOLD, style.RUST, style.BLUE, "#9db7d5", style.GREEN, "#b8a0c8"),
    *("#7a3b2e", "#c9c2b8", "#5a8f8a", "#d8a7a0"),
)
_LEAST = 1e-9  # parts that no bar has, in seconds


def plot_explain(statistics: pd.DataFrame, path: Path, title: str) -> Path:
    """Draw a panel for each latency, with a bar for each statistic and its parts on top of each other.

    Args:
        statistics: result of `simjax.explain.statistics.statistics_frame`.
        path: the PNG to write.
        title: title at the top.

    Returns:
        The path.
    """
    latencies = list(dict.fromkeys(statistics["latency"]))
    shown = [name for name in PARTS if np.abs(np.asarray(statistics[name])).max() > _LEAST]
    figure = style.new_figure(11.0, 4.4, title)
    for axes, latency in zip(figure.subplots(1, len(latencies), squeeze=False)[0], latencies, strict=True):
        rows = {name: np.asarray(values)[np.asarray(statistics["latency"]) == latency] for name, values in statistics.items()}
        scale, unit = style.latency_unit(rows["value_s"])
        style.dress(axes, NAMES[latency], "", unit)
        below = np.zeros(len(rows["value_s"]))
        for name in shown:
            part = rows[name] * scale
            axes.bar(rows["statistic"], part, bottom=below, color=_COLORS[list(PARTS).index(name)], width=0.72, label=PARTS[name])
            below = below + part
        axes.set_ylim(0.0, max(1.05 * float(below.max()), _LEAST))
        axes.grid(False, axis="x")
        style.plain_thousands(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(shown), 6), fontsize=8.5, frameon=False)
    return style.save(figure, path)
