"""Load generators' results as traces: the requests that were sent, when they were sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Reading, TraceFile, TraceFormat
from simjax.workload.formats.tables.clock import clock_name, implausible
from simjax.workload.transform import arrange
from simjax.workload.workload import Workload

_MAX_TOKENS = 2**31 - 1


def read_result(path: Path, fmt: TraceFormat, on_bad_row: str, unanswered: str, with_arrivals: bool = True) -> TraceFile:
    """The requests of a result file; without arrivals all at 0, for their lengths.

    Args:
        path: the file.
        fmt: its format, which has a reader.
        on_bad_row: as in `simjax.workload.formats.read.ReadOptions`.
        unanswered: as there.
        with_arrivals: whether arrivals are needed.

    Raises:
        SimjaxError: the file cannot be read, holds no arrivals or no usable request, or a request that succeeded lacks a number.
    """
    assert fmt.reader is not None
    found = fmt.reader(path)
    if len(found.lines) and with_arrivals and np.isnan(found.arrival_s).all():
        how = f"; {found.redraw} draws arrivals as the benchmark did" if found.redraw else ""
        raise SimjaxError(f"{path}: no arrivals are recorded (no {fmt.arrival}), only lengths{how}")
    arrival_s = found.arrival_s if with_arrivals else np.zeros(len(found.lines))
    prompt, output = found.prompt_tokens, found.output_tokens
    usable = np.isfinite(arrival_s) & (prompt >= 1) & (prompt <= _MAX_TOKENS)
    zero = (output == 0) & ~found.failed
    bad = ~found.failed & ~(usable & (output >= 0) & (output <= _MAX_TOKENS))
    if bad.any() and on_bad_row == "error":
        r = int(np.argmax(bad))
        what = "its arrival" if not np.isfinite(arrival_s[r]) else f"lengths that can be ({prompt[r]} prompt, {output[r]} output tokens)"
        place = f"{path}:{found.lines[r]}" if fmt.container == "jsonl" else f"{path}: request {found.lines[r]}"
        raise SimjaxError(f"{place} lacks {what} (on_bad_row=skip leaves such rows out)")
    dropped = (found.failed & ~usable) | ((found.failed | zero) if unanswered == "drop" else False)
    kept = np.flatnonzero(~bad & ~dropped)
    if not len(kept):
        raise SimjaxError(f"{path}: the trace has no usable request: {int(bad.sum())} malformed and {int(dropped.sum())} failed rows")
    prompt, output = (np.clip(values[kept], 1, _MAX_TOKENS).astype(np.int32) for values in (prompt, output))
    workload, order = arrange(Workload(arrival_s[kept] - arrival_s[kept].min(), prompt, output, source=path.name))
    reading = Reading(
        format=fmt.name,
        rows=len(found.lines),
        skipped=int(bad.sum()),
        dropped=int(dropped.sum()),
        zero_outputs=int(zero[kept].sum()),
        failed=int(found.failed[kept].sum()),
        clock=clock_name(fmt),
        unused=found.unused,
        notes=(*found.notes, *implausible(fmt, workload.arrival_s, workload.prompt_tokens.astype(np.int64) + workload.output_tokens)),
    )
    return TraceFile(workload.validate(), found.lines[kept][order], reading)
