"""Changes to an open-loop workload: windows, rates, caps, jitter. Pure functions; the requests stay sorted by arrival.

In a workload with sessions they act on the first calls of the sessions, whose arrivals are known; the calls that wait for others are kept
or dropped with these, and recorded arrivals of theirs move with them. The contents that the remaining requests share do not change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.sessions import from_waits
from simjax.workload.synthetic.lengths import clip
from simjax.workload.synthetic.streams import JITTER, stream
from simjax.workload.workload import Workload


def mean_rate(workload: Workload) -> float:
    """Mean requests/s over the span of the arrivals (of the first calls of sessions, where only these are known): (R - 1) / (last - first).

    Raises:
        SimjaxError: a closed loop, or all requests arrive at once.
    """
    _need_open_loop(workload, "a mean rate")
    times = workload.scheduled_s
    span_s = times[-1] - times[0]
    if span_s <= 0:
        hint = "" if workload.sessions is None else "; session_rate draws starts for its sessions"
        raise SimjaxError(f"{workload.source}: all requests arrive at the same time, so there is no mean rate{hint}")
    return float((len(times) - 1) / span_s)


def window(workload: Workload, start_s: float = 0.0, end_s: float = np.inf) -> Workload:
    """The requests that arrive in [start_s, end_s), with `start_s` as the new time zero, and the calls that wait only for these.

    Of calls that wait for others and have a recorded arrival, those that it puts into the window are kept, too; what ended before the
    window is not waited for.

    Raises:
        SimjaxError: no request arrives in the window, or a closed loop.
    """
    _need_open_loop(workload, "a window")
    if not 0 <= start_s < end_s:
        raise SimjaxError(f"{workload.source}: the window [{start_s:g}, {end_s:g}) s is empty; it needs 0 <= start < end")
    times = workload.arrival_s[: workload.known_arrivals]
    first, last = np.searchsorted(times, [start_s, end_s], side="left")
    if first == last and not np.any((workload.arrival_s >= start_s) & (workload.arrival_s < end_s)):
        raise SimjaxError(
            f"{workload.source}: no request arrives in the window [{start_s:g}, {end_s:g}) s; "
            f"arrivals lie between {times[0]:g} and {times[-1]:g} s"
        )
    workload = _freed(workload, start_s)
    kept = (workload.arrival_s >= start_s) & (workload.arrival_s < end_s)
    if workload.sessions is not None:
        kept |= (workload.sessions.predecessors > 0) & np.isposinf(workload.arrival_s)
    inside = select(workload, kept)
    return replace(inside, arrival_s=inside.arrival_s - start_s)


def _freed(workload: Workload, start_s: float) -> Workload:
    """The workload in which calls with a recorded arrival do not wait for calls that are recorded before `start_s`."""
    sessions = workload.sessions
    if sessions is None:
        return workload
    before = sessions.waited_for
    gone = (workload.arrival_s[before] < start_s) & np.isfinite(workload.arrival_s[sessions.then])
    if not gone.any():
        return workload
    links = (sessions.session, sessions.names, sessions.turn, before[~gone], sessions.then[~gone], sessions.delay_s[~gone])
    return arrange(replace(workload, sessions=from_waits(*links)))[0]


def scale_rate(workload: Workload, factor: float) -> Workload:
    """The same requests `factor` times as fast: every arrival time is divided by `factor`, so bursts keep their shape.

    Raises:
        SimjaxError: the factor is not positive, or a closed loop.
    """
    _need_open_loop(workload, "a rate")
    if not (factor > 0 and np.isfinite(factor)):
        raise SimjaxError(f"{workload.source}: the rate factor is {factor:g}; it must be positive")
    return replace(workload, arrival_s=workload.arrival_s / factor)


def rescale_to_rate(workload: Workload, rate: float) -> Workload:
    """The same requests at a mean rate of `rate` requests/s (see `mean_rate`); infinity: all of them at once, at 0.

    Raises:
        SimjaxError: the rate is not positive, all requests arrive at once, or a closed loop.
    """
    if not rate > 0:
        raise SimjaxError(f"{workload.source}: the rate is {rate:g} requests/s; it must be positive")
    if np.isinf(rate):
        _need_open_loop(workload, "a rate")
        return replace(workload, arrival_s=np.where(np.isfinite(workload.arrival_s), 0.0, workload.arrival_s))
    return scale_rate(workload, rate / mean_rate(workload))


def cap_requests(workload: Workload, n: int) -> Workload:
    """The first `n` requests, or all when there are fewer.

    Sessions are taken in the order of their starts, and the last may be cut short, unless the arrivals of all calls are recorded.

    Raises:
        SimjaxError: n is below 1.
    """
    if n < 1:
        raise SimjaxError(f"{workload.source}: {n} requests asked for; at least 1 is needed")
    kept = np.arange(len(workload)) < n
    if workload.sessions is not None:
        kept = np.zeros(len(workload), bool)
        by_session = np.lexsort((workload.sessions.turn, session_ranks(workload)[workload.sessions.session]))
        recorded = np.isfinite(workload.arrival_s).all()
        kept[(np.argsort(workload.arrival_s, kind="stable") if recorded else by_session)[:n]] = True
    return select(workload, kept)


def cap_sessions(workload: Workload, n: int) -> Workload:
    """The `n` sessions that start first, or all when there are fewer.

    Raises:
        SimjaxError: n is below 1, or the workload has no sessions.
    """
    if n < 1:
        raise SimjaxError(f"{workload.source}: {n} sessions asked for; at least 1 is needed")
    if workload.sessions is None:
        raise SimjaxError(f"{workload.source}: there are no sessions, only single requests")
    return select(workload, session_ranks(workload)[workload.sessions.session] < n)


def start_sessions(workload: Workload, start_s: np.ndarray) -> Workload:
    """The same sessions with other start times.

    Args:
        workload: a workload with S sessions.
        start_s: float64[S], non-decreasing start times in seconds; the k-th is for the session that starts k-th in `workload`.

    Raises:
        SimjaxError: the workload has no sessions.
    """
    if workload.sessions is None:
        raise SimjaxError(f"{workload.source}: there are no sessions to start, only single requests")
    ranks, first = session_ranks(workload), _session_starts(workload)
    session = workload.sessions.session
    return arrange(replace(workload, arrival_s=workload.arrival_s - first[session] + start_s[ranks[session]]))[0]


def session_ranks(workload: Workload) -> np.ndarray:
    """int64[S]: rank of each session by the arrival of its first call (ties keep the source's order)."""
    start_s = _session_starts(workload)
    ranks = np.empty(len(start_s), np.int64)
    ranks[np.argsort(start_s, kind="stable")] = np.arange(len(start_s))
    return ranks


def _session_starts(workload: Workload) -> np.ndarray:
    assert workload.sessions is not None
    start_s = np.full(len(workload.sessions.names), np.inf)
    known = workload.known_arrivals
    np.minimum.at(start_s, workload.sessions.session[:known], workload.arrival_s[:known])
    return start_s


def select(workload: Workload, kept: np.ndarray) -> Workload:
    """The requests of `kept` (bool[R]) except those that wait, directly or not, for one that is not kept."""
    if workload.sessions is not None:
        kept = workload.sessions.survivors(kept)
    return _taken(workload, np.flatnonzero(kept))


def arrange(workload: Workload) -> tuple[Workload, np.ndarray]:
    """The requests in the order that `Workload` asks for: sorted by arrival, those that wait last, ties as they are.

    Returns:
        the workload, and int64[R], the index of each of its requests in the given one.
    """
    waits = False if workload.sessions is None else workload.sessions.predecessors > 0
    order = np.argsort(np.where(waits, np.inf, workload.arrival_s), kind="stable")
    return (workload if np.array_equal(order, np.arange(len(order))) else _taken(workload, order)), order


def clip_lengths(
    workload: Workload,
    prompt_min: int = 1,
    prompt_max: int | None = None,
    output_min: int = 1,
    output_max: int | None = None,
) -> Workload:
    """The same requests with every length raised to its minimum and cut to its maximum.

    Raises:
        SimjaxError: a minimum is below 1 or above its maximum.
    """
    return with_lengths(
        workload, clip(workload.prompt_tokens, prompt_min, prompt_max), clip(workload.output_tokens, output_min, output_max)
    )


def with_lengths(workload: Workload, prompt_tokens: np.ndarray, output_tokens: np.ndarray) -> Workload:
    """The same requests with other lengths (int32[R] each).

    A shorter prompt is the start of the old one; a longer one continues with tokens that no other request shares. Where the length of the
    prompt changes, what was known about the output is lost.
    """
    prefixes = workload.prefixes
    same_prompt = prompt_tokens == workload.prompt_tokens
    if prefixes is not None and not (same_prompt.all() and np.array_equal(output_tokens, workload.output_tokens)):
        old, new = workload.prompt_tokens.astype(np.int64), prompt_tokens.astype(np.int64)
        known = np.where(same_prompt, new + np.minimum(output_tokens, workload.output_tokens), np.minimum(old, new))
        prefixes = tree.finish(tree.limit(prefixes, known, new + output_tokens), prompt_tokens, workload.sessions)
    return replace(workload, prompt_tokens=prompt_tokens, output_tokens=output_tokens, prefixes=prefixes)


def jitter(workload: Workload, width_s: float, seed: int = 0) -> Workload:
    """The same requests, each arriving later by uniform(0, width_s), sorted again and with the first one at zero.

    This undoes a quantised clock: Mooncake's conversation trace has steps of about 3 s, BurstGPT of 1 s. It invents arrivals within a
    step, so it is applied only on request.

    Raises:
        SimjaxError: the width is negative, or a closed loop.
    """
    _need_open_loop(workload, "jitter")
    if not (width_s >= 0 and np.isfinite(width_s)):
        raise SimjaxError(f"{workload.source}: the jitter is {width_s:g} s; it must not be negative")
    known = workload.known_arrivals
    moved = workload.arrival_s.copy()
    moved += stream(seed, JITTER).uniform(0.0, width_s, len(moved))
    return arrange(replace(workload, arrival_s=moved - moved[:known].min()))[0]


def _taken(workload: Workload, index: np.ndarray) -> Workload:
    """The requests `index` (int[K]), in that order."""
    prompt_tokens = workload.prompt_tokens[index]
    sessions = None if workload.sessions is None else workload.sessions.take(index)
    prefixes = None if workload.prefixes is None else tree.finish(tree.take(workload.prefixes, index), prompt_tokens, sessions)
    return replace(
        workload,
        arrival_s=workload.arrival_s[index],
        prompt_tokens=prompt_tokens,
        output_tokens=workload.output_tokens[index],
        concurrency=min(workload.concurrency, len(index)),
        max_concurrency=min(workload.max_concurrency, len(index)),
        prefixes=prefixes,
        sessions=sessions,
        models=None if workload.models is None else workload.models.take(index),
        priority=None if workload.priority is None else workload.priority[index],
        classes=None if workload.classes is None else workload.classes.take(index),
    )


def _need_open_loop(workload: Workload, what: str) -> None:
    if workload.concurrency:
        raise SimjaxError(f"{workload.source}: {what} needs an open loop; in a closed loop arrivals follow from finishes")
