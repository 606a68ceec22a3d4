"""Rows that hold a list of calls, taken apart into a row a call."""

from __future__ import annotations

from typing import Any

from simjax.workload.formats.base import TraceFormat
from simjax.workload.formats.rows import Batch, id_array

LABEL, DELAY = "\0session", "\0delay"
"""Columns of the calls: (line, name) of their session, None in rows of one request; and the pause after each."""


def expand(batch: Batch, fmt: TraceFormat) -> Batch:
    """The same batch with the rows that have `fmt.calls` replaced by their calls, which stand on the same line; unchanged without any."""
    if fmt.calls is None or all(calls is None for calls in batch.columns[fmt.calls]):
        return batch
    of_row = [name for name in batch.columns if name != fmt.calls]
    of_call = [name for name in (fmt.prompt, fmt.output, *fmt.id_columns) if name in batch.columns]
    result = Batch(columns={name: [] for name in (*of_row, LABEL, DELAY)})

    def append(line: int, values: dict[str, Any], place: str = "") -> None:
        result.lines.append(line)
        result.places.append(place)
        for name, column in result.columns.items():
            column.append(values.get(name))

    for i, (line, calls) in enumerate(zip(batch.lines, batch.columns[fmt.calls], strict=True)):
        row = {name: batch.columns[name][i] for name in of_row}
        if calls is not None and not (isinstance(calls, list) and calls and all(isinstance(call, dict) for call in calls)):
            result.broken[len(result.lines)] = f"{fmt.calls} is not a list of calls"
            calls = None
        elif i in batch.broken:
            result.broken[len(result.lines)] = batch.broken[i]
        if calls is None:
            append(line, row)
            continue
        name = None if fmt.calls_name is None else row.get(fmt.calls_name)
        label = (line, f"line {line}" if name is None else str(name))
        for k, call in enumerate(calls):
            values = {name: id_array(call.get(name)) if name in fmt.id_columns else call.get(name) for name in of_call}
            delay = None if fmt.call_delay is None else call.get(fmt.call_delay)
            append(line, {**row, **values, LABEL: label, DELAY: delay}, f"{fmt.calls}[{k}]: ")
    return result
