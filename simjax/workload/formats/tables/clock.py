"""The unit of a trace's arrivals: stated, that of the format, or what its block size tells; and whether the result is plausible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.config import CLOCKS
from simjax.workload.formats.base import TraceFormat

_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
_MANY_PER_S = 10_000.0
_LONG_GAP_S = 200.0  # a trace of an hour in ms, read as s, has such gaps
_SOME_REQUESTS = 10
_LONG_SPAN_S = 3 * 365 * 86_400.0
_MANY_TOKENS = 10_000_000


def stated_clock(fmt: TraceFormat, unit: str | None) -> TraceFormat:
    """The format with the arrivals in the unit that the user gives, if any.

    Raises:
        SimjaxError: an unknown unit, or the format has no numbers as arrivals.
    """
    if unit is None:
        return fmt
    if unit not in CLOCKS:
        raise SimjaxError(f"workload.trace_clock={unit!r} is not known; use {', '.join(CLOCKS)}")
    if fmt.stamps_per_second is None or fmt.container == "json" or fmt.reader is not None:
        raise SimjaxError(f"workload.trace_clock={unit} has no effect: the {fmt.name} format states its clock; null unsets it")
    return replace(fmt, stamps_per_second=_UNITS[unit])


def clock_name(fmt: TraceFormat) -> str:
    """The unit of the format's arrivals."""
    return next((unit for unit, per_second in _UNITS.items() if per_second == fmt.stamps_per_second), "date-times")


def clock_by_blocks(fmt: TraceFormat, stamps: np.ndarray, size: int) -> tuple[TraceFormat, str | None]:
    """The format with the clock that goes with blocks of `size` tokens in the files of other makers, and a line about it.

    Args:
        fmt: format, its `tokens_per_id` still its own.
        stamps: float64[R], arrivals as in the file.
        size: tokens that an id stands for in this file.
    """
    if size != fmt.tokens_per_id and size in fmt.block_clocks:
        found = replace(fmt, stamps_per_second=fmt.block_clocks[size])
        if _too_slow(stamps / fmt.block_clocks[size]) and not _too_slow(stamps / (fmt.stamps_per_second or 1.0)):
            return fmt, None  # blocks of the other maker, but stamps that make sense in the format's own unit only
        how = f"as in Bailian's traces with blocks of {size} tokens"
        return found, f"{fmt.arrival} is read as {clock_name(found)}, {how}; workload.trace_clock={clock_name(fmt)} reads {clock_name(fmt)}"
    broken = stamps[np.isfinite(stamps)] % 1.0 != 0.0
    if fmt.block_clocks and broken.any():
        ours = clock_name(fmt)
        return fmt, f"{fmt.arrival} has fractions and is read as {ours}, as the {fmt.name} format says; workload.trace_clock=s reads s"
    return fmt, None


def _too_slow(arrival_s: np.ndarray) -> bool:
    """Whether the requests are farther apart than those of a server in use."""
    known = arrival_s[np.isfinite(arrival_s)]
    return len(known) > _SOME_REQUESTS and float(np.ptp(known)) / (len(known) - 1) > _LONG_GAP_S


def implausible(fmt: TraceFormat, arrival_s: np.ndarray, tokens: np.ndarray) -> list[str]:
    """Lines about arrivals (float64[R], seconds) and lengths (int[R], tokens) that look as if they were in another unit."""
    lines = []
    known = arrival_s[np.isfinite(arrival_s)]
    span_s = float(np.ptp(known)) if len(known) else 0.0
    unit = clock_name(fmt)
    other = "another clock: workload.trace_clock=s, ms, us or ns"
    if span_s > 0 and len(known) > _SOME_REQUESTS and (len(known) - 1) / span_s > _MANY_PER_S:
        lines.append(f"{(len(known) - 1) / span_s:,.0f} requests/s if {fmt.arrival} is in {unit}; it may have {other}")
    elif span_s > _LONG_SPAN_S or _too_slow(known):
        span = f"{span_s / 86_400:,.1f} days" if span_s < 2 * 365 * 86_400 else f"{span_s / 86_400 / 365:,.1f} years"
        lines.append(f"{len(known):,} requests in {span} if {fmt.arrival} is in {unit}; it may have {other}")
    if len(tokens) and tokens.max() > _MANY_TOKENS:
        lines.append(f"a request of {tokens.max():,} tokens; are {fmt.prompt} and {fmt.output} numbers of tokens?")
    return lines
