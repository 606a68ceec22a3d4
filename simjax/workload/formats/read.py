"""Reads a trace file of any known format into a workload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from simjax.errors import SimjaxError, closest
from simjax.workload.config import BAD_ROWS
from simjax.workload.contents import tree
from simjax.workload.formats.base import TraceFile, TraceFormat
from simjax.workload.formats.discover import formats_in
from simjax.workload.formats.sessions.agents import to_workload
from simjax.workload.formats.sessions.kvcache_tester import KVCACHE_TESTER, read_session, session_files
from simjax.workload.formats.tables import relations
from simjax.workload.formats.tables.calls import DELAY, expand
from simjax.workload.formats.tables.convert import Requests, convert
from simjax.workload.formats.tables.rows import Header, read_chunks, read_header
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload

OnBadRow = Literal["error", "skip"]

FORMATS: dict[str, TraceFormat] = formats_in("simjax.workload.formats")
"""Every format by name, in the order in which "auto" tries them."""


@dataclass(frozen=True)
class TraceLengths:
    """Prompt and output lengths of a file in its own order: int32[R] each; `rows`, `skipped`, `dropped` as in `TraceFile`."""

    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    format: str
    rows: int
    skipped: int
    dropped: int


def read_trace(path: str | Path, format: str = "auto", on_bad_row: str = "error") -> TraceFile:
    """The requests of a trace file, sorted by arrival (ties keep the file's order), in seconds from the first arrival.

    Shared prefixes and sessions that the file records are part of the workload.

    Args:
        path: CSV, JSON Lines or Parquet file, or a session file or a directory of session files; text may be gzipped.
        format: a name of `FORMATS`, or "auto" to recognise it from the columns.
        on_bad_row: "error" stops at the first malformed row, "skip" leaves malformed rows out and counts them. Requests that the source
            documents as failed are dropped and counted either way.

    Raises:
        SimjaxError: no such file, unknown format, no arrivals, a malformed row (`file:line: reason`), or no usable request.
    """
    path = Path(path).expanduser()
    fmt, header = _recognise(path, format)
    if fmt.arrival not in header.columns:
        raise SimjaxError(f"{path}: no arrivals (no column {fmt.arrival}), only lengths; use it as a source of lengths instead of a trace")
    if fmt.container == "json":
        return _read_sessions(path, fmt, on_bad_row)
    table = _read(path, fmt, header, on_bad_row, with_arrivals=True)
    sessions = relations.sessions(table.extra, fmt, table.lines)
    prefixes = relations.prefixes(table.extra, fmt, table.prompt_tokens, table.output_tokens, sessions)
    waits = np.zeros(len(table.lines), bool) if sessions is None else sessions.predecessors > 0
    arrival_s = (table.stamps - table.stamps[~waits].min()) / (fmt.stamps_per_second or 1e9)
    workload, order = arrange(
        Workload(
            arrival_s=np.where(waits, np.inf, arrival_s),
            prompt_tokens=table.prompt_tokens,
            output_tokens=table.output_tokens,
            source=path.name,
            prefixes=None if prefixes is None else tree.finish(prefixes, table.prompt_tokens, sessions),
            sessions=sessions,
        )
    )
    return TraceFile(workload.validate(), table.lines[order], fmt.name, table.rows, table.skipped, table.dropped)


def read_lengths(path: str | Path, format: str = "auto", on_bad_row: str = "error") -> TraceLengths:
    """The lengths of a trace file alone, in its order, also of files without arrivals. Arguments and errors as in `read_trace`."""
    path = Path(path).expanduser()
    fmt, header = _recognise(path, format)
    if fmt.container == "json":
        trace = _read_sessions(path, fmt, on_bad_row)
        return TraceLengths(trace.workload.prompt_tokens, trace.workload.output_tokens, fmt.name, trace.rows, trace.skipped, trace.dropped)
    table = _read(path, fmt, header, on_bad_row, with_arrivals=False)
    return TraceLengths(table.prompt_tokens, table.output_tokens, fmt.name, table.rows, table.skipped, table.dropped)


@dataclass(frozen=True)
class _Table:
    lines: np.ndarray
    stamps: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    rows: int
    skipped: int
    dropped: int
    extra: relations.Extra


def _read_sessions(path: Path, fmt: TraceFormat, on_bad_row: str) -> TraceFile:
    """The sessions of a file or a directory; a malformed one is left out as a whole and counts as one row."""
    _check_on_bad_row(on_bad_row)
    files = session_files(path)
    sessions, faults = [], 0
    for file in files:
        try:
            sessions.append(read_session(file))
        except SimjaxError as error:
            if on_bad_row == "error":
                raise SimjaxError(f"{error} (on_bad_row=skip leaves such sessions out)") from None
            faults += 1
    if not sessions:
        raise SimjaxError(f"{path}: the trace has no usable request: {faults} malformed sessions")
    workload, order = arrange(to_workload(sessions, path.resolve().name))
    numbers = np.concatenate([np.arange(1, len(session.calls) + 1) for session in sessions])
    return TraceFile(workload.validate(), numbers[order], fmt.name, len(files), faults, 0)


def _recognise(path: Path, name: str) -> tuple[TraceFormat, Header]:
    # A directory needs no look inside at this point: only session files come in directories.
    header = Header("json", KVCACHE_TESTER.required) if path.is_dir() else read_header(path)
    columns = set(header.columns)
    if name == "auto":
        for fmt in FORMATS.values():
            if _holds(header, fmt) and fmt.recognises(columns):
                return fmt, header
        shown = ", ".join(header.columns[:12]) + (", ..." if len(header.columns) > 12 else "")
        raise SimjaxError(f"{path}: cannot tell the format from its columns ({shown}); known formats: {', '.join(FORMATS)}")
    if name not in FORMATS:
        raise SimjaxError(f"unknown trace format {name!r}; {closest(name, ['auto', *FORMATS])}")
    fmt = FORMATS[name]
    if not _holds(header, fmt):
        raise SimjaxError(f"{path}: looks like {header.container}, but the {name} format is {fmt.container}")
    missing = [column for column in fmt.required if column not in columns]
    if missing and not fmt.recognises(columns):
        raise SimjaxError(
            f"{path}: the {name} format needs the column(s) {', '.join(missing)}; format=auto recognises files by their columns"
        )
    return fmt, header


def _holds(header: Header, fmt: TraceFormat) -> bool:
    """Whether the file's container can hold the format: Parquet may replace CSV, and a JSON object on one line looks like JSON Lines."""
    return header.container == fmt.container or (header.container, fmt.container) in (("parquet", "csv"), ("jsonl", "json"))


def _read(path: Path, fmt: TraceFormat, header: Header, on_bad_row: str, with_arrivals: bool) -> _Table:
    _check_on_bad_row(on_bad_row)
    parts: list[Requests] = []
    rows = 0
    columns = fmt.columns if with_arrivals else tuple(name for name in fmt.columns if name not in fmt.id_columns)
    if header.container != "jsonl":  # here the header names all columns of the file, so absent optional ones need no look
        columns = tuple(name for name in columns if name in header.columns or name not in fmt.optional_columns)
    started: set[object] = set()
    for chunk in read_chunks(path, header.container, columns, fmt.id_columns):
        part = convert(expand(chunk, fmt), fmt, with_arrivals, started)
        if part.bad and on_bad_row == "error":
            line, reason = part.bad[0]
            raise SimjaxError(f"{_location(path, header, line)}: {reason} (on_bad_row=skip leaves such rows out)")
        parts.append(part)
        rows += len(chunk.lines)
    skipped = sum(len(part.bad) for part in parts)
    dropped = sum(part.dropped for part in parts)
    if rows == skipped + dropped:
        why = f": {skipped} malformed and {dropped} failed rows" if rows else ""
        raise SimjaxError(f"{path}: the trace has no usable request{why}")
    return _Table(
        lines=np.concatenate([part.lines for part in parts]),
        stamps=np.concatenate([part.stamps for part in parts]),
        prompt_tokens=np.concatenate([part.prompt_tokens for part in parts]),
        output_tokens=np.concatenate([part.output_tokens for part in parts]),
        rows=rows,
        skipped=skipped,
        dropped=dropped,
        extra={name: _column(parts, name) for name in dict.fromkeys(name for part in parts for name in part.extra)},
    )


def _column(parts: list[Requests], name: str) -> list[object]:
    """A column over all chunks, filled with empty values for the chunks in which it has none."""
    empty = 0.0 if name == DELAY else None
    return [value for part in parts for value in part.extra.get(name, [empty] * len(part.lines))]


def _check_on_bad_row(on_bad_row: str) -> None:
    if on_bad_row not in BAD_ROWS:
        raise SimjaxError(f"on_bad_row={on_bad_row!r} is not known; use {' or '.join(BAD_ROWS)}")


def _location(path: Path, header: Header, line: int) -> str:
    return f"{path}: row {line}" if header.container == "parquet" else f"{path}:{line}"
