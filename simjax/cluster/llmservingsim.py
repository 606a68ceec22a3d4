"""Cluster files in LLMServingSim's JSON schema (its `configs/cluster/*.json`), read unchanged."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from simjax.cluster.spec import InstanceLimits, InstanceSpec
from simjax.cluster.unsimulated import unsimulated
from simjax.config.scheduler import FLAG_BOUNDS
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism

_log = logging.getLogger(__name__)

# Its names that are vLLM's flags.
FLAGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "long_prefill_token_threshold",
    "block_size",
    "kv_cache_dtype",
    "enable_chunked_prefill",
    "reserve_full_isl",
)
# 0 of one of these means "no limit" there: as many tokens as the model's context, and as many sequences as fit a step, at most
# MOST_SEQUENCES.
MAY_BE_UNLIMITED = ("max_num_seqs", "max_num_batched_tokens")
MOST_SEQUENCES = 2**16


def read_cluster(path: Path, limits: InstanceLimits) -> tuple[InstanceSpec, ...]:
    """The instances of a cluster file, in the file's order.

    Args:
        path: the JSON file.
        limits: flags that the file does not set.

    Raises:
        SimjaxError: the file is missing or malformed, names an unknown model or device, or asks for what is not simulated.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such cluster file") from None
    except json.JSONDecodeError as error:
        raise SimjaxError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError:
        raise SimjaxError(f"{path}: not a text file; a cluster file is JSON in LLMServingSim's schema") from None
    except RecursionError:
        raise SimjaxError(f"cluster file {path} is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise SimjaxError(f"{path}: not valid JSON: {error}") from None
    except OSError as error:
        raise SimjaxError(f"cannot read cluster file {path}: {error.strerror}") from None
    nodes = raw.get("nodes") if isinstance(raw, dict) else None
    if not isinstance(nodes, list) or not all(isinstance(node, dict) and isinstance(node.get("instances"), list) for node in nodes):
        raise SimjaxError(f"{path}: not a cluster file of LLMServingSim's schema: it needs 'nodes', a list of objects with 'instances'")
    if any("pim_config" in (node.get("cpu_mem") or {}) for node in nodes):
        raise SimjaxError(f"{path}: cpu_mem.pim_config asks for PIM devices, which are not simulated yet")
    if any("power" in node for node in nodes):
        _log.warning("%s: power is not simulated yet; its settings are ignored", path)
    found: list[InstanceSpec] = []
    for number, instance in enumerate(instance for node in nodes for instance in node["instances"]):
        where = f"{path}: instance {number}"
        try:
            found.append(_instance(instance, raw, limits))
        except SimjaxError as error:
            raise SimjaxError(f"{where}: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
        except KeyError as error:
            raise SimjaxError(f"{where}: {error} is missing") from None
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise SimjaxError(f"{where}: a value of the wrong type ({error})") from None
    if not found:
        raise SimjaxError(f"{path}: it has no instances; a cluster needs at least one")
    return tuple(found)


def _instance(raw: dict[str, Any], cluster: dict[str, Any], limits: InstanceLimits) -> InstanceSpec:
    for setting in unsimulated(raw):
        raise SimjaxError(f"{setting} is not simulated yet; remove it to run without")
    npus = raw.get("num_npus", raw.get("npu_num"))  # npu_num: the name before version 2
    degree = int(raw.get("tp_size") or npus or 1)
    if raw.get("ep_size") not in (None, 1, degree) or npus not in (None, degree):
        raise SimjaxError("expert parallelism over more than the tensor-parallel ranks is not simulated yet")
    device, memory = load_device(raw["hardware"]), raw["npu_mem"]
    device = replace(
        device,
        memory_bytes=int(float(memory["mem_size"]) * 2**30),
        memory_bandwidth_bytes_per_s=float(memory["mem_bw"]) * 1e9,
    )
    flags = {name: raw[name] for name in FLAGS if name in raw}
    unlimited = [name for name in MAY_BE_UNLIMITED if flags.get(name) == 0]
    for name in unlimited:
        del flags[name]
    if "mem_util" in memory:
        flags["gpu_memory_utilization"] = float(memory["mem_util"])
    bandwidth, latency = _innermost(cluster["link_bw"]), _innermost(cluster["link_latency"])
    one = InstanceSpec(
        model=load_model(raw["model_name"]),
        device=device,
        parallelism=Parallelism(tensor=degree),
        limits=replace(limits, **flags),
        link=LinkSpec(bandwidth * 2**30, latency * 1e-9, device.node.intra_link.endpoint_s),
    )
    return _without(unlimited, one) if unlimited else one


def _without(unlimited: list[str], one: InstanceSpec) -> InstanceSpec:
    """The instance without those limits.

    vLLM measures what its KV cache may take by a dummy step at its limits, which would leave nothing of a device without any: the cache
    keeps the blocks that the limits of the configuration (`one`) leave it.
    """
    limits = one.limits
    tokens, sequences = limits.max_num_batched_tokens, limits.max_num_seqs
    if "max_num_batched_tokens" in unlimited:
        tokens = min(one.model.max_position_embeddings, FLAG_BOUNDS["max_num_batched_tokens"][1])
    if "max_num_seqs" in unlimited:  # every running request takes a token of each step, so this many never bind
        sequences = min(tokens, MOST_SEQUENCES)
    flags = {"max_num_batched_tokens": tokens, "max_num_seqs": sequences, "num_gpu_blocks_override": one.num_gpu_blocks}
    return replace(one, limits=replace(limits, **flags))


def _innermost(value: Any) -> float:
    """Link settings may be one per network dimension; the first connects the ranks of an instance."""
    return float(value[0] if isinstance(value, list) else value)
