"""Figures of a calibration: measured runs against simulations with the calibrated profile, and posteriors of the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from simjax.engine.host.result import Result
from simjax.metrics.latency import Latencies, latencies
from simjax.plot import style
from simjax.plot.overlay import MEASURED, draw_cdfs, has_metric
from simjax.plot.studies.posterior import plot_posterior
from simjax.validate.compare import error_pct, measured_requests
from simjax.validate.run import MeasuredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HELD_OUT = "held out"
_METRICS = (("ttft_s", "TTFT", style.BLUE), ("tpot_s", "TPOT", style.GREEN), ("e2e_s", "E2E", style.RUST))
_WIDTH, _STRIP, _HEAD = 11.8, 0.92, 0.2  # inches: figure width, height of a third of a run's panels, height of the line above them
_BINS = 70  # bins along each axis of the histogram that finds where the dots of a scatter are dense
_FEW, _MANY = 30, 1000  # up to `_FEW` dots are drawn larger, more than `_MANY` smaller
_WINDOWS = 20  # windows of the running median in a run, unless they would hold fewer than
_LEAST_WINDOW = 9  # requests
_BULK = (1.0, 99.0)  # percentiles of the errors within the axis; those beyond are drawn at its edge
_MARGIN = 0.15  # margin above and below the errors, as a fraction of their span, but at least
_LEAST_MARGIN = 0.1  # percent, since a perfect simulation has rounding errors only


def plot_calibration(
    runs: Sequence[tuple[MeasuredRun, Result]],
    parameters: Sequence[Mapping[str, Any]],
    out: str | Path,
    *,
    roles: Sequence[str] = (),
    correlation: np.ndarray | None = None,
    title: str = "",
) -> list[Path]:
    """Write `calibration.png`, with a row of panels per run, and `posterior.png`, with a line per parameter, into a folder.

    Args:
        runs: recordings, each with the simulation of `measured.workload()`: requests in the same order.
        parameters: see `simjax.plot.studies.posterior.plot_posterior`.
        out: the folder, created when missing.
        roles: role of each run, such as "fitted" or "held out"; empty for no roles.
        correlation: float64[P, P], posterior correlations of the P parameters that were fitted, in their order in `parameters`.
        title: title at the top of the figures.

    Returns:
        The paths written; a figure without runs, or without parameters, is left out.
    """
    folder, paths = Path(out), []
    if runs:
        paths.append(_plot_runs(runs, roles or [""] * len(runs), folder / "calibration.png", title))
    if parameters:
        paths.append(plot_posterior(parameters, folder / "posterior.png", correlation, title))
    return paths


def _plot_runs(runs: Sequence[tuple[MeasuredRun, Result]], roles: Sequence[str], path: Path, title: str) -> Path:
    heights = [_HEAD, _STRIP, _STRIP, _STRIP] * len(runs)
    figure = style.new_figure(_WIDTH, sum(heights) + 0.3 * len(runs) + 0.3, title or "Measured, and simulated with the calibrated profile")
    # One grid for all runs, not one subfigure each, so that their panels are exactly aligned.
    grid = figure.add_gridspec(len(heights), 5, height_ratios=heights, width_ratios=(1.0, 1.0, 1.0, 1.25, 1.6))
    for at, ((measured, result), role) in zip(range(0, len(heights), 4), zip(runs, roles, strict=True), strict=True):
        lat = latencies(measured_requests(measured, result).requests)
        _headline(figure.add_subplot(grid[at, 0]), measured, lat, role)
        for column, (metric, name, color) in enumerate(_METRICS):
            _draw_distribution(figure.add_subplot(grid[at + 1 : at + 4, column]), measured, lat, metric, name, color)
        _draw_scatter(figure.add_subplot(grid[at + 1 : at + 4, 3]), measured, lat)
        _draw_errors([figure.add_subplot(grid[at + 1 + strip, 4]) for strip in range(3)], measured, lat)
    first = next((axes for axes in figure.axes if axes.lines), None)
    if first is not None:
        figure.legend(*first.get_legend_handles_labels(), loc="upper right", ncols=2, fontsize=9, frameon=False, handlelength=2.2)
    return style.save(figure, path)


def _headline(axes: Axes, measured: MeasuredRun, lat: Latencies, role: str) -> None:
    """A line above the panels of a run: its name and role, then its model, device and number of requests.

    The text overflows the first column and is hidden from the layout engine: as a panel across all columns it would spread them evenly.
    """
    axes.set_axis_off()
    name = axes.text(0.0, 0.0, measured.name, fontsize=10.5, fontweight="bold", color=style.INK, transform=axes.transAxes)
    parts = [(f"   {role}", style.RUST if role == HELD_OUT else style.BLUE, "bold")] if role else []
    requests = f"{len(measured):,} request{'s' if len(measured) != 1 else ''}"
    parts.append((f"   {measured.model} on {measured.device}, TP{measured.tensor_parallel_size}, {requests}", style.GREY, "normal"))
    if unfinished := len(measured) - int(lat.finished.sum()):
        parts.append((f", {unfinished:,} did not finish in the simulation", style.RUST, "normal"))
    for text, color, weight in parts:
        name = axes.annotate(
            text, xycoords=name, xy=(1.0, 0.0), va="bottom", fontsize=9.5, color=color, fontweight=weight, annotation_clip=False
        )
    for text in axes.texts:
        text.set_in_layout(False)


def _draw_distribution(axes: Axes, measured: MeasuredRun, lat: Latencies, metric: str, name: str, color: str) -> None:
    """Measured and simulated distribution of a metric, with the errors of its mean and its 99th percentile."""
    there, here = has_metric(measured, lat, metric)
    truth, guess = getattr(measured, metric)[there], getattr(lat, metric)[here]
    if not draw_cdfs(axes, truth, guess, name, "requests, %" if metric == "ttft_s" else "", color):
        _leave_empty(axes, lat)
        return
    axes.tick_params(labelleft=metric == "ttft_s")
    _thin_ticks(axes, "x")
    mean, p99 = (error_pct(float(f(truth)), float(f(guess))) for f in (np.mean, lambda values: np.percentile(values, 99)))
    axes.set_title(f"mean {_percent(mean)}\nP99 {_percent(p99)}", loc="right", fontsize=8.0, color=style.GREY, linespacing=1.2)


def _leave_empty(axes: Axes, lat: Latencies) -> None:
    """Write into an empty panel why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    reason = "no request has\ntwo output tokens" if lat.finished.any() else "no request finished"
    axes.text(0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=8.5, color=style.GREY)


