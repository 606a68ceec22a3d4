"""The record that describes a trace format, and the record that reading a file returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simjax.workload.workload import Workload


@dataclass(frozen=True)
class TraceFormat:
    """Column names of one kind of trace, enough to recognise a file and to read it.

    Columns are found by name, never by position: BurstGPT and Azure have both inserted columns between releases.

    Attributes:
        name: the format's name in `format=`.
        title: one line for help texts.
        container: "csv" (a header line; Parquet columns of the same names work too), "jsonl" (one object per line), "json" (one object
            per file, or a directory of such files) or "array" (a JSON list of objects).
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
            in between, in the unit of the arrivals. A later row without a pause is sent at its arrival, if the row before has finished.
        turn: column with the position of a row in its session; without it rows follow each other in the order of their arrivals.
        adds_tokens: whether the prompt column of a later row counts only what the row adds to everything said so far.
        call, parent: columns with the name of a request and with the name of the one that it continues.
        block_clocks: number of tokens that an id stands for -> units of the arrival column in a second, for files of other makers with the
            same columns.
        calls, call_delay, calls_name: column with a list of calls (objects with the columns above), each of which waits for the one before
            it; the key of the pause after a call, in the unit of the arrivals; and the column with the name of that session.
        results: columns with which a file is a simulation's result; where it has them all, it need not be said that they are not used.
        reader: function that reads the result file of a load generator, which is no table.
    """

    name: str
    title: str
    container: Literal["csv", "jsonl", "json", "array"]
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
    turn: str | None = None
    adds_tokens: bool = False
    call: str | None = None
    parent: str | None = None
    block_clocks: Mapping[int, float] = field(default_factory=dict)
    calls: str | None = None
    call_delay: str | None = None
    calls_name: str | None = None
    results: frozenset[str] = frozenset()
    reader: Callable[[Path], Recorded] | None = None

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
        sessions = (self.session, self.delay, self.turn, self.call, self.parent, self.calls, self.calls_name)
        return tuple(name for name in (*shared, *sessions) if name is not None)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Columns with lists of ids."""
        return tuple(name for name in (self.prompt_ids, self.output_ids) if name is not None)

    def recognises(self, columns: set[str]) -> bool:
        """Whether a file with these columns can be this format."""
        return columns.issuperset(self.required) or (self.calls is not None and columns.issuperset((self.arrival, self.calls)))


@dataclass(frozen=True)
class Schedule:
    """When the client of a load generator wanted to send its requests, as far as its result file tells.

    Attributes:
        rate: mean requests per second, infinite for all at once; None where it is not recorded.
        burstiness: shape of the gamma-distributed gaps between them; 1 is a Poisson process.
        max_concurrency: most requests in flight, None without a cap. A request waits for its turn, first come, first served.
        duration_s: seconds from the first request to the last answer, None where they are not recorded.
    """

    rate: float | None = None
    burstiness: float = 1.0
    max_concurrency: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class Recorded:
    """The requests of a load generator's result file, in its order; times in seconds on the clock of the file.

    Attributes:
        arrival_s: float64[R], when the client sent each; NaN in all rows where the file does not hold it.
        prompt_tokens, output_tokens: int64[R], numbers of tokens; -1 where they are not recorded.
        ttft_s, e2e_s: float64[R], from the sending to the first token and to the last one; NaN where that is not known.
        failed: bool[R], requests that failed or were cancelled.
        lines: int64[R], 1-based line of each request in the file, or its number where the file is one object.
        unused: names of values in the file that are not read.
        notes: what was assumed, one line each.
        model: model that was served; None where it is not recorded.
        server: what the file records of the server, by the names of vLLM's flags (`simjax.validate.formats.settings`).
        schedule: when the client wanted to send its requests.
        redraw: options that draw arrivals as the benchmark did, for files without them.
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    ttft_s: np.ndarray
    e2e_s: np.ndarray
    failed: np.ndarray
    lines: np.ndarray
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    model: str | None = None
    server: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = Schedule()
    redraw: str = ""


@dataclass(frozen=True)
class Reading:
    """How a file was read.

    Attributes:
        format: name of the format that it was read as.
        rows: number of data rows in the file, blank lines not counted.
        skipped: number of malformed rows that were left out (`on_bad_row="skip"`).
        dropped: number of requests that failed, or answered nothing, and were left out.
        zero_outputs: number of requests that answered nothing and are played with 1 output token.
        failed: number of other requests that the source marks as failed and that are played.
        clock: unit of the arrivals in the file; None where only lengths were read.
        tokens_per_id: number of tokens that an id in the file stands for; None in a file without ids.
        unused: columns that have no effect.
        notes: what was inferred or looks wrong, one line each.
    """

    format: str
    rows: int
    skipped: int = 0
    dropped: int = 0
    zero_outputs: int = 0
    failed: int = 0
    clock: str | None = None
    tokens_per_id: int | None = None
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceFile:
    """The contents of a trace file.

    Attributes:
        workload: the usable requests, sorted by arrival (ties keep the file's order), seconds from the first arrival.
        lines: int64[R], 1-based physical line of each request of `workload` in the file (1-based row in Parquet, 1-based call in a session
            file).
        reading: how the file was read.
    """

    workload: Workload
    lines: np.ndarray
    reading: Reading

    @property
    def format(self) -> str:
        """Name of the format that the file was read as."""
        return self.reading.format

    @property
    def rows(self) -> int:
        """Number of data rows in the file."""
        return self.reading.rows

    @property
    def skipped(self) -> int:
        """Number of malformed rows that were left out."""
        return self.reading.skipped

    @property
    def dropped(self) -> int:
        """Number of failed requests that were left out."""
        return self.reading.dropped


@dataclass(frozen=True)
class TraceLengths:
    """Prompt and output lengths of a file in its own order: int32[R] each."""

    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    reading: Reading

    @property
    def skipped(self) -> int:
        """Number of malformed rows that were left out."""
        return self.reading.skipped
