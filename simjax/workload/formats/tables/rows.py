"""Raw rows of a file with their line numbers: CSV, JSON and Parquet, in chunks of bounded memory."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.tables.json_text import array, json_lines, json_object, whole_json
from simjax.workload.formats.tables.text import Dialect, dialect_of, is_comment, open_text

_CHUNK_ROWS = 65_536  # keeps a 27-million-row trace within tens of MB of raw strings
_SNIFFED_LINES = 20  # JSON objects read to learn the keys: the first ones may be malformed
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_ID_LIST = re.compile(r"[\[(]?\s*(\d+(?:[\s|;,]+\d+)*)?\s*[\])]?")


@dataclass(frozen=True)
class Header:
    """The container of a file and the names of its columns; `dialect` is that of a CSV file.

    A "json" file is one object, an "array" a JSON list of objects, a "jsonl" file holds one object per line.
    """

    container: Literal["csv", "jsonl", "json", "array", "parquet"]
    columns: tuple[str, ...]
    dialect: Dialect = field(default_factory=lambda: Dialect(()))


@dataclass
class Chunk:
    """Consecutive rows.

    Attributes:
        lines: 1-based physical line of each row (1-based row in Parquet and in a JSON array).
        columns: raw values by column name, None where a row has no such field. In columns of ids, lists of whole numbers are int64 arrays.
        broken: rows that could not be split into fields: position in the chunk -> reason.
        places: position of each call within its row, as a prefix for messages, in a chunk of calls (see
            `simjax.workload.formats.tables.calls`); empty otherwise.
        keys: names of the columns in the file, as far as these rows show them.
    """

    lines: list[int] = field(default_factory=list)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


def read_header(path: Path) -> Header:
    """The container and the column names of a file, from its first lines.

    Raises:
        SimjaxError: the file is missing, empty or not a table.
    """
    with user_errors(path):
        with path.open("rb") as raw:
            if raw.read(4) == b"PAR1":
                return Header("parquet", tuple(_open_parquet(path).schema_arrow.names))
        with open_text(path) as text:
            lines = list(itertools.islice((line for line in text if line.strip() and not is_comment(line)), _SNIFFED_LINES))
        if not lines:
            raise SimjaxError(f"{path}: the file is empty")
        start = lines[0].lstrip()
        if start.startswith("["):
            objects = [row for row in array(path)[:_SNIFFED_LINES] if isinstance(row, dict)]
            return Header("array", tuple(dict.fromkeys(key for row in objects for key in row)))
        if start.startswith("{"):
            objects = [row for row in map(json_object, lines) if isinstance(row, dict)]
            if not objects and isinstance(whole := whole_json(path), dict):
                return Header("json", tuple(whole))
            return Header("jsonl", tuple(dict.fromkeys(key for row in objects for key in row)))
        with open_text(path) as text:
            dialect = dialect_of(text)
        return Header("csv", dialect.names, dialect)


def read_chunks(path: Path, header: Header, columns: Mapping[str, str], ids: tuple[str, ...] = ()) -> Iterator[Chunk]:
    """The rows of a file, restricted to `columns`.

    Args:
        path: the file.
        header: what `read_header` found.
        columns: names in the chunks -> names in the file; values are None where a row has none.
        ids: those of the columns that hold lists of ids.

    Raises:
        SimjaxError: the file cannot be read to its end.
    """
    readers = {"csv": _csv_chunks, "parquet": _parquet_chunks}
    with user_errors(path):
        yield from readers.get(header.container, _json_chunks)(path, header, columns, ids)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that makes up a file.

    Raises:
        SimjaxError: the file cannot be read, or holds something else.
    """
    with user_errors(path):
        whole = whole_json(path)
    if not isinstance(whole, dict):
        raise SimjaxError(f"{path}: {whole if isinstance(whole, str) else 'not a JSON object'}")
    return whole


