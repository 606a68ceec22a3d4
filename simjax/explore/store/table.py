"""Readers of the tables of a sweep's directory, while the sweep runs, after it was killed, or when its shards ran on several hosts."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simjax.disk.files import read_bytes, text_of_cell
from simjax.errors import SimjaxError
from simjax.explore.store.directory import DESIGNS, RESULTS, files_of, resume_options, sweep_directory
from simjax.explore.store.manifest import check_header
from simjax.explore.store.records import CHECK, records, unsealed
from simjax.explore.store.results_file import CHANGED
from simjax.metrics.rows import METRICS


def read_results(directory: str | Path) -> pd.DataFrame:
    """The completed points of a sweep, one row each, in the order of their numbers.

    Joins `results.csv` of the directory and of its shards. If a point occurs twice, the last row counts (the shards' rows come after the
    directory's own, in the order of their names). An incomplete last line, which a killed sweep leaves, is ignored.

    Returns:
        A table with columns `point` (int64), the swept keys, `status`, `reason` and the metrics. Floats are exactly those that were
        written; whole numbers stay whole (Int64 where cells are empty); empty cells are missing values; truth values of keys are strings,
        `true` and `false`, as in Hydra's overrides.

    Raises:
        SimjaxError: the directory does not exist or holds no sweep, no point is completed yet, or a table is damaged.
    """
    path = sweep_directory(directory)
    table = _read(files_of(path, RESULTS))
    if len(table) == 0:
        raise SimjaxError(f"{path}: no point of this sweep is done yet; resume it with {resume_options(path)}")
    for name in ("point", "status"):
        if name not in table.columns:
            raise SimjaxError(f"{path}: not the results of a sweep: {RESULTS} has no column '{name}'")
    if table["point"].dtype != np.int64:
        raise SimjaxError(
            f"{path}: {RESULTS} is damaged: column 'point' must hold numbers of points; remove the lines in which it does not"
        )
    for name in (name for name in METRICS if name in table.columns):
        if table[name].dtype == object and (words := [value for value in table[name] if value is not None and value == value]):
            raise SimjaxError(f"{path}: {RESULTS} is damaged: {name} must hold numbers, not {str(words[0])[:40]!r}")
    if "reason" in table.columns:
        table["reason"] = [text_of_cell(reason) if isinstance(reason, str) else reason for reason in table["reason"]]
    table = table.drop_duplicates("point", keep="last").sort_values("point", ignore_index=True).astype({"point": "int64"})
    return table.copy()  # in few blocks: pandas warns of a hundred single columns when one is added


def read_designs(directory: str | Path) -> pd.DataFrame | None:
    """The designs of a sweep with replicate seeds, one row each, from its `designs.csv`; None if there is none.

    Designs of shards are not joined, since the seeds of a design may lie in several shards; instead,
    `simjax.explore.pareto.replicates.aggregate` makes designs from the table of `read_results`.

    Raises:
        SimjaxError: the directory does not exist or holds no sweep, or the table is damaged.
    """
    own = sweep_directory(directory) / DESIGNS
    table = _read([own]) if own.is_file() else ()
    return table if isinstance(table, pd.DataFrame) and len(table) else None


def swept_keys(table: pd.DataFrame) -> list[str]:
    """The columns of `read_results` that hold the swept keys: those between `point` and `status`."""
    names = [str(name) for name in table.columns]
    return names[names.index("point") + 1 : names.index("status")]


def _read(files: list[Path]) -> pd.DataFrame:
    """CSVs with the same header as one table; a file without a complete header is ignored."""
    texts = {file: _checked(file, text) for file in files if (text := _whole_lines(file))}
    headers = {file: text.partition(b"\n")[0].rstrip(b"\r") for file, text in texts.items()}
    first = next(iter(texts), None)
    if first is None:
        return pd.DataFrame()
    for file, header in headers.items():
        if header != headers[first]:
            raise SimjaxError(f"{file}: its columns are not those of {first}; these are tables of different sweeps")
    joined = b"".join([headers[first] + b"\n", *(text.partition(b"\n")[2] for text in texts.values())])
    try:
        return _parse(first, joined)
    except SimjaxError:
        for file, text in texts.items():  # to name the damaged file and its own line number
            _parse(file, text)
        raise


def _checked(file: Path, text: bytes) -> bytes:
    """The lines of a CSV without the column of checksums; those of a table that has none are taken as they are.

    Raises:
        SimjaxError: a checksum is not that of its row, or the header is not that of the sweep beside the file.
    """
    header, _, rest = text.partition(b"\n")
    if file.name == RESULTS:
        check_header(file, header.rstrip(b"\r"))
    columns, _, last = header.rstrip(b"\r").rpartition(b",")
    if last != CHECK.encode():
        return text
    lines = []
    for number, line in enumerate(records(rest), 1):
        found = unsealed(line) if line.strip() else line
        if found is None:
            raise SimjaxError(f"{file}: {CHANGED.format(number)}")
        lines.append(found)
    return b"".join([columns, b"\n", *lines])


def _whole_lines(file: Path) -> bytes:
    """The content of a file without an incomplete last line."""
    content = read_bytes(file)
    end = content.rfind(b"\n") + 1
    while content.count(b'"', 0, end) % 2:  # this line end lies within a cell
        end = content.rfind(b"\n", 0, end - 1) + 1
    return content[:end].lstrip()


def _parse(file: Path, text: bytes) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            table = pd.read_csv(
                io.BytesIO(text), keep_default_na=False, na_values=[""], dtype_backend="numpy_nullable", index_col=False, low_memory=False,
                **_exact_floats(),
            )  # fmt: skip
    except UnicodeDecodeError as error:
        raise SimjaxError(f"{file}: not a text file") from error
    except pd.errors.ParserWarning as error:
        raise SimjaxError(f"{file}: damaged: lines have more fields than the header") from error
    except (pd.errors.ParserError, ValueError) as error:
        raise SimjaxError(f"{file}: damaged: {str(error).removeprefix('Error tokenizing data. C error: ').strip()}") from error
    return table.apply(_plain)


def _exact_floats() -> dict[str, Any]:
    """Options with which pandas reads floats to the last bit; none since 3.1, which deprecates the option."""
    version = tuple(int(part) for part in pd.__version__.split(".")[:2])
    return {} if version >= (3, 1) else {"float_precision": "round_trip"}


def _plain(column: pd.Series) -> pd.Series:
    """A nullable column converted to the type that pandas users expect: numpy's types, except for whole numbers with empty cells."""
    if pd.api.types.is_bool_dtype(column):
        return column.map({True: "true", False: "false"}).astype(object)
    if pd.api.types.is_float_dtype(column) or column.isna().all():
        return pd.Series(column.to_numpy("float64", na_value=float("nan")), index=column.index, name=column.name)
    if pd.api.types.is_integer_dtype(column):
        return column if column.isna().any() else column.astype("int64")
    return column.astype(object).where(column.notna(), None)
