"""The test of a steady state: whether the backlog keeps growing while requests are sent.

Two counts are sampled from the end of the automatic warm-up to the last arrival: the requests in the system, and those of them that have
not been in a step yet. Where a server is overloaded, the second one grows without end, because seats or KV blocks run out. The first one
also swings with chance in a system that keeps up: it is as good as independent after the time that requests stay, not before. So a verdict
against a run rests on the queue, and one for a run needs a time of several stays in which the queue is mostly empty, or of many stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import RequestLog
from simjax.metrics.steady.window import MOST_WARMUP, WARMUP_STAYS, Measured

SAMPLES = 33  # moments at which requests are counted
STAYS_NEEDED, STAYS_ENOUGH = 5.0, 20.0  # time to judge in, in stays: with a queue that is mostly empty, and with one that is not
GROWTH, MAYBE_GROWTH = 0.005, 0.003  # fractions of the arrivals by which a queue must grow
SURE, MAYBE = 4.0, 2.0  # standard errors of a slope
EMPTY, EMPTY_FRACTION = 2.0, 0.05  # waiting requests, and fraction of those in the system, that count as an empty queue
FLAT_FRACTION = 0.05  # spread of the number in the system that a fixed number of clients has


@dataclass(frozen=True)
class Steadiness:
    """The verdicts on B runs.

    Attributes:
        steady: int64[B], 1 where the backlog does not grow, 0 elsewhere.
        decided: bool[B], whether that is known; a run can be too short to tell.
        backlog_growth_per_s: float64[B], slope of the number of requests in the system, in requests/s.
        sent_over_time: bool[B], whether it is known: not where all requests are sent at once.
        saturated_per_s: float64[B], requests/s that finish in the second half of the time in which requests are sent: about the capacity,
            where the queue grows.
    """

    steady: np.ndarray
    decided: np.ndarray
    backlog_growth_per_s: np.ndarray
    sent_over_time: np.ndarray
    saturated_per_s: np.ndarray


def steadiness(requests: RequestLog, part: Measured) -> Steadiness:
    """The verdicts on runs.

    Args:
        requests: their logs stacked into arrays [B, R].
        part: their windows, of which the stays and the time of the load matter here.
    """
    load_s = part.sent_s - part.first_s
    begin_s = part.first_s + np.minimum(WARMUP_STAYS * part.stay_s, MOST_WARMUP * load_s)
    span_s = part.sent_s - begin_s
    some = span_s > 0
    x = np.linspace(-0.5, 0.5, SAMPLES)  # time in spans, from the middle
    at_s = begin_s[:, None] + span_s[:, None] * (x + 0.5)
    arrived, started, finished = (_counts(times, at_s) for times in (requests.arrival_s, requests.scheduled_s, requests.finish_s))
    inside, waiting = arrived - finished, arrived - started
    late = slice(SAMPLES // 2, None)

    stays = span_s / np.where(part.stay_s > 0, part.stay_s, np.inf)
    sent = np.maximum(arrived[:, -1] - arrived[:, 0], 1.0)
    growth, noise = _slope(inside, x, np.maximum(stays, 3.0))
    queue_growth, queue_noise = _slope(waiting, x, _independent(waiting, x))
    mean_inside = inside.mean(axis=1)
    least_waiting = waiting[:, late].min(axis=1)
    emptied = np.median(waiting[:, late], axis=1) <= EMPTY + EMPTY_FRACTION * mean_inside
    flat = np.ptp(inside, axis=1) <= FLAT_FRACTION * mean_inside

    grows = (queue_growth > GROWTH * sent) & (queue_growth > SURE * queue_noise) & (least_waiting > EMPTY) & ~flat
    may_grow = (queue_growth > MAYBE_GROWTH * sent) & (queue_growth > MAYBE * queue_noise) & ~flat
    may_grow |= (growth > GROWTH * sent) & (growth > MAYBE * noise)
    holds = ~may_grow & (stays >= STAYS_NEEDED) & (emptied | flat | (stays >= STAYS_ENOUGH))
    served = (finished[:, -1] - finished[:, SAMPLES // 2]) / np.where(some, 0.5 * span_s, 1.0)
    growth_per_s = growth / np.where(some, span_s, 1.0)
    return Steadiness(np.where(holds, 1, 0), some & (grows | holds), growth_per_s, some, served)


def _counts(times_s: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """The number of times that are not later than each of K moments: float64[B, K] from [B, R] and [B, K]."""
    return np.stack([np.count_nonzero(times_s <= moment[:, None], axis=1) for moment in at_s.T], axis=1).astype(np.float64)


def _slope(counts: np.ndarray, x: np.ndarray, independent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slopes of counts float64[B, K] over x and their standard errors, float64[B] each, where `independent` counts are independent."""
    square = float(x @ x)
    slope = counts @ x / square
    residual = counts - counts.mean(axis=1, keepdims=True) - slope[:, None] * x
    variance = (residual**2).mean(axis=1)
    return slope, np.sqrt(variance / np.maximum(independent - 2.0, 1.0) * (len(x) / square))


def _independent(counts: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The number of independent counts among K, from the correlation of neighbours: K (1 - r) / (1 + r), float64[B]."""
    slope = counts @ x / float(x @ x)
    residual = counts - counts.mean(axis=1, keepdims=True) - slope[:, None] * x
    total = (residual**2).sum(axis=1)
    r = np.clip((residual[:, 1:] * residual[:, :-1]).sum(axis=1) / np.where(total > 0, total, 1.0), 0.0, 0.95)
    return counts.shape[1] * (1.0 - r) / (1.0 + r)
