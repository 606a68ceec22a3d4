"""Measured runs of the inference-perf load generator: `exp-config.yaml`, `requests.csv.gz`, and `index.csv` in the parent folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from simjax.cluster.unsimulated import unsimulated
from simjax.errors import SimjaxError
from simjax.validate.failed import FailedRequests
from simjax.validate.formats.fields import find, number, numeric, read_mapping, read_table, require
from simjax.validate.run import EngineFacts, MeasuredRun, default_async_scheduling, finish_run

_COLUMNS = ("arrival_s", "input_tokens", "server_output_tokens_nominal", "ttft_s", "e2e_s", "error")
_VLLM_VERSION = "0.15"


def read_inference_perf(folder: Path, device: str | None = None) -> MeasuredRun:
    """Read an experiment; its row of `../index.csv` gives the KV blocks and the block size.

    Output lengths are the server's nominal ones (the client counts re-tokenised text), and rows with an error count as failed. The layout
    records neither the GPU nor the vLLM version: H100 and 0.15 are assumed, and `device` overrides the former. `prompt_id_mod100`
    becomes the prefix key: requests with the same value had the same prompt.
    """
    config_path, path, index_path = folder / "exp-config.yaml", folder / "requests.csv.gz", folder.parent / "index.csv"
    config = read_mapping(config_path)
    table = read_table(path, _COLUMNS)
    index = read_table(index_path, ("experiment", "kv_blocks", "block_size"))
    row = (index["experiment"] == folder.resolve().name).to_numpy()
    if row.sum() != 1:
        raise SimjaxError(f"{index_path}: it has {row.sum()} rows for the experiment {folder.resolve().name}; it needs one, for kv_blocks")
    ok = numeric(table, "error", path) == 0
    column = {name: numeric(table, name, path, ok) for name in _COLUMNS}
    keys = numeric(table, "prompt_id_mod100", path, ok).astype(np.int64) if "prompt_id_mod100" in table.columns else None

    def failed(name: str) -> np.ndarray:
        return np.asarray(pd.to_numeric(table[name][~ok], errors="coerce"), np.float64)

    def limit(name: str) -> int:
        return int(number(require(config, name, config_path), name, config_path))

    asynchronous = default_async_scheduling(_VLLM_VERSION)
    assumptions = [f"the vLLM version is not recorded: {_VLLM_VERSION}, which schedules asynchronously by default"]
    if (caching := find(config, "enable_prefix_caching")) is None:
        assumptions.append("enable_prefix_caching is not recorded: vLLM's default, on")
    if not device:
        assumptions.append("the GPU is not recorded: H100")
    run = MeasuredRun(
        name=folder.resolve().name,
        source=folder,
        model=require(config, "model", config_path),
        device=device or "H100",
        tensor_parallel_size=limit("tensor_parallelism"),
        engine=EngineFacts(
            vllm_version=_VLLM_VERSION,
            max_num_seqs=limit("max_num_seqs"),
            max_num_batched_tokens=limit("max_num_batched_tokens"),
            block_size=int(numeric(index, "block_size", index_path, row)[0]),
            num_gpu_blocks_override=int(numeric(index, "kv_blocks", index_path, row)[0]),
            max_model_len=limit("max_model_len"),
            enable_prefix_caching=caching is None or bool(caching),
            async_scheduling=asynchronous,
        ),
        arrival_s=column["arrival_s"],
        prompt_tokens=column["input_tokens"],
        output_tokens=column["server_output_tokens_nominal"],
        ttft_s=column["ttft_s"],
        tpot_s=np.zeros(int(ok.sum())),
        e2e_s=column["e2e_s"],
        prefix_key=keys,
        failed=int((~ok).sum()),
        failed_requests=FailedRequests.of(
            failed("arrival_s"), failed("input_tokens"), failed("server_output_tokens_nominal"), np.isfinite(failed("ttft_s"))
        ),
        unsimulated=unsimulated(config),
        assumptions=tuple(assumptions),
    )
    return finish_run(run)
