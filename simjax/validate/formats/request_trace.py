"""Measured runs recorded as one `trace.csv.gz` with wall-clock stamps of each request, and the server's configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simjax.cluster.unsimulated import unsimulated
from simjax.errors import SimjaxError
from simjax.validate.failed import FailedRequests
from simjax.validate.formats.fields import find, number, numeric, read_mapping, read_table, require
from simjax.validate.run import EngineFacts, MeasuredRun, default_async_scheduling, finish_run

_SCHEDULE = "arrival_time_us"  # of a clock of its own; optional
_COLUMNS = ("input_tokens", "output_tokens", "server_input_tokens", "send_time_us", "first_chunk_time_us", "last_chunk_time_us", "status")


def read_request_trace(folder: Path, device: str | None = None) -> MeasuredRun:
    """Read `trace.csv.gz` (or `.csv`) and `server_config.json` from the folder or its parent.

    The arrival is the time at which the client sent the request, `arrival_time_us` when its schedule asked for it (the least late one is
    taken to be on time, for the two have clocks of their own), the prompt length is the server's count where it has one (the client's
    is nominal), and rows whose status is not `ok` count as failed. The layout records neither the GPU nor `max_num_seqs`: H100 and 256 are
    assumed, and `device` overrides the former.
    """
    path = next(candidate for name in ("trace.csv.gz", "trace.csv") if (candidate := folder / name).is_file())
    config_path = next((c for c in (folder / "server_config.json", folder.parent / "server_config.json") if c.is_file()), None)
    if config_path is None:
        raise SimjaxError(f"{folder}: server_config.json is missing, here and in the parent folder")
    config = read_mapping(config_path)
    table = read_table(path, _COLUMNS)
    ok = (table["status"] == "ok").to_numpy()
    sent, first, last = (numeric(table, name, path, ok) for name in ("send_time_us", "first_chunk_time_us", "last_chunk_time_us"))
    counted = numeric(table, "server_input_tokens", path, ok)
    scheduled = _SCHEDULE in table.columns
    lag = (sent - numeric(table, _SCHEDULE, path, ok) if scheduled else sent) * 1e-6
    on_time = float(lag.min()) if len(lag) else 0.0

    def limit(name: str) -> int:
        return int(number(require(config, name, config_path), name, config_path))

    assumptions = [] if device else ["the GPU is not recorded: H100"]
    if (seqs := find(config, "max_num_seqs")) is None:
        assumptions.append("max_num_seqs is not recorded: 256")
    version = str(require(config, "vllm_version", config_path))
    if (asynchronous := find(config, "async_scheduling")) is None:
        asynchronous = default_async_scheduling(version)
        assumptions.append(f"async_scheduling is not recorded: vLLM's default, {'on' if asynchronous else 'off'}")
    run = MeasuredRun(
        name=folder.resolve().name,
        source=folder,
        model=require(config, "model", config_path),
        device=device or "H100",
        tensor_parallel_size=limit("tensor_parallel_size"),
        engine=EngineFacts(
            vllm_version=version,
            max_num_seqs=256 if seqs is None else limit("max_num_seqs"),
            max_num_batched_tokens=limit("max_num_batched_tokens"),
            block_size=limit("block_size"),
            num_gpu_blocks_override=limit("num_gpu_blocks") if find(config, "num_gpu_blocks") is not None else None,
            gpu_memory_utilization=find(config, "gpu_memory_utilization"),
            max_model_len=find(config, "max_seq_len"),
            enable_chunked_prefill=bool(require(config, "enable_chunked_prefill", config_path)),
            enable_prefix_caching=bool(require(config, "enable_prefix_caching", config_path)),
            async_scheduling=bool(asynchronous),
        ),
        arrival_s=sent * 1e-6,
        prompt_tokens=np.where(counted > 0, counted, numeric(table, "input_tokens", path, ok)),
        output_tokens=numeric(table, "output_tokens", path, ok),
        ttft_s=(first - sent) * 1e-6,
        tpot_s=np.zeros(len(sent)),
        e2e_s=(last - sent) * 1e-6,
        failed=int((~ok).sum()),
        failed_requests=_failed(table.loc[~ok], on_time if scheduled else None),
        due_s=sent * 1e-6 - (lag - on_time) if scheduled else None,
        unsimulated=unsimulated(config),
        assumptions=tuple(assumptions),
    )
    return finish_run(run)


def _failed(table: pd.DataFrame, on_time: float | None) -> FailedRequests | None:
    """The rows of failed requests; `on_time`: seconds from a time of the schedule to that of the sends, None without a schedule."""
    column = {name: np.asarray(pd.to_numeric(table[name], errors="coerce"), np.float64) for name in _COLUMNS if name != "status"}
    counted, nominal = column["server_input_tokens"], column["input_tokens"]
    due_s = None
    if on_time is not None:
        due_s = np.asarray(pd.to_numeric(table[_SCHEDULE], errors="coerce"), np.float64) * 1e-6 + on_time
    return FailedRequests.of(
        column["send_time_us"] * 1e-6,
        np.where(counted > 0, counted, nominal),
        column["output_tokens"],
        np.isfinite(column["first_chunk_time_us"]),
        due_s,
    )
