"""From the configuration to a `ClusterSpec`."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from functools import partial
from pathlib import Path

from simjax.backend.releases import DEFAULT, balancer_rules, connector_gone, drafting_rules
from simjax.cluster.balancer import Balancer
from simjax.cluster.configured.groups import FLAGS, engine_limits, experts_of, instances_of_group, instances_of_pools, release_limits
from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.configured.network import in_network, network_of
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.routers import CostWeights
from simjax.cluster.spec import ClusterSpec, RouterWeights
from simjax.config.cluster import ClusterConfig, GroupConfig
from simjax.config.compose import group_config
from simjax.config.disaggregation import DisaggregationConfig
from simjax.config.network import NetworkConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import DeployedConfig
from simjax.errors import SimjaxError
from simjax.model import load_model
from simjax.placement.config import WeightsConfig
from simjax.placement.from_config import pim_of, placement_of, with_pim_rules, with_rules
from simjax.placement.pim_config import PimConfig
from simjax.speculation.config import SpeculationConfig
from simjax.speculation.methods import METHODS, MTP, MTP_RATES, Speculation
from simjax.tiering import tiering_of


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
        return behind(_of_one_kind(instances_of_pools(model, device, cluster, limits, placed), network))
    if not cluster.groups:
        if cluster.instances < 1:
            raise SimjaxError(f"cluster.instances={cluster.instances}: it must be at least 1")
        whole = GroupConfig(instances=cluster.instances)
        return behind(instances_of_group(whole, model, device, cluster, limits, placed))
    instances: list[InstanceSpec] = []
    for number, raw in enumerate(cluster.groups):
        group = group_config(number, raw)
        try:
            if group.instances < 1:
                raise SimjaxError(f"instances={group.instances}: it must be at least 1")
            instances += instances_of_group(group, model, device, cluster, limits, placed)
        except SimjaxError as error:
            raise SimjaxError(f"cluster.groups[{number}]: {str(error).removeprefix('scheduler.').removeprefix('cluster.')}") from None
    return behind(_of_one_kind(tuple(instances), network))


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
    for name in FLAGS:
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
