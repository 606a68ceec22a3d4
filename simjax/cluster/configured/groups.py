"""From the configuration to the instances of one kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from simjax.backend.releases import defaults_of
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.warnings import seats_beyond_budget
from simjax.config.cluster import ClusterConfig, GroupConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.deployment import Role
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, LinkSpec, load_device
from simjax.hardware.ranges import RANGES
from simjax.model import load_model
from simjax.parallel.experts import ALL_GATHER, Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity, read_popularity

FLAGS = tuple(field.name for field in dataclasses.fields(SchedulerConfig))


def engine_limits(config: SchedulerConfig, base: InstanceLimits | None = None) -> InstanceLimits:
    """The limits that the configuration, or a record with its fields, sets on top of `base` (vLLM's defaults when None)."""
    given = {name: value for name in FLAGS if (value := getattr(config, name)) is not None}
    return replace(base or InstanceLimits(), **given)


def release_limits(release: str) -> InstanceLimits:
    """The limits of an instance by the defaults of a release.

    Raises:
        SimjaxError: there is no such release.
    """
    return InstanceLimits(**defaults_of(release))


def instance_link(config: ClusterConfig, device: DeviceSpec) -> LinkSpec | None:
    """The link that the configuration describes, None when it leaves the device's own.

    Raises:
        SimjaxError: a number is out of range.
    """
    link, bandwidth, latency = device.node.intra_link, config.link_bandwidth_bytes_per_s, config.link_latency_s
    if bandwidth is None and latency is None:
        return None
    if bandwidth is not None and not bandwidth > 0:
        raise SimjaxError(f"cluster.link_bandwidth_bytes_per_s={bandwidth}: it must be positive")
    if latency is not None and not 0 <= latency < math.inf:
        raise SimjaxError(f"cluster.link_latency_s={latency}: it must be a number of seconds that is not negative")
    for name, value in (("bandwidth_bytes_per_s", bandwidth), ("latency_s", latency)):
        if value is not None and math.isfinite(value):
            RANGES[name].check(f"cluster.link_{name}", value)
    return replace(
        link,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s if bandwidth is None else bandwidth,
        latency_s=link.latency_s if latency is None else latency,
    )


def experts_of(cluster: ClusterConfig) -> Experts:
    """The placement and the popularity of experts that the configuration describes.

    Raises:
        SimjaxError: a name is unknown, a number out of range, or the file of a popularity malformed.
    """
    name = cluster.expert_popularity
    popularity = (
        read_popularity(Path(name))
        if name.endswith(".csv")
        else Popularity(name, cluster.expert_zipf_exponent, cluster.expert_concentration)
    )
    return Experts(
        cluster.expert_placement_strategy,
        cluster.enable_eplb,
        cluster.num_redundant_experts,
        cluster.eplb_rearranged,
        popularity,
        cluster.all2all_backend or ALL_GATHER,
        cluster.enable_dbo,
    )


def instances_of_pools(
    model: str, device: str, cluster: ClusterConfig, limits: InstanceLimits, placed: Callable[[DeviceSpec], DeviceSpec]
) -> tuple[InstanceSpec, ...]:
    """The prefill instances, then the decode instances."""
    instances: list[InstanceSpec] = []
    for role, pool, other in ((Role.PREFILL, cluster.prefill, Role.DECODE), (Role.DECODE, cluster.decode, Role.PREFILL)):
        name = f"cluster.{role.value}"
        if pool.instances < 1:
            raise SimjaxError(f"{name}.instances={pool.instances}: it must be at least 1, as there are {other.value} instances")
        group = GroupConfig(**vars(pool), role=role.value)
        try:
            instances += instances_of_group(group, model, device, cluster, limits, placed)
        except SimjaxError as error:
            raise SimjaxError(f"{name}: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
    return tuple(instances)


def _role(name: str) -> Role:
    names = [role.value for role in Role]
    if name not in names:
        raise SimjaxError(f"role={name}: there is no such role; {closest(name, names)}")
    return Role(name)


def instances_of_group(
    group: GroupConfig, model: str, device: str, cluster: ClusterConfig, limits: InstanceLimits, placed: Callable[[DeviceSpec], DeviceSpec]
) -> tuple[InstanceSpec, ...]:
    spec = placed(load_device(device if group.device is None else group.device))
    own = lambda name: getattr(cluster if getattr(group, name) is None else group, name)
    sizes = (own(f"{name}_parallel_size") for name in ("tensor", "pipeline", "data"))
    degree, stages, ranks = (1 if size is None else size for size in sizes)
    partition, sharing = own("pipeline_layer_partition"), own("enable_expert_parallel")
    limits = engine_limits(group, limits)
    if seats_beyond_budget(limits):
        seats, budget = limits.max_num_seqs, limits.max_num_batched_tokens
        raise SimjaxError(f"scheduler.max_num_seqs={seats}: vLLM refuses more seats than max_num_batched_tokens={budget}")
    architecture = load_model(model if group.model is None else group.model)
    if sharing and not architecture.is_moe:
        raise SimjaxError(f"cluster.enable_expert_parallel=true: {architecture.name} has no experts")
    one = InstanceSpec(
        model=architecture,
        device=spec,
        parallelism=Parallelism(
            tensor=degree,
            pipeline=stages,
            data=ranks,
            layer_partition=None if partition is None else tuple(partition),
            expert=degree * ranks if sharing else 1,
            experts=experts_of(cluster) if sharing else experts_of(cluster).unbalanced,
        ),
        limits=limits,
        link=instance_link(cluster, spec),
        role=_role(group.role),
    )
    return (one,) * group.instances
