"""Raw rows of a file with their line numbers: CSV, JSON Lines and Parquet, plain or gzipped, in chunks of bounded memory."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from simjax.errors import SimjaxError

_CHUNK_ROWS = 65_536  # keeps a 27-million-row trace within tens of MB of raw strings
_SNIFFED_LINES = 20  # JSON objects read to learn the keys: the first ones may be malformed


@dataclass(frozen=True)
class Header:
    """The container of a file and the names of its columns."""

    container: Literal["csv", "jsonl", "json", "parquet"]
    columns: tuple[str, ...]


@dataclass
class Chunk:
    """Consecutive rows.

    Attributes:
        lines: 1-based physical line of each row.
        columns: raw values by column name, None where a row has no such field. In columns of ids, lists of whole numbers are int64 arrays.
        broken: rows that could not be split into fields: position in the chunk -> reason.
        places: position of each call within its row, as a prefix for messages, in a chunk of calls (see
            `simjax.workload.formats.tables.calls`); empty otherwise.
    """

    lines: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)


def read_header(path: Path) -> Header:
    """The container and the column names of a file, from its first lines.

    Raises:
        SimjaxError: the file is missing, empty or not a table.
    """
    with _user_errors(path):
        with path.open("rb") as raw:
            if raw.read(4) == b"PAR1":
                return Header("parquet", tuple(_open_parquet(path).schema_arrow.names))
        with _open_text(path) as text:
            lines = list(itertools.islice((line for line in text if line.strip()), _SNIFFED_LINES))
        if not lines:
            raise SimjaxError(f"{path}: the file is empty")
        start = lines[0].lstrip()
        if start.startswith("["):
            raise SimjaxError(f"{path}: a JSON array; traces in JSON hold one object per line (JSON Lines)")
        if start.startswith("{"):
            objects = [row for row in map(_json_object, lines) if isinstance(row, dict)]
            if not objects and isinstance(whole := _whole_json(path), dict):
                return Header("json", tuple(whole))
            return Header("jsonl", tuple(dict.fromkeys(key for row in objects for key in row)))
        return Header("csv", tuple(name.strip() for name in next(csv.reader([lines[0]]))))


def read_chunks(path: Path, container: str, columns: tuple[str, ...], ids: tuple[str, ...] = ()) -> Iterator[Chunk]:
    """The rows of a file, restricted to `columns` (None where absent); `ids` are those of them that hold lists of ids.

    Raises:
        SimjaxError: the file cannot be read to its end.
    """
    with _user_errors(path):
        if container == "jsonl":
            yield from _jsonl_chunks(path, columns, ids)
        else:
            yield from (_parquet_chunks if container == "parquet" else _csv_chunks)(path, columns)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that makes up a file.

    Raises:
        SimjaxError: the file cannot be read, or holds something else.
    """
    with _user_errors(path):
        whole = _whole_json(path)
    if not isinstance(whole, dict):
        raise SimjaxError(f"{path}: {whole if isinstance(whole, str) else 'not a JSON object'}")
    return whole


def id_array(value: Any) -> Any:
    """A list of whole numbers as int64[n], anything else as it is."""
    if not isinstance(value, list):
        return value
    try:
        ids = np.array(value) if value else np.zeros(0, np.int64)
    except (ValueError, OverflowError):  # ragged, or beyond 64 bits
        return value
    return ids.astype(np.int64) if ids.ndim == 1 and ids.dtype.kind in "iu" else value


def _whole_json(path: Path) -> Any:
    """The value in a JSON file, or as text why it is not JSON."""
    with _open_text(path) as text:
        try:
            return json.load(text)
        except json.JSONDecodeError as error:
            return f"not valid JSON at line {error.lineno} column {error.colno}: {error.msg.removesuffix(' at').lower()}"


def _csv_chunks(path: Path, columns: tuple[str, ...]) -> Iterator[Chunk]:
    with _open_text(path) as text:
        reader = csv.reader(text)
        names = [name.strip() for name in next(row for row in reader if any(map(str.strip, row)))]
        numbered = _numbered(reader)
        while rows := list(itertools.islice(numbered, _CHUNK_ROWS)):
            chunk = Chunk(lines=[line for line, _ in rows])
            fields = [row for _, row in rows]
            for i, row in enumerate(fields):
                if len(row) != len(names):
                    chunk.broken[i] = f"{len(row)} fields where the header names {len(names)}"
                    fields[i] = [""] * len(names)
            for name in columns:
                at = names.index(name) if name in names else None
                chunk.columns[name] = [None] * len(fields) if at is None else [row[at] for row in fields]
            yield chunk


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Non-blank CSV rows with the physical line each starts on (a quoted field may span several)."""
    line = reader.line_num + 1
    for row in reader:
        if row and (len(row) > 1 or row[0].strip()):
            yield line, row
        line = reader.line_num + 1


def _jsonl_chunks(path: Path, columns: tuple[str, ...], ids: tuple[str, ...]) -> Iterator[Chunk]:
    with _open_text(path) as text:
        numbered = ((number, line) for number, line in enumerate(text, start=1) if line.strip())
        while rows := list(itertools.islice(numbered, _CHUNK_ROWS)):
            chunk = Chunk(lines=[line for line, _ in rows], columns={name: [] for name in columns})
            for i, (_, line) in enumerate(rows):
                row = _json_object(line)
                if isinstance(row, str):
                    chunk.broken[i] = row
                    row = {}
                for name, values in chunk.columns.items():
                    values.append(id_array(row.get(name)) if name in ids else row.get(name))
            yield chunk


def _json_object(line: str) -> dict[str, Any] | str:
    """The object on a line, or why there is none."""
    try:
        row = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        return f"not valid JSON at column {error.colno}: {error.msg.removesuffix(' at').lower()}"
    return row if isinstance(row, dict) else "not a JSON object"


def _parquet_chunks(path: Path, columns: tuple[str, ...]) -> Iterator[Chunk]:
    parquet = _open_parquet(path)
    present = [name for name in columns if name in parquet.schema_arrow.names]
    start = 1
    for rows in parquet.iter_batches(batch_size=_CHUNK_ROWS, columns=present):
        values = {name: rows.column(name).to_pylist() if name in present else [None] * rows.num_rows for name in columns}
        yield Chunk(lines=list(range(start, start + rows.num_rows)), columns=values)
        start += rows.num_rows


def _open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise SimjaxError(f'{path}: reading Parquet needs pyarrow: pip install "simjax[parquet]"') from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid:
        raise SimjaxError(f"{path}: damaged Parquet file") from None


def _open_text(path: Path) -> IO[str]:
    """A text stream that keeps line ends for the csv module; gzip is recognised by its magic bytes, a byte-order mark is removed."""
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    opener: Any = gzip.open if zipped else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


@contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turn errors while reading a file into one-line messages for the user."""
    try:
        yield
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SimjaxError(f"{path}: a directory, not a trace file") from None
    except UnicodeDecodeError:
        raise SimjaxError(f"{path}: not a text file (neither UTF-8 text, gzip nor Parquet)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SimjaxError(f"{path}: damaged gzip file ({error})") from None
    except csv.Error as error:
        raise SimjaxError(f"{path}: not a CSV file ({error})") from None
    except OSError as error:
        raise SimjaxError(f"{path}: {error.strerror or error}") from None
