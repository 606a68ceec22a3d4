"""When the requests of a benchmark were sent whose file does not say so, as SGLang's and those of older vLLM do not.

With a cap on its requests in flight the client sends the next one, first come, first served, as soon as an answer has come: the
lengths of the answers tell it. Without a rate it sends all at once. Arrivals at a rate are random and not recorded: they are drawn by the
same process, and stretched so that the benchmark takes as long as it took.
"""

from __future__ import annotations

import heapq

import numpy as np

from simjax.workload.formats.base import Schedule

_SEED = 0
_HALVINGS = 60


def sends(schedule: Schedule, e2e_s: np.ndarray) -> tuple[np.ndarray, np.ndarray, str] | None:
    """When each request was sent, float64[R], when it was due, float64[R], and a line about both; None where nothing tells.

    Args:
        schedule: of the client.
        e2e_s: float64[R], seconds until each answer, in the order in which requests were due; NaN where there is none.
    """
    taken_s, cap = np.nan_to_num(e2e_s), schedule.max_concurrency
    if schedule.rate is None or not schedule.rate > 0:
        return None
    if np.isinf(schedule.rate):
        due_s = np.zeros(len(taken_s))
        how = f"at most {cap} in flight, each sent when an answer had come" if cap else "all at once"
        return waited(due_s, taken_s, cap), due_s, f"start times are not recorded: {how}"
    gaps = np.random.default_rng(_SEED).gamma(schedule.burstiness, 1.0 / (schedule.rate * schedule.burstiness), len(taken_s))
    due_s = np.cumsum(gaps) - gaps[0]
    due_s = due_s * _stretch(due_s, taken_s, schedule)
    line = (
        f"start times are not recorded: arrivals are drawn as the benchmark drew its own, at {schedule.rate:g} req/s; statistics can be "
        "compared, single requests cannot"
    )
    return waited(due_s, taken_s, cap), due_s, line


def waited(due_s: np.ndarray, taken_s: np.ndarray, cap: int | None) -> np.ndarray:
    """Times at which requests are sent that take so long and of which at most `cap` are in flight, float64[R].

    Args:
        due_s: float64[R], when the client wants to send them, rising.
        taken_s: float64[R], seconds until the answer to each.
        cap: most requests in flight, None for no cap.
    """
    if not cap or cap >= len(due_s):
        return due_s.copy()
    ends_s: list[float] = []
    sent_s = np.empty(len(due_s))
    for at, (due, taken) in enumerate(zip(due_s.tolist(), taken_s.tolist(), strict=True)):
        free_s = heapq.heappop(ends_s) if len(ends_s) == cap else due
        sent_s[at] = max(due, free_s)
        heapq.heappush(ends_s, sent_s[at] + taken)
    return sent_s


def _stretch(due_s: np.ndarray, taken_s: np.ndarray, schedule: Schedule) -> float:
    """Factor on the gaps with which the benchmark takes as long as it did; 1 where that is not recorded, or none from 1/4 to 4 does."""
    span_s = lambda factor: float((waited(factor * due_s, taken_s, schedule.max_concurrency) + taken_s).max())
    low, high = 0.25, 4.0
    if schedule.duration_s is None or len(due_s) < 2 or not span_s(low) < schedule.duration_s < span_s(high):
        return 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if span_s(middle) < schedule.duration_s else (low, middle)
    return (low + high) / 2
