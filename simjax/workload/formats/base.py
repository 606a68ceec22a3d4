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
        container: "csv" (a header line; Parquet columns of the same names work too) or "jsonl" (one object a line).
        arrival, prompt, output: names of the columns that hold the arrival, the prompt tokens and the output tokens.
        stamps_per_second: units of the arrival column in a second; None for ISO 8601 date-times.
        arrival_optional: whether files without arrivals exist (usable for lengths only).
        also: further columns that a file must have to be recognised.
        failed_column, failed: a request whose `failed_column` makes `failed` true was recorded by the source as a failure; it never ran
            and is dropped.
        refused_column, refused: rows with this key are refused with this reason, whatever `on_bad_row` says.
    """

    name: str
    title: str
    container: Literal["csv", "jsonl"]
    arrival: str
    prompt: str
    output: str
    stamps_per_second: float | None = 1.0
    arrival_optional: bool = False
    also: tuple[str, ...] = ()
    failed_column: str | None = None
    failed: Callable[[object], bool] | None = None
    refused_column: str | None = None
    refused: str = ""

    @property
    def required(self) -> tuple[str, ...]:
        """Columns a file must have to be read as this format."""
        arrival = () if self.arrival_optional else (self.arrival,)
        return (*arrival, self.prompt, self.output, *self.also)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read when the file has them."""
        extra = [name for name in (self.failed_column, self.refused_column) if name is not None]
        return tuple(dict.fromkeys((self.arrival, self.prompt, self.output, *extra)))

    def recognises(self, columns: set[str]) -> bool:
        """Whether a file with these columns looks like this format."""
        return columns.issuperset(self.required) or (self.refused_column is not None and self.refused_column in columns)


@dataclass(frozen=True)
class TraceFile:
    """A trace that was read.

    Attributes:
        workload: the usable requests, sorted by arrival (ties keep the file's order), seconds from the first arrival.
        lines: int64[R], where each request of `workload` stands: 1-based physical line of the file (1-based row for Parquet).
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
