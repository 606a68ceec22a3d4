"""inference-perf's `per_request_lifecycle_metrics.json`: a JSON list with an object per request, times in seconds.

`info.output_token_times` are the times of chunks, which may hold several tokens: only the first one is a token's.
Source: https://github.com/kubernetes-sigs/inference-perf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, TraceFormat
from simjax.workload.formats.results.values import counts, documents, look_up, numbers
from simjax.workload.formats.tables.json_text import json_value


def read_inference_perf(path: Path) -> Recorded:
    """The requests of a report.

    Raises:
        SimjaxError: the file cannot be read, or holds something else.
    """
    entries = documents(path)[0][1]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SimjaxError(f"{path}: not a list of requests")
    where = str(path)
    start_s = numbers([entry.get("start_time") for entry in entries], "start_time", where)
    return Recorded(
        arrival_s=start_s,
        prompt_tokens=counts([look_up(entry, "info.input_tokens") for entry in entries], "input_tokens", where),
        output_tokens=counts([look_up(entry, "info.output_tokens") for entry in entries], "output_tokens", where),
        ttft_s=numbers([_first(look_up(entry, "info.output_token_times")) for entry in entries], "output_token_times", where) - start_s,
        e2e_s=numbers([entry.get("end_time") for entry in entries], "end_time", where) - start_s,
        failed=np.array([bool(entry.get("error")) for entry in entries], bool),
        lines=np.arange(1, len(entries) + 1),
        model=next((name for entry in entries if (name := _model(entry.get("request"))) is not None), None),
    )


def _model(request: Any) -> str | None:
    """The model that a request, the text of its JSON, asks for."""
    if not isinstance(request, str):
        return None
    try:
        name = look_up(json_value(request), "model")
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def _first(times: Any) -> Any:
    return times[0] if isinstance(times, list) and times else None


INFERENCE_PERF = TraceFormat(
    name="inference_perf",
    title="inference-perf report, per_request_lifecycle_metrics.json (s)",
    container="array",
    arrival="start_time",
    prompt="info",
    output="info",
    also=("end_time",),
    reader=read_inference_perf,
)
