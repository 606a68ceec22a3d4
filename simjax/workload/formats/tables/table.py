"""The rows of a whole file as arrays, with what there is to say about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Reading, TraceFormat
from simjax.workload.formats.tables.calls import CLASS, DELAY, MODEL, PRIORITY, expand
from simjax.workload.formats.tables.convert import Requests, convert
from simjax.workload.formats.tables.relations import Extra
from simjax.workload.formats.tables.rows import Header, read_chunks

_ARRAYS = ("lines", "stamps", "prompt_tokens", "output_tokens", "zero_outputs", "failed")
_MODEL_COLUMNS = ("model", "model_name", "model_id")
_OF_SERVICE = {CLASS: ("class", "slo_class", "service_class"), PRIORITY: ("priority",)}
"""Columns of any format on the service that a request asks for."""


@dataclass(frozen=True)
class Table:
    """The usable rows of a file, R of them; arrays as in `simjax.workload.formats.tables.convert.Requests`."""

    lines: np.ndarray
    stamps: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    zero_outputs: np.ndarray
    failed: np.ndarray
    extra: Extra
    reading: Reading

    def take(self, index: np.ndarray) -> Table:
        """The rows `index` (int[K]) in that order."""
        arrays = {name: getattr(self, name)[index] for name in _ARRAYS}
        return replace(self, **arrays, extra={name: [values[i] for i in index.tolist()] for name, values in self.extra.items()})


def read_table(
    path: Path,
    fmt: TraceFormat,
    header: Header,
    columns: dict[str, str],
    on_bad_row: str,
    unanswered: str,
    only_model: str | None,
    with_arrivals: bool = True,
) -> Table:
    """The rows of a file.

    Args:
        path: the file.
        fmt: its format.
        header: its container and columns.
        columns: names in the format -> names in the file.
        on_bad_row: as in `simjax.workload.formats.read.ReadOptions`.
        unanswered: as there.
        only_model: as there.
        with_arrivals: whether arrivals, prefixes and sessions are wanted besides the lengths.

    Raises:
        SimjaxError: a malformed row, no usable one, or none of the wanted model.
    """
    # In JSON Lines, rows after the first ones may have keys that the header does not show.
    wanted = {name: columns.get(name, name) for name in fmt.columns if name in columns or name not in fmt.optional_columns}
    if header.container in ("jsonl", "array"):
        wanted = {name: columns.get(name, name) for name in fmt.columns}
    if not with_arrivals:
        wanted = {name: in_file for name, in_file in wanted.items() if name not in fmt.id_columns}
    if fmt.arrival not in columns:  # the sessions of such a file start at once
        wanted.pop(fmt.arrival, None)
    of_models = next((name for name in header.columns if name.lower() in _MODEL_COLUMNS), None)
    if of_models is not None:
        wanted[MODEL] = of_models
    elif only_model is not None:
        raise SimjaxError(f"workload.only_model={only_model} has no effect: {path} has no column {_MODEL_COLUMNS[0]}; null unsets it")
    of_service = {key: name for key, names in _OF_SERVICE.items() for name in header.columns if name.lower() in names and with_arrivals}
    wanted |= {key: name for key, name in of_service.items() if name not in wanted.values()}
    parts: list[Requests] = []
    rows, keys, started = 0, set(header.columns), set[object]()
    for chunk in read_chunks(path, header, wanted, fmt.id_columns):
        expanded = expand(chunk, fmt)
        part = convert(expanded, fmt, with_arrivals, started, unanswered)
        if part.bad and on_bad_row == "error":
            line, reason = part.bad[0]
            where = f"{path}: row {line}" if header.container in ("parquet", "array") else f"{path}:{line}"
            raise SimjaxError(f"{where}: {reason} (on_bad_row=skip leaves such rows out)")
        parts.append(part)
        rows += len(chunk.lines)
        keys |= expanded.keys
    skipped, dropped = sum(len(part.bad) for part in parts), sum(part.dropped for part in parts)
    if not sum(len(part.lines) for part in parts):
        why = f": {skipped} malformed and {dropped} failed rows" if rows else ""
        raise SimjaxError(f"{path}: the trace has no usable request{why}")
    # A column that is only wanted with the arrivals is no stranger where lengths are read.
    known = {columns.get(name, name) for name in (*fmt.columns, *fmt.also, fmt.call_delay or "")} | (
        fmt.results if fmt.results <= keys else frozenset()
    )
    known |= set(of_service.values())
    reading = Reading(
        format=fmt.name,
        rows=rows,
        skipped=skipped,
        dropped=dropped,
        unused=tuple(sorted(keys - known, key=[*header.columns, *sorted(keys)].index)),
    )
    table = Table(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
        extra={name: _column(parts, name) for name in dict.fromkeys(name for part in parts for name in part.extra)},
        reading=reading,
    )
    table = _of_model(table, path, of_models, only_model)
    counts = {"zero_outputs": int(table.zero_outputs.sum()), "failed": int(table.failed.sum())}
    return replace(table, reading=replace(table.reading, **counts))


def _of_model(table: Table, path: Path, column: str | None, only: str | None) -> Table:
    """The rows of one model, or all of them with a line if they are of several."""
    found = Counter(name for name in table.extra.get(MODEL, []) if name is not None)
    listed = ", ".join(f"{name} ({count:,})" for name, count in found.most_common(4)) + (", ..." if len(found) > 4 else "")
    if only is not None:
        if only not in found:
            raise SimjaxError(f"{path}: no row is of the model workload.only_model={only}; column {column} has {listed or 'none'}")
        kept = table.take(np.array([i for i, name in enumerate(table.extra[MODEL]) if name == only]))
        note = f"{len(kept.lines):,} of {len(table.lines):,} requests are of {only}, the others are left out"
        unused = tuple(name for name in table.reading.unused if name != column)
        return replace(kept, reading=replace(table.reading, unused=unused, notes=(note,)))
    if len(found) > 1:
        note = f"column {column} names {len(found)} models, {listed}; a cluster of one model serves all; workload.only_model=NAME keeps one"
        return replace(table, reading=replace(table.reading, notes=(note,)))
    return table


def _column(parts: list[Requests], name: str) -> list[object]:
    """A column over all chunks, filled with empty values for the chunks in which it has none."""
    empty = {DELAY: np.nan, PRIORITY: 0}.get(name)
    return [value for part in parts for value in part.extra.get(name, [empty] * len(part.lines))]
