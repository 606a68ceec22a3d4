"""Conversion of raw values to numbers, whole columns at once, with a reason for every row that is not a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.tables.calls import CLASS, DELAY, LABEL, MODEL, PRIORITY
from simjax.workload.formats.tables.rows import Chunk

_MAX_TOKENS = 2**31 - 1  # lengths are int32
_UNPARSED = np.iinfo(np.int64).min  # pandas' NaT


@dataclass(frozen=True)
class Requests:
    """The requests of one chunk: arrays over its usable rows (or over the calls in rows that hold several).

    Attributes:
        lines: int64, physical line of each request.
        stamps: arrivals in the format's own unit, float64 (int64 nanoseconds for date-times); zeros if arrivals were not requested.
        prompt_tokens, output_tokens: int32.
        dropped: number of rows that failed, or answered nothing, and are left out.
        zero_outputs, failed: bool, requests that answered nothing, or otherwise failed, and that are played.
        bad: malformed rows, (line, reason) in file order.
        extra: columns on shared prefixes, sessions and models, by name: arrays of ids, numbers (tokens; delays in seconds, NaN where there
            is none), labels. A column in which no row has a value is left out.
    """

    lines: np.ndarray
    stamps: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    dropped: int
    zero_outputs: np.ndarray
    failed: np.ndarray
    bad: list[tuple[int, str]]
    extra: dict[str, list[Any]]


def convert(chunk: Chunk, fmt: TraceFormat, with_arrivals: bool, started: set[Any], unanswered: str = "play") -> Requests:
    """Check and convert the rows of `chunk`; of several faults of a row the first is reported, in the order arrival, prompt, output, rest.

    Requests that answered nothing or failed loaded the server with their prompts: they are played with at least 1 output token. A failed
    one whose row lacks its arrival or its prompt is left out.

    Args:
        chunk: raw rows, with lists of calls expanded.
        fmt: format of the rows.
        with_arrivals: whether arrivals, prefixes and sessions are wanted besides the lengths.
        started: labels of the sessions that earlier chunks started; those of this one are added. Only the first row of a session needs an
            arrival.
        unanswered: "play", or "drop" to leave requests out that answered nothing or failed.
    """
    rows = len(chunk.lines)
    failed = np.zeros(rows, bool)
    if fmt.failed_column is not None and fmt.failed is not None:
        failed = np.fromiter(map(fmt.failed, chunk.columns[fmt.failed_column]), bool, rows)
    failed[list(chunk.broken)] = False
    no_arrival: dict[int, str] = {}  # faults of the arrival, which may be missing in later rows of a session
    reasons = dict(chunk.broken)  # all other faults
    stamps = np.zeros(rows)
    if with_arrivals and fmt.arrival in chunk.columns:
        stamps = _stamps(fmt, chunk.columns[fmt.arrival], no_arrival)
    prompt = _tokens(fmt.prompt, chunk.columns[fmt.prompt], reasons, np.ones(rows, bool), chunk.places)
    unusable = failed & np.isin(np.arange(rows), [*no_arrival, *reasons])  # it never ran, or nothing is known about what it asked for
    output = _tokens(fmt.output, chunk.columns[fmt.output], reasons, ~failed, chunk.places, least=0)
    zero = (output == 0) & ~failed
    output = np.maximum(output, 1)
    left_out = unusable | ((failed | zero) if unanswered == "drop" else False)
    extra = _extra(chunk, fmt, reasons) if with_arrivals else {}
    labels = extra.get(LABEL)
    for i in range(rows) if labels is not None else no_arrival:
        label = None if labels is None else labels[i]
        may_lack = (
            label is not None and label in started and _empty(chunk.columns[fmt.arrival][i] if fmt.arrival in chunk.columns else None)
        )
        if i in no_arrival and i not in chunk.broken and not may_lack:
            reasons[i] = no_arrival[i]  # the arrival is the first fault
        elif i not in reasons and label is not None and not left_out[i]:
            started.add(label)
    # One malformed call makes its whole row unusable.
    faults: dict[int, str] = {}
    for position in sorted(position for position in reasons if not left_out[position]):
        faults.setdefault(chunk.lines[position], reasons[position])
    lines = np.asarray(chunk.lines, np.int64)
    good = ~left_out
    if faults:
        good &= ~np.isin(lines, list(faults))
    return Requests(
        lines=lines[good],
        stamps=stamps[good],
        prompt_tokens=prompt[good].astype(np.int32),
        output_tokens=output[good].astype(np.int32),
        dropped=int(left_out.sum()),
        zero_outputs=zero[good],
        failed=failed[good],
        bad=list(faults.items()),
        extra={name: [values[i] for i in np.flatnonzero(good)] for name, values in extra.items()},
    )


def _extra(chunk: Chunk, fmt: TraceFormat, reasons: dict[int, str]) -> dict[str, list[Any]]:
    """The columns of `Requests.extra` over all rows of the chunk; their faults are added to `reasons`."""
    extra: dict[str, list[Any]] = {}
    places = chunk.places or [""] * len(chunk.lines)
    present = [name for name in (*fmt.optional_columns, LABEL, DELAY, MODEL, CLASS, PRIORITY) if name in chunk.columns]
    filled = {name: chunk.columns[name] for name in present if any(value is not None for value in chunk.columns[name])}
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
            tokens = _tokens(fmt.prefix_tokens, filled[fmt.prefix_tokens], reasons, given, chunk.places)
            extra[fmt.prefix_tokens] = [int(value) if known else None for value, known in zip(tokens, given, strict=True)]
    if LABEL in filled:
        extra[LABEL] = filled[LABEL]
        extra[DELAY] = _delays(fmt, fmt.call_delay or "", filled.get(DELAY), reasons, places)
    elif fmt.session in filled:
        extra[LABEL] = [None if _empty(label) else str(label) for label in filled[fmt.session]]
        extra[DELAY] = _delays(fmt, fmt.delay or "", filled.get(fmt.delay or ""), reasons, places)
    if fmt.turn in filled:
        extra[fmt.turn] = _numbers(filled[fmt.turn]).tolist()
    for name in (fmt.call, fmt.parent, MODEL, CLASS):
        if name is not None and name in filled:
            extra[name] = [None if _empty(value) else str(value) for value in filled[name]]
    if PRIORITY in filled:
        extra[PRIORITY] = _priorities(filled[PRIORITY], reasons, places)
    return extra


def _priorities(raw: list[Any], reasons: dict[int, str], places: list[str]) -> list[int]:
    """Priorities, vLLM's 0 where none is given."""
    values = _numbers([0 if _empty(value) else value for value in raw])
    wrong = ~(np.isfinite(values) & (np.abs(values) <= _MAX_TOKENS) & (values == np.floor(values)))
    for i in np.flatnonzero(wrong):
        reasons.setdefault(int(i), places[i] + _fault("priority", raw[i], "is not a whole number that an int32 holds"))
    return np.where(wrong, 0, values).astype(np.int32).tolist()


