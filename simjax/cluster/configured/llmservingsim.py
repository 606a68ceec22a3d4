"""Cluster files in LLMServingSim's JSON schema (its `configs/cluster/*.json`), read unchanged."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.unsimulated import unsimulated
from simjax.config.scheduler import FLAG_BOUNDS
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec, load_device
from simjax.model import load_model
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.placement.llmservingsim import read_pim, read_placement

_log = logging.getLogger(__name__)

# Its names that are vLLM's flags.
FLAGS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "long_prefill_token_threshold",
    "block_size",
    "dtype",
    "kv_cache_dtype",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "reserve_full_isl",
)
# 0 of one of these means "no limit" there: as many tokens as the model's context, and as many sequences as fit a step, at most
# MOST_SEQUENCES.
MAY_BE_UNLIMITED = ("max_num_seqs", "max_num_batched_tokens")
MOST_SEQUENCES = 2**16
# Keys that ask for what is simulated, though `unsimulated` has them.
READ = ("pd_type", "placement", "pp_size", "dp_group", "enable_attn_offloading", "enable_sub_batch_interleaving")
# What its pd_type says of an instance.
ROLES = {None: Role.BOTH, "": Role.BOTH, "prefill": Role.PREFILL, "decode": Role.DECODE}


@dataclass(frozen=True)
class ClusterFile:
    """The contents of a cluster file.

    The links of the file are those of its instances: the first network dimension connects the devices of an instance
    (`InstanceSpec.link`), the last one instances (both links of `InstanceSpec.device.node`, for the file tells the links within a node and
    between nodes apart only by dimension).

    The members of a `dp_group` are the data-parallel ranks of one instance, but for those that hold all experts each: nothing couples
    them, and they stay instances of their own.

    Attributes:
        instances: instances in the file's order.
        nodes: index of the node of each, of several ranks that of the first.
    """

    instances: tuple[InstanceSpec, ...]
    nodes: tuple[int, ...]


def read_cluster(
    path: Path,
    limits: InstanceLimits,
    experts: Experts = Experts(),  # noqa: B008  # never changed
    offloading: bool = False,
) -> ClusterFile:
    """The cluster that a file describes.

    Args:
        path: the JSON file.
        limits: flags that the file does not set.
        experts: placement and popularity of experts, of which the file says nothing.
        offloading: whether instances on nodes with a `pim_config` use it where the file does not say (a switch of its command line).

    Raises:
        SimjaxError: the file is missing or malformed, names an unknown model or device, or asks for what is not simulated.
    """
    raw = _read(path)
    nodes = raw["nodes"]
    found: list[InstanceSpec] = []
    on: list[int] = []
    groups = _groups(one for node in nodes for one in node["instances"])
    place = 0
    for number, node in enumerate(nodes):
        for one in node["instances"]:
            where = f"{path}: instance {place}"
            try:
                members = groups.get(one.get("dp_group") or place, [one])
                together = _step_together(members)
                if together and members[0] is not one:
                    _check_alike(members[0], one)
                else:
                    ranks = len(members) if together else 1
                    instance = _instance(one, raw, sum(map(_devices, node["instances"])), limits, experts, ranks)
                    blocks = instance.model.num_hidden_layers
                    weights = read_placement(one.get("placement"), node.get("cpu_mem"), raw.get("cxl_mem"), blocks)
                    pim = read_pim(one, node.get("cpu_mem"), offloading)
                    found.append(replace(instance, weights=weights, pim=pim) if weights or pim else instance)
                    on.append(number)
                place += 1
            except SimjaxError as error:
                raise SimjaxError(f"{where}: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
            except KeyError as error:
                raise SimjaxError(f"{where}: {error} is missing") from None
            except (TypeError, ValueError, AttributeError, IndexError) as error:
                raise SimjaxError(f"{where}: a value of the wrong type ({error})") from None
    if not found:
        raise SimjaxError(f"{path}: it has no instances; a cluster needs at least one")
    if any(len(members) > 1 and not _step_together(members) for members in groups.values()):
        _log.warning("%s: the members of a dp_group that hold all experts each are independent instances", path)
    return ClusterFile(tuple(found), tuple(on))


def _groups(instances: Iterable[Any]) -> dict[Any, list[dict[str, Any]]]:
    """The members of each `dp_group`, in order."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for one in instances:
        if isinstance(one, dict) and isinstance(one.get("dp_group"), str) and one["dp_group"]:
            groups.setdefault(one["dp_group"], []).append(one)
    return groups


