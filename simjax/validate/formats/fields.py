"""Readers for the files of a measured run; errors are one line that names the file and the field."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from simjax.errors import SimjaxError


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file.

    Raises:
        SimjaxError: the file is missing, cannot be parsed, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SimjaxError(f"{path}: not valid {path.suffix[1:]} ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise SimjaxError(f"{path}: expected a mapping of names to values, found {type(content).__name__}")
    return content


def find(mapping: dict[str, Any], dotted: str) -> Any:
    """The value under a dotted path such as `kv_cache.num_gpu_blocks`, None where a part is missing or null."""
    value: Any = mapping
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def require(mapping: dict[str, Any], dotted: str, path: Path) -> Any:
    """The value found by `find`; raises a SimjaxError that names the file and the field if it is missing."""
    value = find(mapping, dotted)
    if value is None:
        raise SimjaxError(f"{path}: the field {dotted} is missing")
    return value


def number(value: Any, name: str, path: Path) -> float:
    """`value` as a float; raises a SimjaxError unless it is a finite number (booleans are not numbers)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
        raise SimjaxError(f"{path}: {name} must be a number, found {value!r}")
    return float(value)


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file (gzip by its suffix) with at least the given columns and one row.

    Raises:
        SimjaxError: the file is missing or not a CSV, lacks a column, or has no row.
    """
    try:
        table = pd.read_csv(path)
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:  # pandas' parser errors are ValueErrors, a cut-off gzip file is an EOFError
        raise SimjaxError(f"{path}: not a CSV table ({' '.join(str(error).split())})") from None
    if missing := [name for name in columns if name not in table.columns]:
        raise SimjaxError(f"{path}: the column {missing[0]} is missing; it has {', '.join(map(str, table.columns))}")
    if len(table) == 0:
        raise SimjaxError(f"{path}: the table is empty")
    return table


def numeric(table: pd.DataFrame, column: str, path: Path, rows: np.ndarray | None = None) -> np.ndarray:
    """The cells of a column as float64, where `rows` (bool) is true; raises a SimjaxError at the first that is not a finite number."""
    values = np.asarray(pd.to_numeric(table[column], errors="coerce"), dtype=np.float64)
    wanted = np.ones(len(values), bool) if rows is None else rows
    if (bad := np.flatnonzero(~np.isfinite(values) & wanted)).size:
        cell, where = table[column].iloc[bad[0]], f"{path}:{bad[0] + 2}"  # line 1 holds the names
        empty = cell is None or (isinstance(cell, float) and math.isnan(cell))
        raise SimjaxError(f"{where}: {column} is empty" if empty else f"{where}: {column}={cell} is not a number")
    return values[wanted]


def read_lines(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file, each a mapping that has `keys` (values may be null); blank lines are skipped."""
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for at, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(_row(line, keys, f"{path}:{at}"))
    except OSError as error:
        raise SimjaxError(f"{path}: cannot be read ({error.strerror})") from None
    if not rows:
        raise SimjaxError(f"{path}: the file has no rows")
    return rows


def _row(line: str, keys: Sequence[str], where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SimjaxError(f"{where}: not a JSON object ({error})") from None
    if not isinstance(row, dict):
        raise SimjaxError(f"{where}: expected a JSON object, found {type(row).__name__}")
    if missing := [key for key in keys if key not in row]:
        raise SimjaxError(f"{where}: the field {missing[0]} is missing")
    for key in keys:
        if row[key] is not None and (isinstance(row[key], bool) or not isinstance(row[key], int | float)):
            raise SimjaxError(f"{where}: {key} must be a number, found {row[key]!r}")
        if row[key] is not None and not math.isfinite(row[key]):  # Python writes NaN and Infinity into JSON
            raise SimjaxError(f"{where}: {key} is {row[key]}, not a number; a request without it has null there")
    return row
