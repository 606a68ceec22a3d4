"""What a trace format is, and what reading a file gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simjax.workload.workload import Workload


@dataclass(frozen=True)
class TraceFormat:
    """How one kind of trace names its columns: enough to recognise a file and to read it.

    Columns are found by name, never by position: BurstGPT and Azure have both inserted columns between releases.

    Attributes:
        name: what the user writes in `format=`.
        title: one line for help texts.
        container: "csv" (a header line; Parquet columns of the same names work too), "jsonl" (one object a line) or "json" (one object a
            file, or a directory of such files).
        arrival, prompt, output: names of the columns that hold the arrival, the prompt tokens and the output tokens.
        stamps_per_second: units of the arrival column in a second; None for ISO 8601 date-times.
        arrival_optional: whether files without arrivals exist (usable for lengths only).
        also: further columns that a file must have to be recognised.
        failed_column, failed: a request whose `failed_column` makes `failed` true was recorded by the source as a failure; it never ran
            and is dropped.
        prompt_ids, output_ids: columns of lists of ids that tell what the prompt's and the output's tokens are.
        tokens_per_id: successive tokens that an id of these stands for.
        prefix_key, prefix_tokens: columns of the plain way to tell what is shared: requests of equal key share so many first tokens (of two
            numbers the smaller; without a number the whole prompt).
        session, delay: columns of the session of a request, which waits for the row before it of that session, and of the pause in between.
        calls, call_delay, calls_name: column of a list of calls (objects with the columns above), each of which waits for the one before
            it, the key of the pause after a call, in the unit of the arrivals, and the column of the name of that session.
    """

    name: str
    title: str
    container: Literal["csv", "jsonl", "json"]
    arrival: str
    prompt: str
    output: str
    stamps_per_second: float | None = 1.0
    arrival_optional: bool = False
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
        """Columns that tell about sharing and waiting."""
        shared = (*self.id_columns, self.prefix_key, self.prefix_tokens)
        return tuple(name for name in (*shared, self.session, self.delay, self.calls, self.calls_name) if name is not None)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Columns of lists of ids."""
        return tuple(name for name in (self.prompt_ids, self.output_ids) if name is not None)

    def recognises(self, columns: set[str]) -> bool:
        """Whether a file with these columns looks like this format."""
        return columns.issuperset(self.required) or (self.calls is not None and columns.issuperset((self.arrival, self.calls)))


@dataclass(frozen=True)
class TraceFile:
    """A trace that was read.

    Attributes:
        workload: the usable requests, sorted by arrival (ties keep the file's order), seconds from the first arrival.
        lines: int64[R], where each request of `workload` stands: 1-based physical line of the file (1-based row for Parquet, 1-based call
            of a session file).
        format: name of the format it was read as.
        rows: data rows in the file, blank lines not counted.
        skipped: malformed rows that were left out (`on_bad_row="skip"`).
        dropped: requests that the source marks as failed.
    """

    workload: Workload
    lines: np.ndarray
    format: str
    rows: int
    skipped: int
    dropped: int
