"""aiperf's `profile_export.jsonl`: one object per request with `metadata` (stamps in ns) and `metrics` (values with their units).

Source: https://github.com/ai-dynamo/aiperf (docs, working with profile exports).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.formats.base import Recorded, TraceFormat
from simjax.workload.formats.results.values import beside, counts, documents, look_up, numbers

_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def read_aiperf(path: Path) -> Recorded:
    """The requests of an export.

    Raises:
        SimjaxError: the file cannot be read, or a line is not a request.
    """
    rows = documents(path)
    for line, row in rows:
        if not isinstance(look_up(row, "metadata"), dict):
            raise SimjaxError(f"{path}:{line}: metadata is missing")
    entries = [row for _, row in rows]
    where = str(path)
    start_ns = [look_up(entry, "metadata.request_start_ns") for entry in entries]
    numbers(start_ns, "request_start_ns", where)
    first_ns = min((stamp for stamp in start_ns if stamp is not None), default=0)

    def since_start(stamps: list[Any]) -> np.ndarray:
        """Seconds from the first request; epoch nanoseconds would lose 256 of them as float64."""
        return np.array([np.nan if stamp is None else (stamp - first_ns) / 1e9 for stamp in stamps])

    def tokens(name: str) -> np.ndarray:
        return counts([look_up(entry, f"metrics.{name}.value") for entry in entries], name, where)

    start_s = since_start(start_ns)
    end_ns = [look_up(entry, "metadata.request_end_ns") for entry in entries]
    numbers(end_ns, "request_end_ns", where)
    later = sum(bool(look_up(entry, "metadata.turn_index")) for entry in entries)
    return Recorded(
        arrival_s=start_s,
        prompt_tokens=tokens("input_sequence_length"),
        output_tokens=tokens("output_sequence_length"),
        ttft_s=numbers([_seconds(entry, "time_to_first_token") for entry in entries], "time_to_first_token", where),
        e2e_s=since_start(end_ns) - start_s,
        failed=np.array([bool(look_up(entry, "error")) or look_up(entry, "metadata.was_cancelled") is True for entry in entries]),
        lines=np.array([line for line, _ in rows]),
        model=_model(path),
        notes=(f"{later} requests are later turns of conversations; all are sent at their recorded times",) if later else (),
    )


def _model(path: Path) -> str | None:
    """The model that aiperf's summary names, which lies beside the export."""
    summary = beside(path, path.name.removesuffix(".gz").removesuffix(".jsonl") + "_aiperf.json")
    names = look_up(summary, "input_config.endpoint.model_names", "input_config.models.items")
    first = names[0] if isinstance(names, list) and names else None
    found = first.get("name") if isinstance(first, dict) else first
    return None if found is None else str(found)


def _seconds(entry: dict[str, Any], name: str) -> Any:
    value, unit = look_up(entry, f"metrics.{name}.value"), look_up(entry, f"metrics.{name}.unit")
    return value * _SECONDS.get(str(unit), 1e-3) if isinstance(value, int | float) else value


AIPERF = TraceFormat(
    name="aiperf",
    title="aiperf export, profile_export.jsonl (ns)",
    container="jsonl",
    arrival="metadata",
    prompt="metrics",
    output="metrics",
    stamps_per_second=1e9,
    reader=read_aiperf,
)
