"""Measured vLLM runs as LLMServingSim's `bench` records them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simjax.cluster.unsimulated import Setting, unsimulated
from simjax.errors import SimjaxError
from simjax.validate.failed import FailedRequests
from simjax.validate.formats.cluster_file import MeasuredCluster, read_measured_cluster
from simjax.validate.formats.fields import find, number, numeric, read_lines, read_mapping, read_table, require
from simjax.validate.run import EngineFacts, HardwareFacts, MeasuredRun, default_async_scheduling, finish_run, nothing_succeeded

_STAMPS = ("arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
_SERIES = ("t", "prompt_throughput", "gen_throughput", "running", "waiting", "kv_cache_pct")


def read_llmservingsim(folder: Path, device: str | None = None) -> MeasuredRun:
    """Read `config.json`, `vllm/meta.json`, `vllm/requests.jsonl` and `vllm/timeseries.csv`.

    `arrival_time` is on the wall clock and the other stamps are on a monotonic one. The request with the shortest time from arrival to
    queueing is assumed to have been queued at once, which aligns the clocks; the delays of the others are the time of the API server.
    TTFT and E2E start at the arrival.
    """
    meta_path, config_path = folder / "vllm" / "meta.json", folder / "config.json"
    meta = read_mapping(meta_path)
    cluster = read_measured_cluster(config_path) if config_path.is_file() else None
    gpu = device or (cluster.device if cluster else find(meta, "hardware.device_name"))
    if gpu is None:
        raise SimjaxError(f"{folder}: neither config.json nor vllm/meta.json names the GPU; pass device=")
    tensor_parallel = int(number(find(meta, "engine_kwargs.tensor_parallel_size") or 1, "engine_kwargs.tensor_parallel_size", meta_path))
    if cluster and cluster.tensor_parallel_size != tensor_parallel:
        degree = cluster.tensor_parallel_size
        raise SimjaxError(f"{config_path}: tp_size={degree}, but {meta_path} has tensor_parallel_size={tensor_parallel}")
    engine, assumptions = _engine(meta, meta_path, cluster)
    rows = read_lines(folder / "vllm" / "requests.jsonl", ("input_toks", "output_toks", *_STAMPS))
    answered = [row for row in rows if all(row[key] is not None for key in _STAMPS)]
    if not answered:
        raise nothing_succeeded(folder)
    column = {key: np.array([row[key] for row in answered], dtype=np.float64) for key in ("input_toks", "output_toks", *_STAMPS)}
    first_arrival = float(min(row["arrival_time"] for row in rows if row["arrival_time"] is not None))
    # Differences first: the large origins of the clocks would lose digits.
    arrival = column["arrival_time"] - first_arrival
    lag = column["queued_ts"] - column["queued_ts"].min() - arrival
    lag = lag - lag.min()
    run = MeasuredRun(
        name="/".join(folder.resolve().parts[-2:]),  # RTX4090/Llama-3.1-8B: the folder names the model, its parent the GPU
        source=folder,
        model=cluster.model if cluster else require(meta, "model", meta_path),
        device=gpu,
        tensor_parallel_size=tensor_parallel,
        instances=cluster.instances if cluster else 1,
        engine=engine,
        hardware=cluster.hardware if cluster else HardwareFacts(),
        arrival_s=arrival,
        prompt_tokens=column["input_toks"],
        output_tokens=column["output_toks"],
        ttft_s=column["first_token_ts"] - column["queued_ts"] + lag,
        tpot_s=np.zeros(len(answered)),
        e2e_s=column["last_token_ts"] - column["queued_ts"] + lag,
        queue_delay_s=lag,
        timeseries=_timeseries(folder / "vllm" / "timeseries.csv", meta, meta_path, first_arrival),
        failed=len(rows) - len(answered),
        failed_requests=_failed([row for row in rows if any(row[key] is None for key in _STAMPS)], first_arrival),
        unsimulated=_unsimulated(meta, cluster),
        replayed=None if (trace := find(meta, "dataset_path")) is None else str(trace),
        assumptions=assumptions,
    )
    return finish_run(run)


def _failed(rows: list[dict[str, Any]], first_arrival: float) -> FailedRequests | None:
    """The requests that lack a stamp, as far as their rows tell."""
    column = {key: np.array([np.nan if row[key] is None else row[key] for row in rows]) for key in ("input_toks", "output_toks", *_STAMPS)}
    arrival_s = column["arrival_time"] - first_arrival
    return FailedRequests.of(arrival_s, column["input_toks"], column["output_toks"], np.isfinite(column["first_token_ts"]))


def _unsimulated(meta: dict[str, Any], cluster: MeasuredCluster | None) -> tuple[Setting, ...]:
    """What either file asks for that is not simulated, each name once."""
    both = (*unsimulated(meta), *(cluster.unsimulated if cluster else ()))
    return tuple({setting.name: setting for setting in both}.values())


def _engine(meta: dict[str, Any], path: Path, cluster: MeasuredCluster | None) -> tuple[EngineFacts, tuple[str, ...]]:
    """The limits of an instance and the assumptions made.

    Sources in order: `config.json`, the resolved configuration, the requested flags, and vLLM's defaults, which count as assumptions.
    """
    assumptions: list[str] = []
    flags, mem_util = (cluster.flags, cluster.mem_util) if cluster else ({}, None)

    def known(name: str) -> Any:
        sections = (
            "resolved_config.scheduler_config",
            "resolved_config.cache_config",
            "resolved_config.model_config",
            "kv_cache",
            "engine_kwargs",
        )
        recorded = (value for section in sections if (value := find(meta, f"{section}.{name}")) is not None)
        return flags[name] if name in flags else next(recorded, None)

    def limit(name: str) -> int:
        if (value := known(name)) is None:
            raise SimjaxError(f"{path}: neither resolved_config nor engine_kwargs gives {name}")
        return int(number(value, name, path))

    def switch(name: str, default: bool) -> bool:
        if (value := known(name)) is None:
            assumptions.append(f"{name} is not recorded: vLLM's default, {'on' if default else 'off'}")
        return default if value is None else bool(value)

    version = str(require(meta, "vllm_version", path))
    if (utilization := known("gpu_memory_utilization")) is None and mem_util is not None:
        utilization = mem_util
        assumptions.append(f"gpu_memory_utilization is not recorded: mem_util of config.json, {mem_util:g}")
    reserve = flags.get("reserve_full_isl", known("scheduler_reserve_full_isl"))
    sizes = find(meta, "resolved_config.compilation_config.cudagraph_capture_sizes")
    facts = EngineFacts(
        vllm_version=version,
        max_num_seqs=limit("max_num_seqs"),
        max_num_batched_tokens=limit("max_num_batched_tokens"),
        block_size=16 if known("block_size") is None else limit("block_size"),
        num_gpu_blocks_override=None if known("num_gpu_blocks") is None else limit("num_gpu_blocks"),
        gpu_memory_utilization=None if utilization is None else number(utilization, "gpu_memory_utilization", path),
        max_model_len=None if known("max_model_len") is None else limit("max_model_len"),
        long_prefill_token_threshold=0 if known("long_prefill_token_threshold") is None else limit("long_prefill_token_threshold"),
        enable_chunked_prefill=switch("enable_chunked_prefill", True),
        enable_prefix_caching=switch("enable_prefix_caching", True),
        async_scheduling=switch("async_scheduling", default_async_scheduling(version)),
        watermark=None if known("watermark") is None else number(known("watermark"), "watermark", path),
        reserve_full_isl=None if reserve is None else bool(reserve),
        cudagraph_capture_sizes=None if sizes is None else tuple(sizes),
        enforce_eager=bool(known("enforce_eager")),
        dtype=find(meta, "engine_kwargs.dtype") or "auto",
        kv_cache_dtype=flags.get("kv_cache_dtype") or find(meta, "engine_kwargs.kv_cache_dtype") or "auto",
    )
    return facts, tuple(assumptions)


def _timeseries(path: Path, meta: dict[str, Any], meta_path: Path, first_arrival: float) -> pd.DataFrame | None:
    """The sampled series, in seconds from the first arrival; `t` counts from `started_at` and marks the end of an interval."""
    if not path.is_file():
        return None
    table = read_table(path, _SERIES)
    raw = {name: numeric(table, name, path) for name in _SERIES}
    try:
        started = datetime.fromisoformat(str(require(meta, "started_at", meta_path))).timestamp()
    except ValueError:
        raise SimjaxError(f"{meta_path}: started_at={meta['started_at']!r} is not an ISO date and time") from None
    tick = number(meta.get("tick_seconds", 1.0), "tick_seconds", meta_path)
    series = pd.DataFrame(
        {
            "t_s": raw["t"] - tick + (started - first_arrival),
            "running": raw["running"],
            "waiting": raw["waiting"],
            "prompt_tokens_per_s": raw["prompt_throughput"],
            "output_tokens_per_s": raw["gen_throughput"],
        }
    )
    if np.any(raw["kv_cache_pct"] != 0):  # some vLLM versions leave it at zero throughout
        series["kv_used_fraction"] = raw["kv_cache_pct"] / 100.0
    return series
