"""Raw values to numbers: whole columns at once, with a reason for every row that is no request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.rows import Batch

_MAX_TOKENS = 2**31 - 1  # lengths are int32
_UNPARSED = np.iinfo(np.int64).min  # pandas' NaT


@dataclass(frozen=True)
class Requests:
    """The requests of one batch, arrays over its usable rows.

    Attributes:
        lines: int64, physical line of each.
        stamps: arrival in the format's own unit, float64 (int64 nanoseconds for date-times); zeros when the arrivals were not asked for.
        prompt_tokens, output_tokens: int32.
        dropped: rows the source marks as failed.
        bad: malformed rows, (line, reason) in file order.
    """

    lines: np.ndarray
    stamps: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    dropped: int
    bad: list[tuple[int, str]]


def convert(batch: Batch, fmt: TraceFormat, with_arrivals: bool) -> Requests:
    """Check and convert the rows of `batch`; a row's first fault (arrival, prompt, output) is the one reported."""
    rows = len(batch.lines)
    failed = np.zeros(rows, bool)
    if fmt.failed_column is not None and fmt.failed is not None:
        failed = np.fromiter(map(fmt.failed, batch.columns[fmt.failed_column]), bool, rows)
    failed[list(batch.broken)] = False
    reasons = dict(batch.broken)
    stamps = np.zeros(rows)
    if with_arrivals:
        stamps = _stamps(fmt, batch.columns[fmt.arrival], reasons)
    prompt = _tokens(fmt.prompt, batch.columns[fmt.prompt], reasons, ~failed)
    output = _tokens(fmt.output, batch.columns[fmt.output], reasons, ~failed)
    # A failure never ran, so what else is wrong with its row does not matter.
    bad = sorted(position for position in reasons if not failed[position])
    good = ~failed
    good[bad] = False
    lines = np.asarray(batch.lines, np.int64)
    return Requests(
        lines=lines[good],
        stamps=stamps[good],
        prompt_tokens=prompt[good].astype(np.int32),
        output_tokens=output[good].astype(np.int32),
        dropped=int(failed.sum()),
        bad=[(batch.lines[i], reasons[i]) for i in bad],
    )


def _stamps(fmt: TraceFormat, raw: list[Any], reasons: dict[int, str]) -> np.ndarray:
    if fmt.stamps_per_second is not None:
        stamps = _numbers(raw)
        wrong = ~np.isfinite(stamps) | (stamps < 0)
    else:
        stamps = _datetimes_ns(raw)
        wrong = stamps == _UNPARSED
    for i in np.flatnonzero(wrong):
        kind = "date-time" if fmt.stamps_per_second is None else "number" if not np.isfinite(stamps[i]) else "time: it is negative"
        reasons.setdefault(int(i), _fault(fmt.arrival, raw[i], f"is not a {kind}"))
    return stamps


def _tokens(name: str, raw: list[Any], reasons: dict[int, str], wanted: np.ndarray) -> np.ndarray:
    values = _numbers(raw)
    wrong = ~(np.isfinite(values) & (values >= 1) & (values <= _MAX_TOKENS) & (values == np.floor(values)))
    for i in np.flatnonzero(wrong & wanted):
        if not np.isfinite(values[i]):
            fault = "is not a number"
        elif values[i] < 1:
            fault = "must be at least 1"
        else:
            fault = "is not a whole number" if values[i] <= _MAX_TOKENS else f"is more than {_MAX_TOKENS}"
        reasons.setdefault(int(i), _fault(name, raw[i], fault))
    return np.where(wrong, 1, values)


def _fault(name: str, raw: Any, fault: str) -> str:
    if raw is None or raw == "":
        return f"{name} is missing"
    text = str(raw)
    return f"{name}={text if len(text) <= 40 else text[:37] + '...'} {fault}"


def _numbers(raw: list[Any]) -> np.ndarray:
    """float64, NaN where there is no number; the slow loop runs only when the column has such a value."""
    try:
        numbers = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is None or numbers.ndim != 1:  # JSON lists of equal length would make a matrix
        numbers = np.array([_number(value) for value in raw], np.float64)
    return numbers


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _datetimes_ns(raw: list[Any]) -> np.ndarray:
    """int64 nanoseconds since 1970 in UTC, `_UNPARSED` where there is no date-time.

    Takes 0 to 9 fractional digits (Azure 2023 writes 7), with or without an offset, mixed within a file (Azure 2024).
    """
    import pandas as pd  # here, not at the top: it takes longer to import than most traces take to read

    parsed = pd.to_datetime(pd.Index(raw, dtype=object), format="ISO8601", utc=True, errors="coerce")
    return pd.DatetimeIndex(parsed).as_unit("ns").asi8
