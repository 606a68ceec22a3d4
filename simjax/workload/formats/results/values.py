"""Values of JSON documents that a load generator wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.tables.json_text import json_value
from simjax.workload.formats.tables.rows import user_errors
from simjax.workload.formats.tables.text import is_comment, open_text


def documents(path: Path) -> list[tuple[int, Any]]:
    """The JSON values in a file with their lines: one, or one per line.

    Raises:
        SimjaxError: the file cannot be read, or is not JSON.
    """
    with user_errors(path), open_text(path) as text:
        whole = text.read()
    try:
        return [(1, json_value(whole))]
    except ValueError:
        lines = [(number, line) for number, line in enumerate(whole.splitlines(), start=1) if line.strip() and not is_comment(line)]
    found = []
    for number, line in lines:
        try:
            found.append((number, json_value(line)))
        except ValueError as error:
            raise SimjaxError(f"{path}:{number}: not valid JSON ({error})") from None
    return found


def one_object(path: Path) -> dict[str, Any]:
    """The only object in a file.

    Raises:
        SimjaxError: it holds none, or several.
    """
    found = documents(path)
    if len(found) != 1:
        raise SimjaxError(f"{path}: it holds the results of {len(found)} benchmarks, one a line; keep one of them, for example tail -n 1")
    if not isinstance(found[0][1], dict):
        raise SimjaxError(f"{path}: not a JSON object")
    return found[0][1]


def beside(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in another file of the same folder; empty where there is none, or it cannot be read."""
    try:
        return one_object(path.with_name(name))
    except SimjaxError:
        return {}


def look_up(value: Any, *dotted: str) -> Any:
    """The value under the first of the dotted paths such as `info.input_tokens` that has one; None where none has."""
    for path in dotted:
        found = value
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None


def numbers(values: Sequence[Any], name: str, where: str) -> np.ndarray:
    """float64[n], NaN for values that are None.

    Raises:
        SimjaxError: a value is something else than a number.
    """
    for at, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise SimjaxError(f"{where}: {name} of request {at + 1} is {str(value)[:40]!r}, not a number")
    return np.array([np.nan if value is None else value for value in values], np.float64)


def counts(values: Sequence[Any], name: str, where: str) -> np.ndarray:
    """int64[n], numbers of tokens, -1 for values that are None; errors as in `numbers`."""
    return np.nan_to_num(np.minimum(numbers(values, name, where), 2.0**31), nan=-1.0).astype(np.int64)
