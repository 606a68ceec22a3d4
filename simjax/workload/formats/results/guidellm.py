"""guidellm's result file: a JSON object with the requests of one or more benchmarks, one after another on the same clock.

Requests are listed as successful, incomplete (cut off at the end) and errored; stamps are in seconds, the time to the first token in ms.
Source: https://github.com/vllm-project/guidellm.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, TraceFormat
from simjax.workload.formats.results.values import counts, look_up, numbers, one_object

_GROUPS = ("successful", "incomplete", "errored")
_START = ("request_start_time", "start_time", "info.timings.request_start", "scheduler_info.request_timings.request_start")
_MODEL = ("config.backend.model", "worker.backend_model", "benchmarker.backend.model", "args.model")
_END = ("request_end_time", "end_time", "info.timings.request_end", "scheduler_info.request_timings.request_end")


def read_guidellm(path: Path) -> Recorded:
    """The requests of a result file, benchmark by benchmark.

    Raises:
        SimjaxError: the file cannot be read, or holds no requests.
    """
    benchmarks = one_object(path).get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        raise SimjaxError(f"{path}: benchmarks is not a list of benchmarks")
    entries: list[dict[str, Any]] = []
    failed: list[bool] = []
    bounds = [0]
    for at, benchmark in enumerate(benchmarks):
        requests = look_up(benchmark, "requests")
        groups = {"successful": requests} if isinstance(requests, list) else requests
        if not isinstance(groups, dict):
            raise SimjaxError(f"{path}: benchmarks[{at}].requests is missing; the file holds a summary without the requests")
        for name in _GROUPS:
            listed = [entry for entry in groups.get(name) or [] if isinstance(entry, dict)]
            entries += listed
            failed += [name != "successful"] * len(listed)
        bounds.append(len(entries))
    where = str(path)
    start_s = numbers([look_up(entry, *_START) for entry in entries], "request_start_time", where)
    end_s = numbers([look_up(entry, *_END) for entry in entries], "request_end_time", where)
    latency_s = numbers([look_up(entry, "request_latency") for entry in entries], "request_latency", where)
    ttft_s = numbers([look_up(entry, "time_to_first_token_ms") for entry in entries], "time_to_first_token_ms", where) / 1e3
    return Recorded(
        arrival_s=start_s,
        prompt_tokens=counts([look_up(entry, "prompt_tokens", "prompt_tokens_count") for entry in entries], "prompt_tokens", where),
        output_tokens=counts([look_up(entry, "output_tokens", "output_tokens_count") for entry in entries], "output_tokens", where),
        ttft_s=ttft_s,
        e2e_s=np.where(np.isnan(end_s), latency_s, end_s - start_s),
        failed=np.array(failed, bool),
        lines=np.arange(1, len(entries) + 1),
        notes=_several(start_s, bounds),
        model=next((str(name) for benchmark in benchmarks if (name := look_up(benchmark, *_MODEL))), None),
    )


def _several(start_s: np.ndarray, bounds: list[int]) -> tuple[str, ...]:
    """A line about a file of several benchmarks, with their windows."""
    parts = [start_s[a:b] for a, b in pairwise(bounds) if b > a]
    if len(parts) < 2:
        return ()
    first_s = np.nanmin(start_s)
    windows = ", ".join(f"{np.nanmin(part) - first_s:.1f} to {np.nanmax(part) - first_s:.1f} s" for part in parts[:6])
    more = ", ..." if len(parts) > 6 else ""
    return (f"{len(parts)} benchmarks, played one after another as they ran ({windows}{more}); workload.start_s and end_s choose one",)


GUIDELLM = TraceFormat(
    name="guidellm",
    title="guidellm result, benchmarks.json (s)",
    container="json",
    arrival="benchmarks",
    prompt="benchmarks",
    output="benchmarks",
    reader=read_guidellm,
)