def _delays(fmt: TraceFormat, name: str, raw: list[Any] | None, reasons: dict[int, str], places: list[str]) -> list[float]:
    """Delays in seconds, NaN where none is given."""
    if raw is None:
        return [np.nan] * len(places)
    none = np.array([_empty(value) for value in raw])
    delays = _numbers([0.0 if _empty(value) else value for value in raw])
    for i in np.flatnonzero(~(np.isfinite(delays) & (delays >= 0))):
        reasons.setdefault(int(i), places[i] + _fault(name, raw[i], "is negative" if np.isfinite(delays[i]) else "is not a number"))
    return np.where(none, np.nan, delays / (fmt.stamps_per_second or 1.0)).tolist()


def _empty(value: Any) -> bool:
    """Whether a cell is empty: missing in JSON, blank in CSV, null in Parquet (NaN in columns of numbers)."""
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


def _tokens(name: str, raw: list[Any], reasons: dict[int, str], wanted: np.ndarray, places: list[str], least: int = 1) -> np.ndarray:
    values = _numbers(raw)
    wrong = ~(np.isfinite(values) & (values >= least) & (values <= _MAX_TOKENS) & (values == np.floor(values)))
    for i in np.flatnonzero(wrong & wanted):
        if not np.isfinite(values[i]):
            fault = "is not a number"
        elif values[i] < least:
            fault = f"must be at least {least}"
        else:
            fault = "is not a whole number" if values[i] <= _MAX_TOKENS else f"is more than {_MAX_TOKENS}"
        reasons.setdefault(int(i), (places[i] if places else "") + _fault(name, raw[i], fault))
    return np.where(wrong, 1, values)


def _fault(name: str, raw: Any, fault: str) -> str:
    if raw is None or raw == "":
        return f"{name} is missing"
    text = " ".join(str(raw).split())
    return f"{name}={text if len(text) <= 40 else text[:37] + '...'} {fault}"


def _numbers(raw: list[Any]) -> np.ndarray:
    """The column as float64, NaN where there is no number; the slow loop runs only when the column has such a value."""
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
    """The column as int64 nanoseconds since 1970 in UTC, `_UNPARSED` where there is no date-time.

    Takes 0 to 9 fractional digits (Azure 2023 writes 7), with or without an offset, mixed within a file (Azure 2024).
    """
    import pandas as pd  # here, not at the top: it takes longer to import than most traces take to read

    parsed = pd.to_datetime(pd.Index(raw, dtype=object), format="ISO8601", utc=True, errors="coerce")
    index = pd.DatetimeIndex(parsed)
    # Nanoseconds reach from 1677 to 2262.
    inside = np.asarray(index > pd.Timestamp.min.tz_localize("UTC")) & np.asarray(index < pd.Timestamp.max.tz_localize("UTC"))
    return pd.DatetimeIndex(index.where(inside)).as_unit("ns").asi8
