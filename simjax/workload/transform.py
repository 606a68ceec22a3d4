"""Changes to an open-loop workload: windows, rates, caps, jitter. Pure functions; the requests stay sorted by arrival."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.lengths import clip
from simjax.workload.streams import JITTER, stream
from simjax.workload.workload import Workload


def mean_rate(workload: Workload) -> float:
    """Requests per second over the span of the arrivals: (R - 1) / (last - first).

    Raises:
        SimjaxError: a closed loop, or all requests arrive at once.
    """
    _need_open_loop(workload, "a mean rate")
    span_s = workload.arrival_s[-1] - workload.arrival_s[0]
    if span_s <= 0:
        raise SimjaxError(f"{workload.source}: all requests arrive at the same time, so there is no mean rate")
    return float((len(workload) - 1) / span_s)


def window(workload: Workload, start_s: float = 0.0, end_s: float = np.inf) -> Workload:
    """The requests that arrive in [start_s, end_s), with `start_s` as the new time zero.

    Raises:
        SimjaxError: no request arrives in the window, or a closed loop.
    """
    _need_open_loop(workload, "a window")
    if not 0 <= start_s < end_s:
        raise SimjaxError(f"{workload.source}: the window [{start_s:g}, {end_s:g}) s is empty; it needs 0 <= start < end")
    first, last = np.searchsorted(workload.arrival_s, [start_s, end_s], side="left")
    if first == last:
        raise SimjaxError(
            f"{workload.source}: no request arrives in the window [{start_s:g}, {end_s:g}) s; "
            f"arrivals lie between {workload.arrival_s[0]:g} and {workload.arrival_s[-1]:g} s"
        )
    kept = _take(workload, slice(int(first), int(last)))
    return replace(kept, arrival_s=kept.arrival_s - start_s)


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
    """The same requests at a mean rate of `rate` requests/s (see `mean_rate`).

    Raises:
        SimjaxError: the rate is not positive, all requests arrive at once, or a closed loop.
    """
    if not (rate > 0 and np.isfinite(rate)):
        raise SimjaxError(f"{workload.source}: the rate is {rate:g} requests/s; it must be positive")
    return scale_rate(workload, rate / mean_rate(workload))


def cap_requests(workload: Workload, n: int) -> Workload:
    """The first `n` requests, or all when there are fewer.

    Raises:
        SimjaxError: n is below 1.
    """
    if n < 1:
        raise SimjaxError(f"{workload.source}: {n} requests asked for; at least 1 is needed")
    return _take(workload, slice(0, n))


def clip_lengths(
    workload: Workload,
    prompt_min: int = 1,
    prompt_max: int | None = None,
    output_min: int = 1,
    output_max: int | None = None,
) -> Workload:
    """Every length raised to its minimum and cut to its maximum.

    Raises:
        SimjaxError: a minimum is below 1 or above its maximum.
    """
    return replace(
        workload,
        prompt_tokens=clip(workload.prompt_tokens, prompt_min, prompt_max),
        output_tokens=clip(workload.output_tokens, output_min, output_max),
    )


def jitter(workload: Workload, width_s: float, seed: int = 0) -> Workload:
    """Arrivals moved later by uniform(0, width_s) each, sorted again and with the first one at zero.

    Undoes a quantised clock: Mooncake's conversation trace has steps of about 3 s, BurstGPT of 1 s. It invents arrivals within a step, so
    it is never applied unless asked for.

    Raises:
        SimjaxError: the width is negative, or a closed loop.
    """
    _need_open_loop(workload, "jitter")
    if not (width_s >= 0 and np.isfinite(width_s)):
        raise SimjaxError(f"{workload.source}: the jitter is {width_s:g} s; it must not be negative")
    moved = workload.arrival_s + stream(seed, JITTER).uniform(0.0, width_s, len(workload))
    order = np.argsort(moved, kind="stable")
    moved = moved[order]
    return replace(
        workload,
        arrival_s=moved - moved[0],
        prompt_tokens=workload.prompt_tokens[order],
        output_tokens=workload.output_tokens[order],
    )


def _take(workload: Workload, part: slice) -> Workload:
    taken = replace(
        workload,
        arrival_s=workload.arrival_s[part],
        prompt_tokens=workload.prompt_tokens[part],
        output_tokens=workload.output_tokens[part],
    )
    return replace(taken, concurrency=min(workload.concurrency, len(taken)))


def _need_open_loop(workload: Workload, what: str) -> None:
    if workload.concurrency:
        raise SimjaxError(f"{workload.source}: {what} needs an open loop; in a closed loop arrivals follow from finishes")