def _step_together(members: list[dict[str, Any]]) -> bool:
    """Whether members of a `dp_group` are ranks of one instance: those of a dense model, or of one whose experts they share."""
    first = members[0]
    shared = first.get("ep_size") or 1
    return len(members) > 1 and (
        not load_model(first["model_name"]).is_moe or shared > int(first.get("tp_size") or first.get("num_npus") or 1)
    )


def _check_alike(first: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise if two members of a `dp_group` are not alike."""
    for name in sorted(first.keys() | other.keys()):
        if first.get(name) != other.get(name):
            raise SimjaxError(f"{name}={other.get(name)!r}, but {first.get(name)!r} in the first member of dp_group={first['dp_group']!r}")


def _read(path: Path) -> dict[str, Any]:
    """The file's object, with a list of nodes that all have a list of instances, as many as it says."""
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
    for said, listed, where in (
        (raw.get("num_nodes"), nodes, "num_nodes"),
        *((node.get("num_instances"), node["instances"], f"node {number}: num_instances") for number, node in enumerate(nodes)),
    ):
        if said not in (None, len(listed)):
            raise SimjaxError(f"{path}: {where}={said}, but {len(listed)} are listed")
    return raw


def _instance(
    raw: dict[str, Any], cluster: dict[str, Any], devices_per_node: int, limits: InstanceLimits, experts: Experts, ranks: int
) -> InstanceSpec:
    for setting in unsimulated({name: value for name, value in raw.items() if name not in READ}):
        raise SimjaxError(f"{setting} is not simulated yet; remove it to run without")
    npus = raw.get("num_npus", raw.get("npu_num"))  # npu_num: the name before version 2
    stages = int(raw.get("pp_size") or (npus or 1) // int(raw.get("tp_size") or npus or 1) or 1)
    degree = int(raw.get("tp_size") or (npus or 1) // stages or 1)
    if npus not in (None, degree * stages):
        raise SimjaxError(f"num_npus={npus} is not tp_size={degree} times pp_size={stages}")
    if raw.get("ep_size") not in (None, 1, degree * ranks):
        others = "expert parallelism over other than the tensor- and data-parallel ranks"
        raise SimjaxError(f"ep_size={raw['ep_size']}: {others} (tp_size={degree}, {ranks} in its dp_group) is not simulated yet")
    model = load_model(raw["model_name"])
    shared_by = raw.get("ep_size") or degree if model.is_moe else 1  # unset: every tensor-parallel rank has experts of its own
    if raw.get("pd_type") not in ROLES:
        raise SimjaxError(f"pd_type={raw['pd_type']!r}: it must be prefill, decode or null")
    device, memory = load_device(raw["hardware"]), raw["npu_mem"]
    within, between = (replace(_link(cluster, dimension), endpoint_s=device.node.intra_link.endpoint_s) for dimension in (0, -1))
    device = replace(
        device,
        memory_bytes=int(float(memory["mem_size"]) * 2**30),
        memory_bandwidth_bytes_per_s=float(memory["mem_bw"]) * 1e9,
        node=replace(device.node, devices_per_node=devices_per_node, intra_link=between, inter_link=between),
    )
    flags = {name: raw[name] for name in FLAGS if name in raw}
    unlimited = [name for name in MAY_BE_UNLIMITED if flags.get(name) == 0]
    for name in unlimited:
        del flags[name]
    if "mem_util" in memory:
        flags["gpu_memory_utilization"] = float(memory["mem_util"])
    one = InstanceSpec(
        model=model,
        device=device,
        parallelism=Parallelism(degree, stages, ranks, shared_by, experts=experts if shared_by > 1 else experts.unbalanced),
        limits=replace(limits, **flags),
        link=within,
        role=ROLES[raw.get("pd_type")],
    )
    return _without(unlimited, one) if unlimited else one


def _devices(raw: Mapping[str, Any]) -> int:
    """Devices of an instance."""
    stages = int(raw.get("pp_size") or 1)
    return int(raw.get("num_npus") or raw.get("npu_num") or int(raw.get("tp_size") or 1) * stages)


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


def _link(cluster: Mapping[str, Any], dimension: int) -> LinkSpec:
    """The link of a network dimension, innermost first; settings are one number for all, or a list of one for each dimension."""
    bandwidth, latency = (
        float(value[dimension] if isinstance(value, list) else value) for value in (cluster["link_bw"], cluster["link_latency"])
    )
    return LinkSpec(bandwidth * 2**30, latency * 1e-9)
