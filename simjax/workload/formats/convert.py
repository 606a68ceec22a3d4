"""Raw values to numbers: whole columns at once, with a reason for every row that is no request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.calls import DELAY, LABEL
from simjax.workload.formats.rows import Batch

_MAX_TOKENS = 2**31 - 1  # lengths are int32
_UNPARSED = np.iinfo(np.int64).min  # pandas' NaT


@dataclass(frozen=True)
class Requests:
    """The requests of one batch, arrays over its usable rows (calls, in rows that hold several).

    Attributes:
        lines: int64, physical line of each.
        stamps: arrival in the format's own unit, float64 (int64 nanoseconds for date-times); zeros when the arrivals were not asked for.
        prompt_tokens, output_tokens: int32.
        dropped: rows the source marks as failed.
        bad: malformed rows, (line, reason) in file order.
        extra: by column name, what else the rows tell about sharing and waiting: arrays of ids, numbers (delays in seconds, 0 where there
            is none; tokens), labels. A column in which no row has a value is left out.
    """

    lines: np.ndarray
    stamps: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    dropped: int
    bad: list[tuple[int, str]]
    extra: dict[str, list[Any]]


def convert(batch: Batch, fmt: TraceFormat, with_arrivals: bool, started: set[Any]) -> Requests:
    """Check and convert the rows of `batch`; a row's first fault (arrival, prompt, output, the rest) is the one reported.

    Args:
        batch: raw rows, those with calls taken apart.
        fmt: the format they are in.
        with_arrivals: whether more than the lengths is wanted.
        started: labels of the sessions that earlier batches started; those of this one are added. A row that waits for another one of its
            session needs no arrival.
    """
    rows = len(batch.lines)
    failed = np.zeros(rows, bool)
    if fmt.failed_column is not None and fmt.failed is not None:
        failed = np.fromiter(map(fmt.failed, batch.columns[fmt.failed_column]), bool, rows)
    failed[list(batch.broken)] = False
    late: dict[int, str] = {}  # reasons: without an arrival ...
    reasons = dict(batch.broken)  # ... and for everything else
    stamps = np.zeros(rows)
    if with_arrivals:
        stamps = _stamps(fmt, batch.columns[fmt.arrival], late)
    prompt = _tokens(fmt.prompt, batch.columns[fmt.prompt], reasons, ~failed, batch.places)
    output = _tokens(fmt.output, batch.columns[fmt.output], reasons, ~failed, batch.places)
    extra = _extra(batch, fmt, reasons) if with_arrivals else {}
    labels = extra.get(LABEL)
    for i in range(rows) if labels is not None else late:
        label = None if labels is None else labels[i]
        if label is None or label not in started:
            if i in late and i not in batch.broken:
                reasons[i] = late[i]  # the arrival is the first fault
            elif i not in reasons and label is not None:
                started.add(label)
    # A failure never ran, so what else is wrong with its row does not matter. One malformed call makes its whole row unusable.
    faults: dict[int, str] = {}
    for position in sorted(position for position in reasons if not failed[position]):
        faults.setdefault(batch.lines[position], reasons[position])
    lines = np.asarray(batch.lines, np.int64)
    good = ~failed
    if faults:
        good &= ~np.isin(lines, list(faults))
    return Requests(
        lines=lines[good],
        stamps=stamps[good],
        prompt_tokens=prompt[good].astype(np.int32),
        output_tokens=output[good].astype(np.int32),
        dropped=int(failed.sum()),
        bad=list(faults.items()),
        extra={name: [values[i] for i in np.flatnonzero(good)] for name, values in extra.items()},
    )


def _extra(batch: Batch, fmt: TraceFormat, reasons: dict[int, str]) -> dict[str, list[Any]]:
    """The columns of `Requests.extra` over all rows of the batch; what is wrong with them goes to `reasons`."""
    extra: dict[str, list[Any]] = {}
    places = batch.places or [""] * len(batch.lines)
    told = [name for name in (*fmt.optional_columns, LABEL, DELAY) if name in batch.columns]
    filled = {name: batch.columns[name] for name in told if any(value is not None for value in batch.columns[name])}
    for name in fmt.id_columns:
        if name in filled:
            extra[name] = filled[name]
            for i, value in enumerate(filled[name]):
                if value is not None and not isinstance(value, np.ndarray):
                    reasons.setdefault(i, places[i] + _fault(name, value, "is not a list of whole numbers"))
    if fmt.prefix_key in filled:
        extra[fmt.prefix_key] = [None if _empty(key) else str(key) for key in filled[fmt.prefix_key]]
        if fmt.prefix_tokens in filled:
            given = np.array([not _empty(value) for value in filled[fmt.prefix_tokens]])
            tokens = _tokens(fmt.prefix_tokens, filled[fmt.prefix_tokens], reasons, given, batch.places)
            extra[fmt.prefix_tokens] = [int(value) if known else None for value, known in zip(tokens, given, strict=True)]
    if LABEL in filled:
        extra[LABEL] = filled[LABEL]
        extra[DELAY] = _delays(fmt, fmt.call_delay or "", filled.get(DELAY), reasons, places)
    elif fmt.session in filled:
        extra[LABEL] = [None if _empty(label) else str(label) for label in filled[fmt.session]]
        extra[DELAY] = _delays(fmt, fmt.delay or "", filled.get(fmt.delay or ""), reasons, places)
    return extra


def _delays(fmt: TraceFormat, name: str, raw: list[Any] | None, reasons: dict[int, str], places: list[str]) -> list[float]:
    """Seconds; 0 where nothing is said."""
    if raw is None:
        return [0.0] * len(places)
    delays = _numbers([0.0 if _empty(value) else value for value in raw])
    for i in np.flatnonzero(~(np.isfinite(delays) & (delays >= 0))):
        reasons.setdefault(int(i), places[i] + _fault(name, raw[i], "is negative" if np.isfinite(delays[i]) else "is not a number"))
    return (delays / (fmt.stamps_per_second or 1.0)).tolist()


def _empty(value: Any) -> bool:
    """Whether a cell holds nothing: missing in JSON, blank in CSV, null in Parquet (NaN in columns of numbers)."""
    return value is None or value == "" or value != value


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


def _tokens(name: str, raw: list[Any], reasons: dict[int, str], wanted: np.ndarray, places: list[str]) -> np.ndarray:
    values = _numbers(raw)
    wrong = ~(np.isfinite(values) & (values >= 1) & (values <= _MAX_TOKENS) & (values == np.floor(values)))
    for i in np.flatnonzero(wrong & wanted):
        if not np.isfinite(values[i]):
            fault = "is not a number"
        elif values[i] < 1:
            fault = "must be at least 1"
        else:
            fault = "is not a whole number" if values[i] <= _MAX_TOKENS else f"is more than {_MAX_TOKENS}"
        reasons.setdefault(int(i), (places[i] if places else "") + _fault(name, raw[i], fault))
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