def _percent(error: float | None) -> str:
    if error is None:
        return "–"
    error = round(error, 1) + 0.0  # no −0.0
    return (f"{error:+.1f} %" if abs(error) < 100.0 else f"{error:+,.0f} %").replace("-", "−")


def _thin_ticks(axes: Axes, which: str) -> None:
    """Thin the ticks along "x" or "y" to the number that a narrow panel has room for."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    if axis.get_scale() == "linear":
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        return
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100.0 else (1.0, 3.0), numticks=7))


def _draw_scatter(axes: Axes, measured: MeasuredRun, lat: Latencies) -> None:
    """Latencies of every request, simulated over measured; dots are darker where they are denser."""
    from matplotlib.lines import Line2D

    style.dress(axes, "each request", "measured, s", "simulated, s")
    handles, drawn = [], []
    for metric, name, color in _METRICS:
        truth, guess, _ = _paired(measured, lat, metric)
        if len(truth) == 0:
            continue
        shades = _shades(np.log10(truth), np.log10(guess), color)
        order = np.argsort(shades[:, :3].sum(1))[::-1]  # the densest dots on top
        axes.scatter(truth[order], guess[order], c=shades[order], s=_dot_size(len(truth)) ** 2, linewidths=0.0, zorder=3)
        handles.append(Line2D([], [], marker="o", linestyle="none", color=color, markersize=4.0, label=name))
        drawn += [truth, guess]
    if not drawn:
        _leave_empty(axes, lat)
        return
    values = np.concatenate(drawn)
    limits = (float(values.min()) / 1.4, float(values.max()) * 1.4)
    style.log_axis(axes, values, "x")
    style.log_axis(axes, values, "y")
    axes.plot(limits, limits, color=style.GREY, linewidth=0.8, zorder=2)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    _thin_ticks(axes, "x")
    _thin_ticks(axes, "y")
    axes.legend(handles=handles, loc="upper left", fontsize=8.0, frameon=False, handlelength=0.8, handletextpad=0.3, borderaxespad=0.1)


def _paired(measured: MeasuredRun, lat: Latencies, metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured and simulated latencies (seconds, float64[K] each) of the requests that have both, and these requests as bool[R]."""
    there, here = has_metric(measured, lat, metric)
    truth, guess = getattr(measured, metric), getattr(lat, metric)
    both = there & here & (truth > 0.0) & (guess > 0.0)
    return truth[both], guess[both], both


