"""From the configuration to a `ClusterSpec` and a `CostSource`."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

from simjax.cluster.llmservingsim import read_cluster
from simjax.cluster.pricing import CostSource
from simjax.cluster.spec import ClusterSpec, EngineLimits, InstanceSpec
from simjax.config.schema import ClusterConfig, ProfileConfig, SchedulerConfig
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, LinkSpec, load_device
from simjax.model import load_model

GROUP_KEYS = ("instances", "model", "device", "tensor_parallel_size")


def engine_limits(config: SchedulerConfig, base: EngineLimits | None = None) -> EngineLimits:
    """The limits that the configuration sets, on top of `base` (vLLM's defaults when None)."""
    given = {name: value for name, value in dataclasses.asdict(config).items() if value is not None}
    return replace(base or EngineLimits(), **given)


def instance_link(config: ClusterConfig, device: DeviceSpec) -> LinkSpec | None:
    """The link that the configuration describes, None when it leaves the device's own."""
    given = {
        "bandwidth_bytes_per_s": config.link_bandwidth_bytes_per_s,
        "latency_s": config.link_latency_s,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return replace(device.node.intra_link, **given) if given else None


def build_cluster(model: str, device: str, cluster: ClusterConfig, scheduler: SchedulerConfig) -> ClusterSpec:
    """The cluster of a run.

    Raises:
        SimjaxError: a name is unknown, a number out of range, or two ways of describing the cluster are mixed.
    """
    limits = engine_limits(scheduler)
    if cluster.file is not None:
        if cluster.groups:
            raise SimjaxError("cluster.file and cluster.groups are both set; the cluster comes from one of them")
        return ClusterSpec(read_cluster(Path(cluster.file), limits), cluster.router)
    groups = cluster.groups or [{"instances": cluster.instances}]
    instances: list[InstanceSpec] = []
    for number, group in enumerate(groups):
        instances += _group(number, group, model, device, cluster, scheduler, limits)
    return ClusterSpec(tuple(instances), cluster.router)


def _group(
    number: int, group: Any, model: str, device: str, cluster: ClusterConfig, scheduler: SchedulerConfig, limits: EngineLimits
) -> list[InstanceSpec]:
    where = f"cluster.groups[{number}]"
    if not isinstance(group, dict):
        raise SimjaxError(f"{where}: a group is a mapping like {{instances: 2, device: h100}}, got {group!r}")
    flags = [field.name for field in dataclasses.fields(scheduler)]
    for key in group:
        if key not in GROUP_KEYS and key not in flags:
            raise SimjaxError(f"{where}: unknown key '{key}'; {closest(str(key), [*GROUP_KEYS, *flags])}")
    count = group.get("instances", 1)
    if not isinstance(count, int) or count < 1:
        raise SimjaxError(f"{where if cluster.groups else 'cluster'}.instances={count}: it must be an integer of at least 1")
    spec = load_device(str(group.get("device", device)))
    degree = group.get("tensor_parallel_size", cluster.tensor_parallel_size) or 1
    one = InstanceSpec(
        model=load_model(str(group.get("model", model))),
        device=spec,
        tensor_parallel_size=degree,
        limits=replace(limits, **{key: value for key, value in group.items() if key in flags}),
        link=instance_link(cluster, spec),
    )
    return [one] * count


def cost_source(config: ProfileConfig) -> CostSource:
    """Where the configuration takes step costs from."""
    return CostSource(
        profile=None if config.file is None else Path(config.file),
        bundle_root=None if config.bundle_root is None else Path(config.bundle_root),
        variant=config.variant,
        step_s=config.step_s,
        api_pre_s=config.api_pre_s,
        api_post_s=config.api_post_s,
    )