def id_array(value: Any) -> Any:
    """A list of whole numbers, or a text that lists them ("11|22|33"), as int64[n]; an empty text as None, anything else as it is."""
    if isinstance(value, str):
        if not value.strip():
            return None
        found = _ID_LIST.fullmatch(value.strip())
        value = value if found is None else [int(number) for number in re.findall(r"\d+", found[1] or "")]
    if not isinstance(value, list):
        return value
    try:
        ids = np.array(value) if value else np.zeros(0, np.int64)
    except (ValueError, OverflowError):  # ragged, or beyond 64 bits
        return value
    return ids.astype(np.int64) if ids.ndim == 1 and ids.dtype.kind in "iu" else value


def _csv_chunks(path: Path, header: Header, columns: Mapping[str, str], ids: tuple[str, ...]) -> Iterator[Chunk]:
    dialect, names = header.dialect, header.columns
    with open_text(path) as text:
        for _ in range(dialect.skip):
            next(text)
        reader = csv.reader(text, delimiter=dialect.delimiter)
        if dialect.headed:
            next(reader)
        numbered = _numbered(reader, dialect.skip, len(names))
        while rows := list(itertools.islice(numbered, _CHUNK_ROWS)):
            chunk = Chunk(lines=[line for line, _ in rows])
            fields = [row for _, row in rows]
            for i, row in enumerate(fields):
                if len(row) != len(names):
                    chunk.broken[i] = f"{len(row)} fields where the header names {len(names)}"
                    fields[i] = [""] * len(names)
            for name, in_file in columns.items():
                at = names.index(in_file) if in_file in names else None
                values: list[Any] = [None] * len(fields) if at is None else [row[at] for row in fields]
                if name in ids:
                    values = [id_array(value) for value in values]
                elif dialect.decimal_comma and at is not None:
                    values = [value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value.strip()) else value for value in values]
                chunk.columns[name] = values
            yield chunk


def _numbered(reader: Any, skipped: int, width: int) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with the physical line each starts on (a quoted field may span several), without blank lines and comments."""
    line = skipped + reader.line_num + 1
    for row in reader:
        comment = len(row) != width and row and is_comment(row[0])
        if not comment and row and (len(row) > 1 or row[0].strip()):
            yield line, row
        line = skipped + reader.line_num + 1


def _json_chunks(path: Path, header: Header, columns: Mapping[str, str], ids: tuple[str, ...]) -> Iterator[Chunk]:
    numbered = enumerate(array(path), start=1) if header.container == "array" else json_lines(path)
    while rows := list(itertools.islice(numbered, _CHUNK_ROWS)):
        chunk = Chunk(lines=[line for line, _ in rows], columns={name: [] for name in columns})
        fields = [(in_file, name in ids, chunk.columns[name]) for name, in_file in columns.items()]
        for i, (_, row) in enumerate(rows):
            if not isinstance(row, dict):
                chunk.broken[i] = row if isinstance(row, str) else "not a JSON object"
                row = {}
            chunk.keys.update(row)
            for in_file, has_ids, values in fields:
                value = row.get(in_file)
                values.append(id_array(value) if has_ids else value)
        yield chunk


def _parquet_chunks(path: Path, header: Header, columns: Mapping[str, str], ids: tuple[str, ...]) -> Iterator[Chunk]:
    parquet = _open_parquet(path)
    present = [in_file for in_file in dict.fromkeys(columns.values()) if in_file in header.columns]
    start = 1
    for rows in parquet.iter_batches(batch_size=_CHUNK_ROWS, columns=present):
        values = {name: rows.column(at).to_pylist() if at in present else [None] * rows.num_rows for name, at in columns.items()}
        values.update({name: [id_array(value) for value in values[name]] for name in ids if name in values})
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


@contextmanager
def user_errors(path: Path) -> Iterator[None]:
    """Turn errors while reading a file into one-line messages for the user."""
    try:
        yield
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SimjaxError(f"{path}: a directory, not a trace file") from None
    except UnicodeError:
        raise SimjaxError(f"{path}: not a text file (neither UTF-8 nor UTF-16, plain, gzip or zstd, and no Parquet)") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SimjaxError(f"{path}: damaged gzip file ({error})") from None
    except csv.Error as error:
        raise SimjaxError(f"{path}: not a CSV file ({error})") from None
    except OSError as error:
        raise SimjaxError(f"{path}: {error.strerror or error}") from None
