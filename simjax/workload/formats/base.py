"""The record that describes a trace format, and the record that reading a file returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simjax.workload.workload import Workload


@dataclass(frozen=True)
class TraceFormat:
    """Column names of one kind of trace, enough to recognise a file and to read it.

    Columns are found by name, never by position: BurstGPT and Azure have both inserted columns between releases.

    Attributes:
        name: the format's name in `format=`.
        title: one line for help texts.
        container: "csv" (a header line; Parquet columns of the same names work too), "jsonl" (one object per line) or "json" (one object
            per file, or a directory of such files).
        arrival, prompt, output: names of the columns that hold the arrival, the prompt tokens and the output tokens.
        stamps_per_second: units of the arrival column in a second; None for ISO 8601 date-times.
        arrival_optional: whether files without arrivals exist (usable for lengths only).
        fallback: whether the format is tried after all others.
        also: further columns that a file must have to be recognised.
        failed_column, failed: column that marks requests which failed when they were recorded, and the test of its value; such requests
            are dropped.
        prompt_ids, output_ids: columns with lists of ids that identify the tokens of the prompt and of the output.
        tokens_per_id: number of successive tokens that one of these ids stands for.
        prefix_key, prefix_tokens: columns with a key and a number of tokens: requests with the same key share that many leading tokens (of
            two numbers the smaller; without a number the whole prompt).
        session, delay: columns with the session of a request, which waits for the previous row of the same session, and with the pause
            in between.
        calls, call_delay, calls_name: column with a list of calls (objects with the columns above), each of which waits for the one before
            it; the key of the pause after a call, in the unit of the arrivals; and the column with the name of that session.
    """

    name: str
    title: str
    container: Literal["csv", "jsonl", "json"]
    arrival: str
    prompt: str
    output: str
    stamps_per_second: float | None = 1.0
    arrival_optional: bool = False
    fallback: bool = False
    also: tuple[str, ...] = ()
    failed_column: str | None = None
    failed: Callable[[object], bool] | None = None
    prompt_ids: str | None = None
    output_ids: str | None = None
    tokens_per_id: int = 1
    prefix_key: str | None = None
    prefix_tokens: str | None = None
    session: str | None = None
    delay: str | None = None
    calls: str | None = None
    call_delay: str | None = None
    calls_name: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Columns a file must have to be read as this format."""
        arrival = () if self.arrival_optional else (self.arrival,)
        return (*arrival, self.prompt, self.output, *self.also)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read when the file has them."""
        failed = () if self.failed_column is None else (self.failed_column,)
        return tuple(dict.fromkeys((self.arrival, self.prompt, self.output, *failed, *self.optional_columns)))

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """Columns that describe shared prefixes and dependencies."""
        shared = (*self.id_columns, self.prefix_key, self.prefix_tokens)
        return tuple(name for name in (*shared, self.session, self.delay, self.calls, self.calls_name) if name is not None)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Columns with lists of ids."""
        return tuple(name for name in (self.prompt_ids, self.output_ids) if name is not None)

    def recognises(self, columns: set[str]) -> bool:
        """Whether a file with these columns can be this format."""
        return columns.issuperset(self.required) or (self.calls is not None and columns.issuperset((self.arrival, self.calls)))


@dataclass(frozen=True)
class TraceFile:
    """The contents of a trace file.

    Attributes:
        workload: the usable requests, sorted by arrival (ties keep the file's order), seconds from the first arrival.
        lines: int64[R], 1-based physical line of each request of `workload` in the file (1-based row in Parquet, 1-based call in a session
            file).
        format: name of the format that it was read as.
        rows: number of data rows in the file, blank lines not counted.
        skipped: number of malformed rows that were left out (`on_bad_row="skip"`).
        dropped: number of requests that the source marks as failed.
    """

    workload: Workload
    lines: np.ndarray
    format: str
    rows: int
    skipped: int
    dropped: int
