"""Expansion of rows that hold a list of calls into one row per call."""

from __future__ import annotations

from typing import Any

from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.tables.rows import Chunk, id_array

LABEL, DELAY, MODEL, CLASS, PRIORITY = "\0session", "\0delay", "\0model", "\0class", "\0priority"
"""Added columns: (line, name) of the call's session, None in rows of a single request; the pause after each call; the model,
the class of service and the priority of a row."""


def expand(chunk: Chunk, fmt: TraceFormat) -> Chunk:
    """The chunk with every row that has `fmt.calls` replaced by its calls, which keep its line; unchanged when there are none."""
    if fmt.calls is None or all(calls is None for calls in chunk.columns[fmt.calls]):
        return chunk
    of_row = [name for name in chunk.columns if name != fmt.calls]
    of_call = [name for name in (fmt.prompt, fmt.output, *fmt.id_columns) if name in chunk.columns]
    result = Chunk(columns={name: [] for name in (*of_row, LABEL, DELAY)}, keys=chunk.keys)

    def append(line: int, values: dict[str, Any], place: str = "") -> None:
        result.lines.append(line)
        result.places.append(place)
        for name, column in result.columns.items():
            column.append(values.get(name))

    for i, (line, calls) in enumerate(zip(chunk.lines, chunk.columns[fmt.calls], strict=True)):
        row = {name: chunk.columns[name][i] for name in of_row}
        if calls is not None and not (isinstance(calls, list) and calls and all(isinstance(call, dict) for call in calls)):
            result.broken[len(result.lines)] = f"{fmt.calls} is not a list of calls"
            calls = None
        elif i in chunk.broken:
            result.broken[len(result.lines)] = chunk.broken[i]
        if calls is None:
            append(line, row)
            continue
        name = None if fmt.calls_name is None else row.get(fmt.calls_name)
        label = (line, f"line {line}" if name is None else str(name))
        for k, call in enumerate(calls):
            result.keys.update(call)
            values = {name: id_array(call.get(name)) if name in fmt.id_columns else call.get(name) for name in of_call}
            delay = None if fmt.call_delay is None else call.get(fmt.call_delay)
            append(line, {**row, **values, LABEL: label, DELAY: delay}, f"{fmt.calls}[{k}]: ")
    return result