def _dot_size(dots: int) -> float:
    """Diameter of a dot in points, given the number of dots."""
    return 4.5 if dots <= _FEW else 2.6 if dots <= _MANY else 1.9


def _shades(x: np.ndarray, y: np.ndarray, color: str) -> np.ndarray:
    """Colours of dots, float64[K, 4], from a light tint where they are isolated to a dark one where they are densest."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    base = np.array(to_rgb(color))
    tints = LinearSegmentedColormap.from_list("", [tuple(1.0 - 0.6 * (1.0 - base)), tuple(base), tuple(0.45 * base)])
    counts, edges_x, edges_y = np.histogram2d(x, y, bins=_BINS)
    at_x, at_y = (np.clip(np.searchsorted(edges, values, side="right") - 1, 0, _BINS - 1) for edges, values in ((edges_x, x), (edges_y, y)))
    density = np.log(counts[at_x, at_y])
    return tints(density / max(density.max(), np.log(10.0)))


def _draw_errors(strips: Sequence[Axes], measured: MeasuredRun, lat: Latencies) -> None:
    """Relative errors of each request along the run, one strip per metric, with their running median."""
    clock, unit = style.time_unit(float(measured.arrival_s[-1]))
    span = float(measured.arrival_s[-1]) * clock or 1.0
    cut = False
    for axes, (metric, name, color) in zip(strips, _METRICS, strict=True):
        last = axes is strips[-1]
        style.dress(axes, "", f"arrival, {unit}" if last else "", f"{name}, %")
        axes.tick_params(labelbottom=last)
        truth, guess, both = _paired(measured, lat, metric)
        if len(truth) == 0:
            _leave_empty(axes, lat)
            continue
        axes.set_xlim(-0.03 * span, 1.03 * span)
        axes.axhline(0.0, color=style.GREY, linewidth=0.8, zorder=2)
        error = 100.0 * (guess / truth - 1.0)
        cut |= _draw_strip(axes, measured.arrival_s[both] * clock, error, color)
        mean_error = f"mean\n|error|\n{np.mean(np.abs(error)):.1f} %"
        axes.text(1.02, 0.5, mean_error, transform=axes.transAxes, va="center", fontsize=8.0, color=style.GREY, linespacing=1.2)
    strips[0].set_title("relative errors", loc="left", fontsize=10.5, color=style.INK)
    key = "— running median" + ("\n▲▼ beyond the axis" if cut else "")
    strips[0].set_title(key if lat.finished.any() else "", loc="right", fontsize=8.0, color=style.GREY, linespacing=1.2)


def _draw_strip(axes: Axes, arrival: np.ndarray, error_pct: np.ndarray, color: str) -> bool:
    """Draw errors over arrival times; returns whether some lie beyond the axis, which covers the bulk of them."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = np.percentile(error_pct, _BULK)
    low, high = min(low, 0.0), max(high, 0.0)
    margin = max(_MARGIN * (high - low), _LEAST_MARGIN)
    low, high = low - margin, high + margin
    dots = {"linestyle": "none", "color": color, "markeredgewidth": 0.0}
    axes.plot(arrival, error_pct, "o", markersize=_dot_size(len(arrival)), alpha=0.5 if len(arrival) <= _MANY else 0.25, zorder=3, **dots)
    for beyond, marker, edge in ((error_pct > high, "^", high), (error_pct < low, "v", low)):
        if beyond.any():
            at_edge = np.full(int(beyond.sum()), edge)
            axes.plot(arrival[beyond], at_edge, marker, markersize=4.0, alpha=0.8, clip_on=False, zorder=4, **dots)
    window = max(len(arrival) // _WINDOWS, _LEAST_WINDOW) | 1
    median = pd.Series(error_pct).rolling(window, center=True, min_periods=1).median().to_numpy()
    axes.plot(arrival, median, color=MEASURED, linewidth=1.2, zorder=5)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:+,.10g}".replace("-", "−") if y else "0"))
    return bool(((error_pct < low) | (error_pct > high)).any())
