"""Power over time by what it is spent on, stacked up to the power at the wall."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.energy.parts import SERVERS, span_of
from simjax.metrics.energy.series import power_by_part
from simjax.metrics.timeseries import default_interval
from simjax.plot import style

LAYERS = (
    ("GPUs idle", ("idle",), style.GREY),
    ("clocks raised", ("standby",), style.GOLD),
    ("at work", ("footprint",), style.VIOLET),
    ("memory", ("memory",), style.BLUE),
    ("compute", ("compute",), style.RUST),
    ("servers", SERVERS, style.GREEN),
    ("fans, supplies, building", ("fans_and_supplies", "building"), "#b8b8b8"),
)
"""Labels, the parts that each has, and colours, from the ground up."""
_MOST_BINS = 300


def plot_power(result: Result, path: Path, title: str = "") -> Path:
    """Draw the power of a run over time, one layer for each kind of part that draws something.

    Args:
        result: a run with power and a leap log.
        path: the PNG to write.
        title: title at the top.
    """
    start_s, end_s = span_of(result)
    width_s = default_interval(end_s - start_s, _MOST_BINS)
    edges = start_s + width_s * np.arange(max(int(np.floor((end_s - start_s) / width_s)), 1) + 1)
    parts = power_by_part(result, np.append(edges, max(end_s, edges[-1]) + width_s))  # the rest of the last bin is left out
    scale, unit = style.time_unit(end_s - start_s)
    figure = style.new_figure(10.5, 4.2, title)
    axes = figure.subplots()
    style.dress(axes, "power at the wall" if any(parts[x].any() for x in LAYERS[-1][1]) else "power", f"time, {unit}", "watts")
    below = np.zeros(len(edges) - 1)
    for label, names, color in LAYERS:
        layer = np.sum([parts[name] for name in names], axis=0)[:-1]
        if layer.any():
            top = below + layer
            axes.stairs(top, edges * scale, baseline=below, fill=True, color=color, alpha=0.75, linewidth=0.0, label=label)
            below = top
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(edges[0] * scale, edges[-1] * scale)
    style.plain_thousands(axes)
    style.legend(axes, columns=4)
    return style.save(figure, path)
