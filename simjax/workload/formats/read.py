"""Reads a trace file of any known format into a workload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.classes import RequestClasses
from simjax.workload.config import BAD_ROWS, UNANSWERED
from simjax.workload.contents import tree
from simjax.workload.formats.base import TraceFile, TraceFormat, TraceLengths
from simjax.workload.formats.recognise import recognise
from simjax.workload.formats.results.played import read_result
from simjax.workload.formats.sessions.agents import read_sessions
from simjax.workload.formats.tables import relations
from simjax.workload.formats.tables.blocks import tokens_per_id
from simjax.workload.formats.tables.calls import CLASS, MODEL, PRIORITY
from simjax.workload.formats.tables.clock import clock_by_blocks, clock_name, implausible, stated_clock
from simjax.workload.formats.tables.table import Table, read_table
from simjax.workload.models import RequestModels
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a file, as in the `workload` group of the configuration.

    Attributes:
        format: a name of `FORMATS`, or "auto" to recognise it from the columns.
        on_bad_row: "error" stops at the first malformed row, "skip" leaves malformed rows out and counts them.
        unanswered: "play" plays requests that failed or answered nothing with at least 1 output token, "drop" leaves them out.
        clock: unit of the arrivals (s, ms, us, ns); None for that of the format, or what the block size tells.
        block_tokens: number of tokens that an id of the prompts' blocks stands for; None for that of the format, or what the rows prove.
        only_model: model whose rows are read; None for all.
    """

    format: str = "auto"
    on_bad_row: str = "error"
    unanswered: str = "play"
    clock: str | None = None
    block_tokens: int | None = None
    only_model: str | None = None

    def check(self) -> None:
        """Raise a `SimjaxError` if an option is not known; the format and the clock are checked with the file."""
        if self.on_bad_row not in BAD_ROWS:
            raise SimjaxError(f"on_bad_row={self.on_bad_row!r} is not known; use {' or '.join(BAD_ROWS)}")
        if self.unanswered not in UNANSWERED:
            raise SimjaxError(f"unanswered={self.unanswered!r} is not known; use {' or '.join(UNANSWERED)}")
        if self.block_tokens is not None and self.block_tokens < 1:
            raise SimjaxError(f"block_tokens={self.block_tokens}; it must be at least 1")


def read_trace(path: str | Path, format: str = "auto", on_bad_row: str = "error", options: ReadOptions | None = None) -> TraceFile:
    """The requests of a trace file, sorted by arrival (ties keep the file's order), in seconds from the first arrival.

    Shared prefixes and sessions that the file records are part of the workload.

    Args:
        path: CSV, JSON or Parquet file, or a session file or a directory of session files; text may be compressed by gzip or zstd.
        format: as in `ReadOptions`.
        on_bad_row: as in `ReadOptions`.
        options: all of them; overrides the two.

    Raises:
        SimjaxError: no such file, unknown format, no arrivals, a malformed row (`file:line: reason`), or no usable request.
    """
    path, options = Path(path).expanduser(), options or ReadOptions(format, on_bad_row)
    options.check()
    fmt, header, columns = recognise(path, options.format)
    fmt = stated_clock(fmt, options.clock)
    if fmt.reader is not None:
        return read_result(path, fmt, options.on_bad_row, options.unanswered)
    if fmt.container == "json":
        if options.only_model is not None or options.block_tokens is not None:
            raise SimjaxError(f"{path}: only_model and block_tokens have no effect on the {fmt.name} format; null unsets them")
        return read_sessions(path, fmt.name, options.on_bad_row, options.unanswered)
    untimed = fmt.arrival not in columns
    if untimed and fmt.session not in columns:
        raise SimjaxError(f"{path}: no arrivals (no column {fmt.arrival}), only lengths; use it as a source of lengths instead of a trace")
    table = read_table(path, fmt, header, columns, options.on_bad_row, options.unanswered, options.only_model)
    order = relations.session_order(table.extra, fmt, table.stamps)
    table = table if order is None else table.take(order)
    chained = relations.chains(table.extra, fmt, table.lines)
    notes: list[str | None] = []
    if chained is not None and fmt.adds_tokens:
        whole, extra = relations.whole_prompts(table.extra, fmt, chained, table.prompt_tokens, table.output_tokens)
        later = int(np.count_nonzero(chained.before >= 0))
        if later:
            notes.append(f"{fmt.prompt} of {later:,} later turns of sessions is read as what the turn adds to all before it")
        table = replace(table, prompt_tokens=_as_lengths(whole, table, path), extra=extra)
    per_id = None
    if fmt.prompt_ids in table.extra:
        per_id = fmt.tokens_per_id
        if per_id > 1:
            try:
                per_id, note = tokens_per_id(fmt, table.extra[fmt.prompt_ids], table.prompt_tokens, table.lines, options.block_tokens)
            except SimjaxError as error:
                raise SimjaxError(f"{path}: {error}") from None
            notes.append(note)
    elif options.block_tokens is not None:
        raise SimjaxError(f"workload.block_tokens={options.block_tokens} has no effect: {path} has no ids of blocks; null unsets it")
    if options.clock is None and not untimed:
        fmt, note = clock_by_blocks(fmt, table.stamps, per_id or fmt.tokens_per_id)
        notes.append(note)
    fmt = fmt if per_id is None else replace(fmt, tokens_per_id=per_id)
    if untimed:
        notes.append(f"no {fmt.arrival} is recorded: all sessions start at once; workload.session_rate=RATE draws their starts")
    workload, order = arrange(_workload(path, fmt, table, chained, untimed))
    notes += implausible(fmt, workload.arrival_s, workload.prompt_tokens.astype(np.int64) + workload.output_tokens)
    reading = replace(table.reading, clock=clock_name(fmt), tokens_per_id=per_id, notes=(*table.reading.notes, *_said(notes)))
    return TraceFile(workload.validate(), table.lines[order], reading)


