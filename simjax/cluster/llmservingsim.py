"""Cluster files in LLMServingSim's JSON schema (its `configs/cluster/*.json`), read unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from simjax.cluster.spec import EngineLimits, InstanceSpec
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.model import load_model

# Its names that are vLLM's flags; 0 of a limit means "no limit" there.
FLAGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "long_prefill_token_threshold",
    "block_size",
    "kv_cache_dtype",
    "enable_chunked_prefill",
    "reserve_full_isl",
)
# What simjax does not simulate (yet), by key, with the values that ask for nothing.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "pp_size": (1, None),
    "pd_type": (None,),
    "dp_group": (None,),
    "placement": (None,),
    "enable_attn_offloading": (False, None),
    "enable_sub_batch_interleaving": (False, None),
    "enable_local_offloading": (False, None),
}
NO_LIMIT = 2**20


def read_cluster(path: Path, limits: EngineLimits) -> tuple[InstanceSpec, ...]:
    """The engines of a cluster file, in the file's order.

    Args:
        path: the JSON file.
        limits: flags that the file does not set.

    Raises:
        SimjaxError: the file is missing or malformed, names an unknown model or device, or asks for what is not simulated.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such cluster file") from None
    except json.JSONDecodeError as error:
        raise SimjaxError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    try:
        found = [_instance(path, instance, raw, limits) for node in raw["nodes"] for instance in node["instances"]]
    except (KeyError, TypeError) as error:
        raise SimjaxError(f"{path}: not a cluster file of LLMServingSim's schema: {error!r} is missing or of the wrong type") from None
    if any("pim_config" in node.get("cpu_mem", {}) for node in raw["nodes"]):
        raise SimjaxError(f"{path}: cpu_mem.pim_config asks for PIM devices, which are not simulated yet")
    return tuple(found)


def _instance(path: Path, raw: dict[str, Any], cluster: dict[str, Any], limits: EngineLimits) -> InstanceSpec:
    for key, harmless in UNSUPPORTED.items():
        if raw.get(key) not in harmless:
            raise SimjaxError(f"{path}: {key}={raw[key]!r} is not simulated yet; remove it to run without")
    degree = int(raw.get("tp_size") or raw.get("num_npus") or 1)
    if raw.get("ep_size") not in (None, 1, degree) or raw.get("num_npus", degree) != degree:
        raise SimjaxError(f"{path}: expert parallelism over more than the tensor-parallel ranks is not simulated yet")
    device, memory = load_device(raw["hardware"]), raw["npu_mem"]
    device = replace(
        device,
        memory_bytes=int(memory["mem_size"] * 2**30),
        memory_bandwidth_bytes_per_s=float(memory["mem_bw"]) * 1e9,
    )
    flags = {name: raw[name] for name in FLAGS if name in raw}
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        if flags.get(name) == 0:
            flags[name] = NO_LIMIT
    if "mem_util" in memory:
        flags["gpu_memory_utilization"] = float(memory["mem_util"])
    bandwidth, latency = _innermost(cluster["link_bw"]), _innermost(cluster["link_latency"])
    return InstanceSpec(
        model=load_model(raw["model_name"]),
        device=device,
        tensor_parallel_size=degree,
        limits=replace(limits, **flags),
        link=LinkSpec(bandwidth * 2**30, latency * 1e-9, device.node.intra_link.endpoint_s),
    )


def _innermost(value: Any) -> float:
    """Link settings may be one per network dimension; the first connects the ranks of an instance."""
    return float(value[0] if isinstance(value, list) else value)
