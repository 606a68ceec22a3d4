"""Power over time: by what it is spent on, stacked up to the power at the wall; and fitted to the log of a meter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.engine.host.result import Result
from simjax.metrics.energy.parts import SERVERS, span_of
from simjax.metrics.energy.series import power_by_part
from simjax.metrics.timeseries import default_interval
from simjax.plot import style

if TYPE_CHECKING:  # it loads scipy, which no run needs
    from simjax.calibrate.power.log_fit import PowerFit

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


def plot_power_fit(fit: PowerFit, path: Path, title: str = "") -> Path:
    """Draw measured and fitted power, a second at a time, and what is left between them.

    Args:
        fit: a fit to the log of a meter.
        path: the PNG to write.
        title: title at the top.
    """
    t_s = 0.5 + np.arange(len(fit.measured_w))
    scale, unit = style.time_unit(float(len(t_s)))
    figure = style.new_figure(10.5, 4.6, title)
    power, rest = figure.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0))
    style.dress(power, "", "", "watts")
    style.dress(rest, "", f"time on the meter's clock, {unit}", "difference, W")
    power.plot(t_s * scale, fit.measured_w, color=style.INK, linewidth=1.0, label="measured")
    power.plot(t_s * scale, fit.fitted_w, color=style.RUST, linewidth=1.3, alpha=0.85, label="fitted")
    rest.plot(t_s * scale, fit.fitted_w - fit.measured_w, color=style.RUST, linewidth=0.8)
    rest.axhline(0.0, color=style.GREY, linewidth=0.8)
    power.set_ylim(bottom=0.0)
    style.plain_thousands(power)
    style.legend(power, columns=2)
    style.note(power, f"mean error of a second {fit.mape_pct:.1f} %\nenergy {100 * (fit.energy_j / fit.measured_j - 1):+.2f} %")
    return style.save(figure, path)
