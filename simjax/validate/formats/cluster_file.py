"""`config.json` of a measured run: the cluster that served it, in LLMServingSim's schema or in simjax's own."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simjax.cluster.unsimulated import Setting, unsimulated
from simjax.config.scheduler import SchedulerConfig
from simjax.errors import SimjaxError, closest
from simjax.validate.formats.fields import find, number, read_mapping, require
from simjax.validate.run import HardwareFacts

OWN_KEYS = ("model", "device", "cluster", "scheduler")
OWN_CLUSTER_KEYS = ("instances", "tensor_parallel_size", "link_bandwidth_bytes_per_s", "link_latency_s")


@dataclass(frozen=True)
class MeasuredCluster:
    """The instances, all alike, that served a run.

    Attributes:
        model, device: names, as in the file.
        tensor_parallel_size, instances: GPUs per instance, and number of instances.
        mem_util: `gpu_memory_utilization` according to the file, None if absent.
        hardware: properties of the hardware according to the file.
        flags: flags of the serving software according to the file, which override those that it recorded itself.
        unsimulated: what the file asks for that is not simulated.
    """

    model: str
    device: str
    tensor_parallel_size: int
    instances: int
    mem_util: float | None = None
    hardware: HardwareFacts = field(default_factory=HardwareFacts)
    flags: dict[str, Any] = field(default_factory=dict)
    unsimulated: tuple[Setting, ...] = ()


def read_measured_cluster(path: Path) -> MeasuredCluster:
    """Read a `config.json`; a file with `nodes` is LLMServingSim's.

    The other form is the part of `simjax run`'s configuration that describes a cluster: `model`, `device`, `cluster` (instances,
    tensor_parallel_size, link_bandwidth_bytes_per_s, link_latency_s) and `scheduler` (any of its flags).

    Raises:
        SimjaxError: the file is malformed, has an unknown key, or describes what cannot be validated.
    """
    config = read_mapping(path)
    if not {"nodes", "model"} & set(config):
        raise SimjaxError(f"{path}: it has neither nodes (LLMServingSim's cluster schema) nor model and device (simjax's)")
    return _llmservingsim(config, path) if "nodes" in config else _own(config, path)


def _own(config: dict[str, Any], path: Path) -> MeasuredCluster:
    flags = [f.name for f in dataclasses.fields(SchedulerConfig)]
    cluster, scheduler = config.get("cluster") or {}, config.get("scheduler") or {}
    for section, given, known in (("", config, OWN_KEYS), ("cluster.", cluster, OWN_CLUSTER_KEYS), ("scheduler.", scheduler, flags)):
        if not isinstance(given, dict):
            raise SimjaxError(f"{path}: {section.rstrip('.')} must be a mapping, found {given!r}")
        for key in given:
            if key not in known:
                raise SimjaxError(f"{path}: unknown key '{section}{key}'; {closest(str(key), list(known))}")

    def stated(name: str) -> float | None:
        value = cluster.get(name)
        return None if value is None else number(value, f"cluster.{name}", path)

    renamed = {"num_gpu_blocks_override": "num_gpu_blocks"}
    stated_flags = {str(renamed.get(name, name)): value for name, value in scheduler.items() if value is not None}
    return MeasuredCluster(
        model=str(require(config, "model", path)),
        device=str(require(config, "device", path)),
        tensor_parallel_size=int(stated("tensor_parallel_size") or 1),
        instances=int(stated("instances") or 1),
        hardware=HardwareFacts(stated("link_bandwidth_bytes_per_s"), stated("link_latency_s")),
        flags=stated_flags,
    )


def _llmservingsim(config: dict[str, Any], path: Path) -> MeasuredCluster:
    nodes = require(config, "nodes", path)
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise SimjaxError(f"{path}: nodes must be a list of mappings")
    instances = [instance for node in nodes for instance in require(node, "instances", path)]
    if not instances or any(other != instances[0] for other in instances):
        raise SimjaxError(f"{path}: it has {len(instances)} instances, not all alike; a measured run is served by one kind")
    one = instances[0]

    def known(mapping: dict[str, Any], name: str) -> float | None:
        value = find(mapping, name)
        value = value[0] if isinstance(value, list) and value else value  # link settings may be one per network dimension
        return None if value is None else number(value, name, path)

    def scaled(value: float | None, unit: float) -> float | None:
        return None if value is None else value * unit

    latency_ns = known(config, "link_latency")
    return MeasuredCluster(
        model=require(one, "model_name", path),
        device=require(one, "hardware", path),
        tensor_parallel_size=int(known(one, "tp_size") or known(one, "num_npus") or 1),
        instances=len(instances),
        mem_util=known(one, "npu_mem.mem_util"),
        hardware=HardwareFacts(
            # In this schema a link's GB/s and a memory's GB are powers of two, a memory's GB/s are decimal.
            link_bandwidth_bytes_per_s=scaled(known(config, "link_bw"), 2.0**30),
            link_latency_s=None if latency_ns is None else latency_ns / 1e9,
            device_memory_bytes=scaled(known(one, "npu_mem.mem_size"), 2.0**30),
            device_memory_bandwidth_bytes_per_s=scaled(known(one, "npu_mem.mem_bw"), 1e9),
        ),
        unsimulated=unsimulated(one),
    )
