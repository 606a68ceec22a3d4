"""The figure of a run's sessions: latencies and cached prompts by turn, and the durations of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from simjax.engine.host.result import RequestLog
from simjax.metrics.latency import latencies
from simjax.metrics.sessions import sessions_frame
from simjax.plot import style
from simjax.workload.sessions import Sessions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 40  # points along the turns; with longer sessions, neighbouring turns are grouped
_QUANTILES = (0.1, 0.5, 0.9)


def plot_sessions(requests: RequestLog, sessions: Sessions, path: Path, title: str = "") -> Path:
    """Draw TTFT and E2E latency by turn (left), prompts and their cached part by turn (middle), and the sessions' durations (right)."""
    lat, turn = latencies(requests), sessions.turn + 1
    done = lat.finished
    figure = style.new_figure(10.5, 3.6, title)
    times, tokens, spans = figure.subplots(1, 3)
    _draw_latencies(times, turn[done], lat.e2e_s[done], lat.ttft_s[done])
    _draw_tokens(tokens, turn[done], requests.prompt_tokens[done], requests.cached_tokens[done])
    frame = sessions_frame(requests, sessions)
    _draw_spans(spans, *(frame[name].dropna().to_numpy(np.float64) for name in ("makespan_s", "in_calls_s")))
    return style.save(figure, path)


def _draw_latencies(axes: Axes, turn: np.ndarray, e2e_s: np.ndarray, ttft_s: np.ndarray) -> None:
    """Draw median latencies by turn, with bands from P10 to P90."""
    scale, unit = style.latency_unit(ttft_s)
    style.dress(axes, "latency", "turn", f"{unit}, median and P10 to P90")
    for values, color, label in ((e2e_s, style.BLUE, "E2E"), (ttft_s, style.RUST, "TTFT")):
        x, groups = _by_turn(turn, values * scale)
        low, middle, high = np.array([np.quantile(group, _QUANTILES) for group in groups]).T
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0.0)
        axes.plot(x, middle, color=color, linewidth=1.6, marker="o", markersize=2.5, label=label)
    style.log_axis(axes, np.concatenate([e2e_s, ttft_s]) * scale, "y")
    style.legend(axes, columns=2)
    _whole_turns(axes, turn)


def _draw_tokens(axes: Axes, turn: np.ndarray, prompt: np.ndarray, cached: np.ndarray) -> None:
    """Draw mean lengths of the prompts and of their cached part by turn."""
    style.dress(axes, "prompts", "turn", "tokens, mean")
    x, groups = _by_turn(turn, np.stack([cached, prompt], axis=1))
    found, whole = np.array([group.mean(axis=0) for group in groups]).T
    axes.fill_between(x, 0.0, found, color=style.GREEN, alpha=0.3, linewidth=0.0, label="cached")
    axes.plot(x, whole, color=style.BLUE, linewidth=1.6, marker="o", markersize=2.5, label="all")
    axes.set_ylim(bottom=0.0)
    style.plain_thousands(axes)
    style.legend(axes, columns=2)
    _whole_turns(axes, turn)


def _draw_spans(axes: Axes, makespan_s: np.ndarray, in_calls_s: np.ndarray) -> None:
    """Draw the distributions of the finished sessions' durations, and of the time they spent in calls."""
    scale, unit = style.time_unit(float(makespan_s.max(initial=0.0)))
    style.dress(axes, "sessions", unit, "sessions, %")
    if len(makespan_s) == 0:
        style.note(axes, "no session has finished")
        return
    style.cdf(axes, makespan_s * scale, style.BLUE, "makespan")
    style.cdf(axes, in_calls_s * scale, style.RUST, "in calls", dashed=True)
    style.log_if_wide(axes, [makespan_s * scale, in_calls_s * scale])
    style.legend(axes, columns=2)


def _by_turn(turn: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The turns, from 1, and the values of each; a large number of turns is grouped, and groups are represented by their middle."""
    together = -(-int(turn.max()) // _MOST_POINTS)
    order = np.argsort(turn, kind="stable")
    group, starts = np.unique((turn[order] - 1) // together, return_index=True)
    return group * together + (together + 1) / 2, np.split(values[order], starts[1:])


def _whole_turns(axes: Axes, turn: np.ndarray) -> None:
    """Label x with whole numbers, with room for a single turn."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlim(0.5, float(turn.max()) + 0.5)
