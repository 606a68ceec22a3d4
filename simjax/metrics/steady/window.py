"""The measurement window: the part of a run over which its metrics are taken, without the start from empty and the drain at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from simjax.engine.host.result import NEVER, RequestLog, Result
from simjax.metrics.latency import Latencies

WARMUP_STAYS, COOLDOWN_STAYS = 2.0, 1.0
"""Automatic warm-up and cool-down, in times that requests stay: after two of them a system that starts empty is full."""
MOST_WARMUP, MOST_COOLDOWN = 0.3, 0.2
"""The most that is left out automatically, as fractions of the time in which requests are sent."""


@dataclass(frozen=True)
class Window:
    """Seconds of a run that are left out of its metrics; None stands for an automatic number.

    It is 0 for a run whose load is not stationary (a recorded trace, pulses, a single burst): such a run is measured whole, as vLLM's
    benchmark does. For a stationary load, it follows from the time that requests stay.

    Attributes:
        warmup_s: seconds from the first arrival on.
        cooldown_s: seconds before the last finish; automatic: all after the last arrival, and the time that requests stay before that.
    """

    warmup_s: float | None = None
    cooldown_s: float | None = None


AUTOMATIC, WHOLE = Window(), Window(0.0, 0.0)


@dataclass(frozen=True)
class Measured:
    """The windows of B runs.

    Latencies, and the attainment of limits, are those of the requests that arrive within the window. Throughputs are counts of the
    requests that finish in it over the time from the last finish before it to the last finish within it: so a rate does not depend on where
    between two finishes an edge lies, and has a derivative. A whole run counts all of its requests, from the first arrival to the last
    finish.

    Arrays are those of numpy or JAX.

    Attributes:
        first_s, sent_s: float64[B], first arrival, and the time at which the load ends: the last arrival, with sessions their last start.
        done_s: float64[B], the last finish; `first_s` where none finished.
        stay_s: float64[B], mean stay of the requests in the system at a moment: long stays count by their length. 0 where none finished.
        start_s, end_s: float64[B], edges of the window in seconds of the run.
        whole: bool[B], whether nothing is left out.
        arrived: bool[B, R], the requests whose latencies count.
        finished: bool[B, R], the requests that throughputs count.
        span_s: float64[B], seconds over which they are counted; 0 where none finished.
    """

    first_s: Any
    sent_s: Any
    done_s: Any
    stay_s: Any
    start_s: Any
    end_s: Any
    whole: Any
    arrived: Any
    finished: Any
    span_s: Any


def measured(results: Sequence[Result], windows: Sequence[Window], requests: RequestLog, lat: Latencies) -> Measured:
    """The windows of runs with equally many requests.

    Args:
        results: B runs.
        windows: what each leaves out.
        requests: their logs stacked into arrays [B, R].
        lat: latencies of these.
    """
    roots = np.broadcast_to(True, lat.finished.shape)
    if any(result.sessions is not None for result in results):
        every = np.ones(lat.finished.shape[1], bool)
        roots = np.stack([every if x.sessions is None else x.sessions.predecessors == 0 for x in results])
    stationary = np.array([result.stationary for result in results])
    left_out = [np.array([getattr(window, name) for window in windows], np.float64) for name in ("warmup_s", "cooldown_s")]  # None: NaN
    return measure(requests.arrival_s, requests.finish_s, lat.finished, roots, stationary, left_out[0], left_out[1], np)


def measure(
    arrival_s: Any, finish_s: Any, finished: Any, roots: Any, stationary: Any, warmup_s: Any, cooldown_s: Any, xp: ModuleType
) -> Measured:
    """The windows of runs, `...` is B or no axis.

    Args:
        arrival_s: float64[..., R], when requests were sent; `NEVER` where they were not.
        finish_s: float64[..., R], when they finished.
        finished: bool[..., R], whether they did.
        roots: bool[..., R], the requests that wait for no other one.
        stationary: bool[...], whether the load is stationary.
        warmup_s: float64[...], as in `Window`; NaN stands for automatic.
        cooldown_s: likewise.
        xp: numpy or jax.numpy.
    """
    last = lambda there, times: xp.max(xp.where(there, times, -NEVER), axis=-1, initial=-NEVER)
    known = lambda found, otherwise: xp.where(found > -NEVER, found, otherwise)
    sent = arrival_s < NEVER
    first_s = xp.min(xp.where(sent, arrival_s, NEVER), axis=-1, initial=NEVER)
    first_s = xp.where(first_s < NEVER, first_s, 0.0)
    sent_s, done_s = known(last(sent & roots, arrival_s), first_s), known(last(finished, finish_s), first_s)
    stays = xp.where(finished, finish_s - xp.where(finished, arrival_s, 0.0), 0.0)
    total = xp.sum(stays, axis=-1)
    stay_s = xp.sum(stays * stays, axis=-1) / xp.where(total > 0, total, 1.0)
    load_s = sent_s - first_s
    # Sessions stay for many calls and pauses: their number rises over most of any run of ordinary length.
    sessions = ~xp.all(roots, axis=-1)
    warm = xp.where(sessions, load_s * MOST_WARMUP, xp.minimum(WARMUP_STAYS * stay_s, MOST_WARMUP * load_s))
    cool = xp.where(sessions, 0.0, xp.minimum(COOLDOWN_STAYS * stay_s, MOST_COOLDOWN * load_s))
    warm, cool = xp.where(stationary, warm, 0.0), xp.where(stationary, done_s - sent_s + cool, 0.0)
    warm, cool = xp.where(xp.isnan(warmup_s), warm, warmup_s), xp.where(xp.isnan(cooldown_s), cool, cooldown_s)
    whole, start_s = (warm == 0.0) & (cool == 0.0), first_s + warm
    end_s = xp.maximum(done_s - cool, start_s)
    edge = lambda x: x[..., None]
    arrived = edge(whole) | ((arrival_s >= edge(start_s)) & (arrival_s <= edge(end_s)))
    begin_s = known(last(finished & (finish_s <= edge(start_s)), finish_s), start_s)
    stop_s = known(last(finished & (finish_s <= edge(end_s)), finish_s), begin_s)
    inside = finished & (edge(whole) | ((finish_s > edge(begin_s)) & (finish_s <= edge(stop_s))))
    span_s = xp.where(whole, done_s - first_s, stop_s - begin_s)
    return Measured(first_s, sent_s, done_s, stay_s, start_s, end_s, whole, arrived, inside, span_s)