def read_lengths(path: str | Path, format: str = "auto", on_bad_row: str = "error", options: ReadOptions | None = None) -> TraceLengths:
    """The lengths of a trace file alone, in its order, also of files without arrivals. Arguments and errors as in `read_trace`."""
    path, options = Path(path).expanduser(), options or ReadOptions(format, on_bad_row)
    options.check()
    fmt, header, columns = recognise(path, options.format)
    if fmt.container == "json" or fmt.reader is not None:
        trace = (
            read_sessions(path, fmt.name, options.on_bad_row, options.unanswered)
            if fmt.reader is None
            else read_result(path, fmt, options.on_bad_row, options.unanswered, with_arrivals=False)
        )
        return TraceLengths(trace.workload.prompt_tokens, trace.workload.output_tokens, replace(trace.reading, clock=None))
    table = read_table(path, fmt, header, columns, options.on_bad_row, options.unanswered, options.only_model, with_arrivals=False)
    return TraceLengths(table.prompt_tokens, table.output_tokens, table.reading)


def _workload(path: Path, fmt: TraceFormat, table: Table, chained: relations.Chains | None, untimed: bool) -> Workload:
    """The requests in the order of the table; those that wait have their recorded arrivals where no pause is recorded."""
    sessions = None if chained is None else chained.sessions
    waits = np.zeros(len(table.lines), bool) if sessions is None else sessions.predecessors > 0
    arrival_s = (table.stamps - table.stamps[~waits].min()) / (fmt.stamps_per_second or 1e9)
    free = np.zeros(len(table.lines), bool) if chained is None or untimed else chained.free & np.isfinite(arrival_s)
    prefixes = relations.prefixes(table.extra, fmt, table.prompt_tokens, table.output_tokens, chained)
    return Workload(
        arrival_s=np.where(waits & ~free, np.inf, arrival_s),
        prompt_tokens=table.prompt_tokens,
        output_tokens=table.output_tokens,
        source=path.name,
        prefixes=None if prefixes is None else tree.finish(prefixes, table.prompt_tokens, sessions),
        sessions=sessions,
        models=RequestModels.of(table.extra.get(MODEL)),
        priority=np.array(table.extra[PRIORITY], np.int32) if PRIORITY in table.extra else None,
        classes=RequestClasses.of(table.extra.get(CLASS)),
    )


def _as_lengths(tokens: np.ndarray, table: Table, path: Path) -> np.ndarray:
    limit = np.iinfo(np.int32).max
    if (long := np.flatnonzero(tokens > limit)).size:
        raise SimjaxError(f"{path}:{table.lines[long[0]]}: the session has grown to {tokens[long[0]]} tokens, more than {limit}")
    return tokens.astype(np.int32)


def _said(notes: Iterable[str | None]) -> list[str]:
    return [note for note in notes if note is not None]
