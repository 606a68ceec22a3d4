"""Tables with a row a request and its times: the `requests.csv` of a simulation, or one of your own.

Columns beside `arrival_s`, `prompt_tokens`, `output_tokens`: when the first token came, and when the last one did, each as a stamp on the
clock of `arrival_s` or as a time since then, in seconds or ms (`FIRST`, `LAST`); perhaps `status` or `error`. It is the format `plain` of
traces, which takes no notice of the times.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded
from simjax.workload.formats.tables.rows import Header, read_chunks

FIRST = {"ttft_s": 1.0, "ttft_ms": 1e-3, "first_token_s": None, "ttft": 1.0, "time_to_first_token_ms": 1e-3}
LAST = {"e2e_s": 1.0, "e2e_ms": 1e-3, "latency_s": 1.0, "latency_ms": 1e-3, "finish_s": None, "e2e": 1.0, "latency": 1.0}
PER_TOKEN = {"tpot_s": 1.0, "tpot_ms": 1e-3, "itl_s": 1.0, "itl_ms": 1e-3}
"""Columns, with the seconds in their unit; None for a stamp."""
_SUCCEEDED = ("", "ok", "finished", "success", "succeeded", "successful", "true", "200", "stop", "length")
_NO_ERROR = ("", "0", "0.0", "none", "null", "false", "nan")


def read_timed_table(path: Path, header: Header, columns: dict[str, str]) -> Recorded:
    """The requests of a table.

    Args:
        path: the file.
        header: its header.
        columns: names of the three columns of the format -> names in the file.

    Raises:
        SimjaxError: it has no column for the first or the last token, or a cell is no number.
    """
    names = {_plain(name): name for name in reversed(header.columns)}
    first = next((name for name in FIRST if name in names), None)
    last = next((name for name in (*LAST, *PER_TOKEN) if name in names), None)
    if first is None or last is None:
        missing = [
            f"{what} ({', '.join(of)})"
            for what, of, has in (("the first token", FIRST, first), ("the last token", (*LAST, *PER_TOKEN), last))
            if has is None
        ]
        raise SimjaxError(
            f"{path}: no column for {' or '.join(missing)}, so there is nothing to compare with; it has {', '.join(header.columns)}"
        )
    wanted = (
        columns
        | {key: names[key] for key in ("status", "error", "due_s", "model") if key in names}
        | {first: names[first], last: names[last]}
    )
    cells: dict[str, list[Any]] = {name: [] for name in wanted}
    lines: list[int] = []
    for chunk in read_chunks(path, header, wanted):
        if chunk.broken:
            at = min(chunk.broken)
            raise SimjaxError(f"{path}:{chunk.lines[at]}: {chunk.broken[at]}")
        lines += chunk.lines
        for name, values in cells.items():
            values += chunk.columns[name]
    failed = _failed(cells)
    number = lambda name: _numbers(cells[name], lines, path, name)
    arrival_s, output = number("arrival_s"), number("output_tokens")
    since = lambda name, unit: number(name) - arrival_s if unit is None else number(name) * unit
    ttft_s = since(first, FIRST[first])
    e2e_s = since(last, LAST[last]) if last in LAST else ttft_s + number(last) * PER_TOKEN[last] * np.maximum(output - 1, 0)
    one_token = np.isnan(e2e_s) & (output == 1) if last in PER_TOKEN else np.zeros(len(lines), bool)
    models = {str(name) for name in cells.get("model", []) if name not in (None, "")}
    if len(models) > 1:
        raise SimjaxError(f"{path}: requests of {len(models)} models ({', '.join(sorted(models)[:4])}); keep those of one")
    return Recorded(
        arrival_s=arrival_s,
        prompt_tokens=_counts(number("prompt_tokens")),
        output_tokens=_counts(output),
        ttft_s=ttft_s,
        e2e_s=np.where(one_token, ttft_s, e2e_s),
        failed=failed,
        lines=np.array(lines, np.int64),
        model=next(iter(models), None),
    )


def _failed(cells: dict[str, list[Any]]) -> np.ndarray:
    text = lambda value: "" if value is None else str(value).strip().lower()
    failed = np.zeros(len(next(iter(cells.values()))), bool)
    if "status" in cells:
        failed |= np.array([text(value) not in _SUCCEEDED for value in cells["status"]], bool)
    if "error" in cells:
        failed |= np.array([text(value) not in _NO_ERROR for value in cells["error"]], bool)
    return failed


def _numbers(cells: list[Any], lines: list[int], path: Path, name: str) -> np.ndarray:
    """float64[R], NaN for empty cells."""
    found = np.full(len(cells), np.nan)
    for at, cell in enumerate(cells):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            continue
        try:
            found[at] = float(cell)
        except (TypeError, ValueError):
            raise SimjaxError(f"{path}:{lines[at]}: {name}={str(cell)[:40]} is not a number") from None
        if not math.isfinite(found[at]):
            raise SimjaxError(f"{path}:{lines[at]}: {name}={cell} is not a number; leave the cell of a request without it empty")
    return found


def _counts(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.clip(values, -1, 2**31), nan=-1.0).astype(np.int64)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
