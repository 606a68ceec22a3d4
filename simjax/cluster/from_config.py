"""From the configuration to a `ClusterSpec` and a `LatencySource`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from simjax.backend.releases import DEFAULT, balancer_rules, connector_gone, defaults_of, drafting_rules
from simjax.cluster.balancer import Balancer
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.latency_source import HOST_TIMES, LatencySource
from simjax.cluster.llmservingsim import read_cluster
from simjax.cluster.routers import CostWeights
from simjax.cluster.spec import ClusterSpec, InstanceLimits, InstanceSpec, RouterWeights
from simjax.cluster.warnings import seats_beyond_budget
from simjax.config.cluster import ClusterConfig, GroupConfig
from simjax.config.compose import group_config
from simjax.config.disaggregation import DisaggregationConfig
from simjax.config.network import NetworkConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import DeployedConfig, ProfileConfig
from simjax.deployment import Role
from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec, LinkSpec, load_device, load_node
from simjax.hardware.ranges import RANGES
from simjax.model import load_model
from simjax.network.placement import Network, Nodes
from simjax.parallel.experts import ALL_GATHER, Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity, read_popularity
from simjax.placement.config import WeightsConfig
from simjax.placement.from_config import pim_of, placement_of, with_pim_rules, with_rules
from simjax.placement.pim_config import PimConfig
from simjax.speculation.config import SpeculationConfig
from simjax.speculation.methods import METHODS, MTP, MTP_RATES, Speculation
from simjax.tiering import tiering_of

_FLAGS = tuple(field.name for field in dataclasses.fields(SchedulerConfig))


def engine_limits(config: SchedulerConfig, base: InstanceLimits | None = None) -> InstanceLimits:
    """The limits that the configuration, or a record with its fields, sets on top of `base` (vLLM's defaults when None)."""
    given = {name: value for name in _FLAGS if (value := getattr(config, name)) is not None}
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


def configured_cluster(config: DeployedConfig) -> ClusterSpec:
    """The cluster that a configuration describes; errors as of `build_cluster`."""
    rest = (config.cluster, config.scheduler, config.disaggregation, config.network)
    built = build_cluster(config.model, config.device, *rest, release=config.backend.release, offloading=config.pim.enable_attn_offloading)
    gone = connector_gone(built.disaggregation.connector, config.backend.release) if built.disaggregated else None
    if gone is not None:
        raise SimjaxError(gone)
    built = _placing(built, config.weights, config.pim)
    built = replace(built, tiering=tiering_of(config.kv_tiers))
    drafts = speculation_of(config.speculation, config.backend.release)
    return built if drafts is None else _drafting(built, drafts)


def speculation_of(config: SpeculationConfig, release: str = DEFAULT) -> Speculation | None:
    """The speculative decoding that the configuration describes, by the rules of a release; None without.

    Raises:
        SimjaxError: a value is out of range, or acceptance rates are missing.
    """
    if config.method is None:
        return None
    rates = tuple(config.synthetic_acceptance_rates) or (MTP_RATES if config.method == MTP else ())
    if not rates and config.method in METHODS:
        raise SimjaxError(
            f"speculation.method={config.method}: give speculation.synthetic_acceptance_rates, the rate for each draft at which it and all "
            "before it are accepted, such as [0.7,0.5,0.3]; they depend on model and text"
        )
    model = None if config.model is None else load_model(config.model)
    return Speculation(config.method, config.num_speculative_tokens, rates, model, config.seed, **drafting_rules(release))


def _drafting(cluster: ClusterSpec, speculation: Speculation) -> ClusterSpec:
    """The cluster with speculative decoding on all instances; equal ones stay one record."""
    made = {id(x): replace(x, speculation=speculation) for x in cluster.instances}
    return replace(cluster, instances=tuple(made[id(x)] for x in cluster.instances))


def _placing(cluster: ClusterSpec, config: WeightsConfig, memory: PimConfig) -> ClusterSpec:
    """The cluster with its weights and its decode attention where the configuration, or its file, has them; equal instances stay one
    record.
    """
    own_pim = pim_of(memory)

    def placed(one: InstanceSpec) -> InstanceSpec:
        given = one.weights
        found = placement_of(config, one.model.num_hidden_layers) if given is None else with_rules(given, config)
        pim = own_pim if one.pim is None else with_pim_rules(one.pim, memory)
        return one if (found, pim) == (given, one.pim) else replace(one, weights=found, pim=pim)

    made = {id(x): placed(x) for x in cluster.instances}
    if all(made[id(x)] is x for x in cluster.instances):
        return cluster
    return replace(cluster, instances=tuple(made[id(x)] for x in cluster.instances))


def build_cluster(
    model: str,
    device: str,
    cluster: ClusterConfig,
    scheduler: SchedulerConfig,
    disaggregation: DisaggregationConfig = DisaggregationConfig(),  # noqa: B008  # never changed
    network: NetworkConfig = NetworkConfig(),  # noqa: B008  # never changed
    release: str = DEFAULT,
    offloading: bool = False,
) -> ClusterSpec:
    """The cluster of a run.

    Raises:
        SimjaxError: a name is unknown, a number out of range, or two ways of describing the cluster are mixed.
    """
    limits = engine_limits(scheduler, release_limits(release))
    weights = RouterWeights(cluster.router_prefix_weight, cluster.router_queue_weight, cluster.router_kv_weight)
    costs = CostWeights(
        cluster.router_prefill_load_scale, cluster.router_overlap_credit, cluster.router_active_weight, cluster.router_temperature
    )
    behind = partial(
        ClusterSpec,
        router=cluster.router,
        router_weights=weights,
        router_costs=costs,
        router_staleness_s=cluster.router_staleness_s,
        disaggregation=handover(disaggregation),
        network=network_of(network),
        balancer=Balancer(cluster.data_parallel_external_lb, cluster.api_server_count, **balancer_rules(release)),
    )
    placed = in_network(network)
    if cluster.file is not None:
        if cluster.groups:
            raise SimjaxError("cluster.file and cluster.groups are both set; the cluster comes from one of them")
        of_file = read_cluster(Path(cluster.file), limits, experts_of(cluster), offloading).instances
        _refuse_overridden(limits, release_limits(release), of_file)
        return behind(of_file)
    if not cluster.groups and (cluster.prefill.instances or cluster.decode.instances):
        return behind(_of_one_kind(_pools(model, device, cluster, limits, placed), network))
    if not cluster.groups:
        if cluster.instances < 1:
            raise SimjaxError(f"cluster.instances={cluster.instances}: it must be at least 1")
        whole = GroupConfig(instances=cluster.instances)
        return behind(_group(whole, model, device, cluster, limits, placed))
    instances: list[InstanceSpec] = []
    for number, raw in enumerate(cluster.groups):
        group = group_config(number, raw)
        try:
            if group.instances < 1:
                raise SimjaxError(f"instances={group.instances}: it must be at least 1")
            instances += _group(group, model, device, cluster, limits, placed)
        except SimjaxError as error:
            raise SimjaxError(f"cluster.groups[{number}]: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
    return behind(_of_one_kind(tuple(instances), network))


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


def network_of(config: NetworkConfig) -> Network:
    """The nodes that the configuration describes.

    Raises:
        SimjaxError: a number is out of range, or a node of an instance is none.
    """
    return Network(config.nodes, config.placement, tuple(_nodes(i, given) for i, given in enumerate(config.instance_nodes)))


def _nodes(instance: int, given: Any) -> Nodes:
    """The nodes of an instance: one, or a list."""
    nodes = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not nodes or not all(isinstance(node, int) and not isinstance(node, bool) for node in nodes):
        raise SimjaxError(f"network.instance_nodes[{instance}]={given}: it must be the number of a node, or a list of them")
    return tuple(nodes)


def in_network(config: NetworkConfig) -> Callable[[DeviceSpec], DeviceSpec]:
    """A function that puts a device into the type of node, and on the links, that the configuration describes.

    Raises:
        SimjaxError: there is no such type, or a number is out of range.
    """
    given = None if config.node is None else load_node(config.node)
    counts = {name: value for name in ("devices_per_node", "nics_per_node") if (value := getattr(config, name)) is not None}
    link = {name: value for name in ("bandwidth_bytes_per_s", "latency_s") if (value := getattr(config, f"inter_{name}")) is not None}
    for name, value in counts.items():
        if value < 1:
            raise SimjaxError(f"network.{name}={value}: it must be at least 1")
    for name, value in link.items():
        if name == "latency_s" and not 0 <= value < math.inf:
            raise SimjaxError(f"network.inter_{name}={value}: it must be a number of seconds that is not negative")
        if name != "latency_s" and not 0 < value < math.inf:
            raise SimjaxError(f"network.inter_{name}={value}: it must be a positive number")
        RANGES[name].check(f"network.inter_{name}", value)

    def placed(device: DeviceSpec) -> DeviceSpec:
        node = given or device.node
        one_each = node.nics_per_node == node.devices_per_node and "devices_per_node" in counts
        still = {"nics_per_node": counts["devices_per_node"]} if one_each else {}
        return replace(device, node=replace(node, inter_link=replace(node.inter_link, **link), **(still | counts)))

    return placed if given is not None or counts or link else lambda device: device


def _of_one_kind(instances: tuple[InstanceSpec, ...], network: NetworkConfig) -> tuple[InstanceSpec, ...]:
    """The instances, unless a type of node is given for devices of several kinds."""
    kinds = dict.fromkeys(instance.device.name for instance in instances)
    if network.node is not None and len(kinds) > 1:
        raise SimjaxError(
            f"network.node={network.node}: the cluster has devices of several kinds ({', '.join(kinds)}); each sits in the type of node "
            "that its device file names"
        )
    return instances


def _refuse_overridden(limits: InstanceLimits, defaults: InstanceLimits, instances: tuple[InstanceSpec, ...]) -> None:
    """Raise for a limit of the configuration, other than the default, that every instance of a cluster file replaces."""
    for name in _FLAGS:
        value = getattr(limits, name)
        if value != getattr(defaults, name) and all(getattr(one.limits, name) != value for one in instances):
            raise SimjaxError(f"scheduler.{name}={value} has no effect with cluster.file, whose instances all have their own")


def handover(config: DisaggregationConfig) -> Disaggregation:
    """The hand-over that a configuration describes.

    Raises:
        SimjaxError: a name is unknown, or a number out of range.
    """
    given = {field.name: value for field in dataclasses.fields(config) if (value := getattr(config, field.name)) is not None}
    return Disaggregation(**given)


def _pools(
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
            instances += _group(group, model, device, cluster, limits, placed)
        except SimjaxError as error:
            raise SimjaxError(f"{name}: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
    return tuple(instances)


def _role(name: str) -> Role:
    names = [role.value for role in Role]
    if name not in names:
        raise SimjaxError(f"role={name}: there is no such role; {closest(name, names)}")
    return Role(name)


def _group(
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


def latency_source(config: ProfileConfig) -> LatencySource:
    """The source from which the configuration takes step times.

    Raises:
        SimjaxError: a number is out of its range, a parameter is unknown or set twice, or two sources are mixed.
    """
    for name in HOST_TIMES:
        if name in config.parameters and getattr(config, name) is not None:
            raise SimjaxError(f"profile.{name} and profile.parameters.{name} are both set; leave one of them out")
    return LatencySource(
        profile=None if config.file is None else Path(config.file),
        bundle_root=None if config.bundle_root is None else Path(config.bundle_root),
        variant=config.variant,
        step_s=config.step_s,
        api_pre_s=config.api_pre_s,
        api_post_s=config.api_post_s,
        parameters=tuple((str(name), float(value)) for name, value in config.parameters.items()),
    )
