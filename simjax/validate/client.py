"""The client of a measured run: whether it had a cap on its requests in flight, and the requests as it would send them to another server.

A benchmark's client often lets at most so many requests be in flight (`vllm bench serve --max-concurrency`). Once the server is saturated,
the times at which it sent them are an effect of the server: replayed as if they were given, a server that is 1 % faster drains its queue
and one that is 1 % slower piles it up. So the client is replayed instead, with its schedule and its cap.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.validate.run import MeasuredRun, reordered

LATE_S = 0.05  # a client that is not held back sends within this of its schedule
PROMPT_S = 0.01  # a client that waits for a seat sends within this of the answer that frees it
FEWEST, SHARE = 20, 0.9  # sends that tell a cap, and the share of them that must be at it
AT_THE_CAP = 0.2  # share of all sends that a cap must hold back to be told without a schedule


def as_its_client_sent(run: MeasuredRun, max_concurrency: int | None = None) -> MeasuredRun:
    """The run with the cap of its client, in the order of the schedule, and a line about a cap that was found.

    Args:
        run: the recording.
        max_concurrency: the cap; 0 for none, so that requests are replayed when they were sent; None for the one that the run records or
            its stamps show.

    Raises:
        SimjaxError: the cap is negative.
    """
    if max_concurrency is not None and max_concurrency < 0:
        raise SimjaxError(f"workload.max_concurrency={max_concurrency}; it must be at least 1, or 0 for no cap")
    cap = max_concurrency if max_concurrency is not None else run.max_concurrency or found_cap(run)
    if not cap:
        return replace(run, max_concurrency=None)
    if run.due_s is None:
        due_s = sends_without_waiting(run, cap)
        how = "the schedule is not recorded, so requests that it held back are replayed as a closed loop"
    else:
        due_s, how = run.due_s, "its schedule is replayed under that cap"
    line = f"the client had at most {cap} requests in flight: {how} (workload.max_concurrency=0: as they were sent)"
    capped = reordered(replace(run, due_s=due_s), np.argsort(due_s, kind="stable"))
    assert capped.due_s is not None
    others = [] if run.failed_requests is None else [run.failed_requests.arrival_s, run.failed_requests.due_s]
    begin_s = min(float(x.min()) for x in (capped.due_s, capped.arrival_s, *others) if x is not None)
    failed = None if run.failed_requests is None else run.failed_requests.since(begin_s)
    capped = replace(capped, due_s=capped.due_s - begin_s, arrival_s=capped.arrival_s - begin_s, failed_requests=failed)
    lines = run.replay_notes if max_concurrency is not None else (*run.replay_notes, line)
    return replace(capped, max_concurrency=cap, replay_notes=lines)


def found_cap(run: MeasuredRun) -> int | None:
    """The cap on requests in flight that the stamps of a run show, None if they show none.

    With a schedule: requests were sent late, and nearly always as soon as there were fewer in flight than the most there ever were.
    Without one: a good part of the requests were sent right after an answer, nearly all that brought the number in flight to its peak.
    """
    order = np.argsort(run.arrival_s, kind="stable")
    level, since_answer_s = _at_sending(run)
    if run.due_s is None:
        held, enough = since_answer_s <= PROMPT_S, max(FEWEST, AT_THE_CAP * len(run))
    else:
        held, enough = (run.arrival_s - run.due_s)[order] > LATE_S, FEWEST
    if not held.any():
        return None
    cap = int(np.bincount(level[held]).argmax())
    slack = max(1, cap // 100)  # stamps of sends and answers are a little off
    at_the_cap = np.abs(level - cap) <= slack
    told = np.count_nonzero(held & at_the_cap)
    of = at_the_cap if run.due_s is None else held
    clear = told >= enough and told >= SHARE * np.count_nonzero(of) and level.max() <= cap + slack
    return cap if clear else None


def sends_without_waiting(run: MeasuredRun, cap: int) -> np.ndarray:
    """Times at which a client with a cap would have sent the requests of a run without it, float64[R], where no schedule is recorded.

    A request that it sent right after an answer, which brought it to its cap, may have waited for that: it counts as due when the one
    before it is. All others are due when they were sent.
    """
    order = np.argsort(run.arrival_s, kind="stable")
    level, since_answer_s = _at_sending(run)
    held = (since_answer_s <= PROMPT_S) & (level >= cap - max(1, cap // 100))
    due_s = np.empty(len(run))
    due_s[order] = np.maximum.accumulate(np.where(held, run.arrival_s[order[0]], run.arrival_s[order]))
    return due_s


def in_flight(sent_s: np.ndarray, answered_s: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Number of requests in flight at some times, int[len(at_s)]."""
    return np.searchsorted(np.sort(sent_s), at_s, side="right") - np.searchsorted(np.sort(answered_s), at_s, side="right")


def _at_sending(run: MeasuredRun) -> tuple[np.ndarray, np.ndarray]:
    """Number in flight once each request was sent, int[R], and the seconds since the answer before, in the order of sending."""
    sent_s, answered_s = np.sort(run.arrival_s), np.sort(run.arrival_s + run.e2e_s)
    answered = np.searchsorted(answered_s, sent_s, side="right")
    last_s = np.where(answered > 0, answered_s[np.maximum(answered - 1, 0)], -np.inf)
    return np.arange(1, len(sent_s) + 1) - answered, sent_s - last_s
