"""Figures of a validation: a measured run and its simulation on the same axes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from simjax.engine.host.result import Result
from simjax.metrics.latency import Latencies, latencies
from simjax.metrics.timeseries import sum_instances, timeline
from simjax.plot import style
from simjax.plot.overlay import MEASURED, SIMULATED, draw_cdfs, has_metric
from simjax.plot.run import PANELS
from simjax.validate.compare import mape_pct, measured_requests
from simjax.validate.run import MeasuredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES = (
    ("output_tokens_per_s", "decode", "output tokens/s"),
    ("prompt_tokens_per_s", "prefill", "prompt tokens/s"),
    ("running", "running", "requests"),
    ("waiting", "waiting", "requests"),
    ("kv_used_fraction", "KV cache", "blocks used, %"),
)


def plot_validation(measured: MeasuredRun, result: Result, out_dir: str | Path, title: str = "") -> list[Path]:
    """Write `validation_cdf.png`, `validation_requests.png` and, if both sides have a time series, `validation_timeline.png`.

    Args:
        measured: the recording.
        result: the simulation of `measured.workload()`, requests in the same order.
        out_dir: the folder, created when missing.
        title: title at the top of the figures; the run's name, model and device when empty.

    Returns:
        The paths written. If no request finished in the simulation, only the timeline can be drawn.
    """
    out, title = Path(out_dir), title or f"{measured.name}: {measured.model} on {measured.device}"
    compared = measured_requests(measured, result)
    lat = latencies(compared.requests)
    paths = []
    if lat.finished.any():
        paths.append(_plot_cdf(measured, lat, out / "validation_cdf.png", title))
        paths.append(_plot_requests(measured, compared, lat, out / "validation_requests.png", title))
    if measured.timeseries is not None and len(measured.timeseries) > 1 and result.leaps is not None:
        paths.append(_plot_timeline(measured.timeseries, result, out / "validation_timeline.png", title))
    return paths


def _plot_cdf(measured: MeasuredRun, lat: Latencies, path: Path, title: str) -> Path:
    """Draw the measured and simulated distributions of TTFT, TPOT and E2E latency."""
    figure = style.new_figure(10.5, 3.6, title)
    for at, (axes, (metric, _, label)) in enumerate(zip(figure.subplots(1, 3), PANELS, strict=True)):
        there, here = has_metric(measured, lat, metric)
        if not draw_cdfs(axes, getattr(measured, metric)[there], getattr(lat, metric)[here], label, "requests, %" if at == 0 else ""):
            style.note(axes, "no request has two output tokens")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper right", ncols=2, fontsize=9, frameon=False, handlelength=2.2)
    return style.save(figure, path)


def _plot_requests(measured: MeasuredRun, result: Result, lat: Latencies, path: Path, title: str) -> Path:
    """Draw TTFT along the run (left), and each request's TTFT and E2E latency, simulated over measured (right)."""
    figure = style.new_figure(10.5, 3.6, title)
    run, ttft, e2e = figure.subplots(1, 3, width_ratios=(1.3, 1.0, 1.0))
    scale, unit = style.latency_unit(measured.ttft_s)
    clock, clock_unit = style.time_unit(float(measured.arrival_s[-1]))
    style.dress(run, "TTFT", f"arrival, {clock_unit}", unit)
    dots = {"markersize": 3.0 if len(measured) <= 1000 else 2.0, "linestyle": "none", "markeredgewidth": 0.0, "alpha": 0.5}
    run.plot(measured.arrival_s * clock, measured.ttft_s * scale, "o", color=MEASURED, label="measured", **dots)
    sent = (result.requests.arrival_s[lat.finished] - result.requests.arrival_s[0]) * clock
    run.plot(sent, lat.ttft_s[lat.finished] * scale, "o", color=SIMULATED, label="simulated", **dots)
    run.set_ylim(bottom=0.0)
    style.plain_thousands(run)
    style.legend(run, columns=2)
    for axes, metric, label in ((ttft, "ttft_s", "TTFT of each request"), (e2e, "e2e_s", "E2E latency of each request")):
        _scatter(axes, getattr(measured, metric)[lat.finished], getattr(lat, metric)[lat.finished], label, mape_pct(measured, lat, metric))
    return style.save(figure, path)


def _scatter(axes: Axes, truth: np.ndarray, guess: np.ndarray, label: str, mape: float | None) -> None:
    """Draw simulated over measured values with the line of equality, with the same scale on both axes."""
    scale, unit = style.latency_unit(truth)
    style.dress(axes, label, f"measured, {unit}", f"simulated, {unit}")
    values = np.concatenate([truth, guess]) * scale
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (max(low - margin, 0.0), high + margin)
    if style.is_wide(values):
        limits = (low / 1.3, high * 1.3)
        style.log_axis(axes, values, "x")
        style.log_axis(axes, values, "y")
    axes.plot(limits, limits, color=style.GREY, linewidth=1.0, zorder=1)
    axes.plot(
        truth * scale, guess * scale, "o", color=SIMULATED, alpha=0.45, markersize=3.0 if len(truth) <= 1000 else 2.0, markeredgewidth=0.0
    )
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    if mape is not None:
        style.note(axes, f"mean |error| {mape:.1f} %")


def _plot_timeline(series: pd.DataFrame, result: Result, path: Path, title: str) -> Path:
    """Draw rates and numbers of requests over time, in bins as wide as the recording's interval."""
    measured_s = series["t_s"].to_numpy(np.float64)
    width_s = float(np.median(np.diff(measured_s)))
    simulated = sum_instances(timeline(result, width_s), result.instances.num_blocks)
    first_arrival = float(result.requests.arrival_s[0])
    panels = [panel for panel in _SERIES if panel[0] in series.columns]
    figure = style.new_figure(10.5, 1.9 * len(panels) + 0.6, title)
    end_s = max(measured_s[-1], float(simulated["t_s"].iloc[-1]) - first_arrival) + width_s
    scale, unit = style.time_unit(end_s)
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, label, ylabel) in zip(every, panels, strict=True):
        style.dress(axes, label, f"time, {unit}" if axes is every[-1] else "", ylabel)
        percent = 100.0 if name == "kv_used_fraction" else 1.0
        for frame, starts, color, side in (
            (series, measured_s, MEASURED, "measured"),
            (simulated, simulated["t_s"].to_numpy() - first_arrival, SIMULATED, "simulated"),
        ):
            edges = np.append(starts, starts[-1] + width_s) * scale
            axes.stairs(frame[name].to_numpy(np.float64) * percent, edges, baseline=None, color=color, linewidth=1.3, label=side)
        axes.set_ylim(bottom=0.0, top=105.0 if name == "kv_used_fraction" else None)
        style.plain_thousands(axes)
    style.legend(every[0], columns=2)
    every[-1].set_xlim(min(0.0, measured_s[0]) * scale, end_s * scale)
    return style.save(figure, path)
