"""The parts of a cluster: instances and a router in front."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

from simjax.cluster.balancer import Balancer
from simjax.cluster.disaggregation import CONNECTORS, Disaggregation
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.routers import ROUTERS, CostWeights, RouterRule
from simjax.cluster.weight_readers import with_readers
from simjax.deployment import Role
from simjax.errors import SimjaxError, closest
from simjax.network.placement import Network, Nodes, dealt_to_ranks, place
from simjax.tiering import Tiering


@dataclass(frozen=True)
class RouterWeights:
    """Weights of the weighted router: the part of a prompt that is not cached, the queue and the KV cache's use.

    Raises:
        SimjaxError: a weight is negative or not finite.
    """

    prefix: float = 1.0
    queue: float = 1.0
    kv: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < math.inf:
                raise SimjaxError(f"cluster.router_{name}_weight={value}: it must be a number that is not negative")


@dataclass(frozen=True)
class ClusterSpec:
    """Instances behind one router (one of `ROUTERS`), which renews its view of them when it is `router_staleness_s` old.

    Attributes:
        instances: instances in order.
        router, router_weights, router_costs, router_staleness_s: router of arriving requests; that of second legs, which is
            `disaggregation.decode_router`, has the same weights and the same view.
        disaggregation: hand-over from prefill to decode instances; without effect where there are none.
        network: nodes and the instances on them.
        balancer: load balancer within instances of several ranks.
        tiering: tier behind the KV cache of the ranks, None without.

    Raises:
        SimjaxError: there is no instance, or no such router, or its view cannot be that old, or one of two roles is missing, or the
            instances do not fit the nodes.
    """

    instances: tuple[InstanceSpec, ...]
    router: str = "round_robin"
    router_weights: RouterWeights = field(default_factory=RouterWeights)
    router_costs: CostWeights = field(default_factory=CostWeights)
    router_staleness_s: float = 0.0
    disaggregation: Disaggregation = field(default_factory=Disaggregation)
    network: Network = field(default_factory=Network)
    balancer: Balancer = field(default_factory=Balancer)
    tiering: Tiering | None = None

    def __post_init__(self) -> None:
        if not self.instances:
            raise SimjaxError("the cluster has no instances; it needs at least one")
        if self.router not in ROUTERS:
            raise SimjaxError(f"cluster.router={self.router}: there is no such router; {closest(self.router, list(ROUTERS))}")
        if not 0 <= self.router_staleness_s < math.inf:
            raise SimjaxError(f"cluster.router_staleness_s={self.router_staleness_s}: it must be a number of seconds that is not negative")
        roles = {instance.role for instance in self.instances}
        for one, other in ((Role.PREFILL, Role.DECODE), (Role.DECODE, Role.PREFILL)):
            if one in roles and other not in roles:
                raise SimjaxError(f"the cluster has {one.value} instances and no {other.value} instances; it needs both, or neither")
        within_steps = CONNECTORS[self.disaggregation.connector].within_steps
        object.__setattr__(self, "instances", tuple(_streaming(instance, within_steps) for instance in self.instances))
        if any(instance.weights is not None for instance in self.instances):
            object.__setattr__(self, "instances", with_readers(self.instances, self.nodes))
        if self.network.nodes is not None or self.network.instance_nodes:
            _ = self.nodes

    @property
    def disaggregated(self) -> bool:
        """Whether some instances run one phase of a request only."""
        return any(instance.role is not Role.BOTH for instance in self.instances)

    @cached_property
    def nodes(self) -> tuple[Nodes, ...]:
        """The nodes of each instance, counted from 0."""
        return place(self.network, tuple(instance.footprint for instance in self.instances))

    @cached_property
    def instance_of_rank(self) -> tuple[int, ...]:
        """The instance of each rank; ranks are numbered over all instances."""
        return tuple(i for i, instance in enumerate(self.instances) for _ in range(instance.parallelism.data))

    @property
    def ranks(self) -> tuple[InstanceSpec, ...]:
        """The instance of each rank, as a record."""
        return tuple(self.instances[i] for i in self.instance_of_rank)

    @property
    def nodes_of_ranks(self) -> tuple[Nodes, ...]:
        """The nodes of each rank; the ranks of an instance are spread evenly over its nodes."""
        each = zip(self.instances, self.nodes, strict=True)
        return tuple(nodes for instance, all_nodes in each for nodes in dealt_to_ranks(all_nodes, instance.parallelism.data))

    @property
    def routers(self) -> tuple[RouterRule, ...]:
        """Rules of the routers that have a choice."""
        rules = (ROUTERS[self.router], ROUTERS[self.disaggregation.decode_router])
        return rules[: (self.choices > 1) + self.disaggregated]

    @property
    def choices(self) -> int:
        """Instances, or ranks, that a router has before it."""
        return len(self.instance_of_rank if self.balancer.external else self.instances)

    @property
    def balances(self) -> bool:
        """Whether instances choose the ranks of requests themselves."""
        return not self.balancer.external and len(self.instance_of_rank) > len(self.instances)

    @property
    def num_devices(self) -> int:
        """Devices in the cluster."""
        return sum(instance.parallelism.num_devices for instance in self.instances)


def _streaming(instance: InstanceSpec, within_steps: bool) -> InstanceSpec:
    """The instance, whose steps send the KV cache over the link of its devices if they do so and it runs prefills only."""
    link = (instance.link or instance.device.node.intra_link) if within_steps and instance.role is Role.PREFILL else None
    return instance if instance.kv_stream == link else replace(instance, kv_stream=link)
