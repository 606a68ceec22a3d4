"""Placement of the instances of a cluster on its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from simjax.errors import SimjaxError, closest
from simjax.hardware import NodeSpec
from simjax.network.stages import nodes_of_stages

PLACEMENTS = ("packed", "spread")
"""Rules: an instance goes to the first node that has room; or the instances of a role are dealt to the nodes in turn."""

Nodes = tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """The nodes of a cluster and the instances on them; what a node is, its devices say (`DeviceSpec.node`).

    Attributes:
        nodes: number of nodes, None for as many as the instances need.
        placement: one of `PLACEMENTS`.
        instance_nodes: node numbers of each instance, counted from 0, instead of a rule; several where its ranks span nodes.

    Raises:
        SimjaxError: there is no such rule, or no node.
    """

    nodes: int | None = None
    placement: str = "packed"
    instance_nodes: tuple[Nodes, ...] = ()

    def __post_init__(self) -> None:
        if self.placement not in PLACEMENTS:
            raise SimjaxError(f"network.placement={self.placement}: there is no such rule; {closest(self.placement, list(PLACEMENTS))}")
        if self.nodes is not None and self.nodes < 1:
            raise SimjaxError(f"network.nodes={self.nodes}: it must be at least 1")


class Footprint(NamedTuple):
    """What an instance needs: devices of a kind, in nodes that have so many of them; instances of one role are dealt together."""

    devices: int
    devices_per_node: int
    nodes: int
    kind: str
    role: str

    @staticmethod
    def of(tensor: int, stages: int, node: NodeSpec, kind: str, role: str, data: int = 1) -> Footprint:
        """The footprint of an instance of `data` ranks, each of pp stages with `tensor` devices of a kind, in a type of node.

        Several ranks share a node where they fit it, on as few nodes as hold the same number of ranks each.
        """
        nodes, room = nodes_of_stages(node, tensor, stages), max(node.devices_per_node // (tensor * stages), 1)
        together = max(k for k in range(1, data + 1) if data % k == 0 and (k == 1 or (nodes == 1 and k <= room)))
        return Footprint(data * tensor * stages, node.devices_per_node, data // together * nodes, kind, role)

    @property
    def sort(self) -> tuple[str, int]:
        """Sort of node that it needs; nodes are shared only by instances that need the same."""
        return self.kind, self.devices_per_node

    @property
    def share(self) -> int:
        """Devices on each of its nodes."""
        return self.devices // self.nodes


def dealt_to_ranks(nodes: Nodes, ranks: int) -> tuple[Nodes, ...]:
    """The nodes of each of the data-parallel ranks of an instance on these nodes; as many of them are on each."""
    each = max(len(nodes) // ranks, 1)
    return tuple(nodes[first : first + each] for rank in range(ranks) for first in (rank * len(nodes) // ranks,))


@lru_cache(maxsize=4096)
def place(network: Network, instances: tuple[Footprint, ...]) -> tuple[Nodes, ...]:
    """The nodes of each instance. A node has devices of one kind, except where they are placed by hand.

    Ranks that fit a node are on one node, and others on as few as hold them evenly.

    Raises:
        SimjaxError: the instances do not fit the nodes.
    """
    if network.instance_nodes:
        return _by_hand(network, instances)
    packed, used = _packed(instances)
    if network.nodes is not None and used > network.nodes:
        kinds = dict.fromkeys(f"{one.kind} ({one.devices_per_node} a node)" for one in instances)
        raise SimjaxError(
            f"network.nodes={network.nodes}: the cluster does not fit; its {len(instances)} instances with "
            f"{sum(one.devices for one in instances)} devices of {', '.join(kinds)} need {used} nodes"
        )
    return packed if network.placement == "packed" else _spread(network, instances, packed)


def _packed(instances: Sequence[Footprint]) -> tuple[tuple[Nodes, ...], int]:
    """The first nodes with room for each instance, and the number of nodes."""
    free: list[int] = []
    kinds: list[tuple[str, int]] = []
    placed = []
    for one in instances:
        share, found = one.share, []
        for node, left in enumerate(free):
            if left >= share and kinds[node] == one.sort:
                found.append(node)
                if len(found) == one.nodes:
                    break
        for _ in range(one.nodes - len(found)):
            found.append(len(free))
            free.append(one.devices_per_node)
            kinds.append(one.sort)
        for node in found:
            free[node] -= share
        placed.append(tuple(found))
    return tuple(placed), len(free)


def _spread(network: Network, instances: Sequence[Footprint], packed: Sequence[Nodes]) -> tuple[Nodes, ...]:
    """The instances of each role dealt in turn to the nodes of their kind, the larger ones first.

    A cluster of one kind uses all nodes that it has; one of several, and one without a number of nodes, those of `packed`, and more only
    where dealing in turn leaves no room.
    """
    kinds = list(dict.fromkeys(one.sort for one in instances))
    placed: list[Nodes] = [()] * len(instances)
    first = 0
    for number, kind in enumerate(kinds):
        mine = [i for i, one in enumerate(instances) if one.sort == kind]
        fewest = len({node for i in mine for node in packed[i]})
        others = sum(len({n for i, one in enumerate(instances) if one.sort == other for n in packed[i]}) for other in kinds[number + 1 :])
        most = sum(instances[i].nodes for i in mine) if network.nodes is None else network.nodes - first - others
        counts = [most] if len(kinds) == 1 and network.nodes is not None else range(fewest, most + 1)
        dealt = next((found for count in counts if (found := _dealt(instances, mine, count)) is not None), None)
        if dealt is None:
            raise SimjaxError(f"network.placement=spread: dealt in turn, the instances on {kind[0]} do not fit {most} nodes; use packed")
        for i, nodes in dealt.items():
            placed[i] = tuple(first + node for node in nodes)
        first += 1 + max(node for nodes in dealt.values() for node in nodes)
    return tuple(placed)


def _dealt(instances: Sequence[Footprint], mine: Sequence[int], count: int) -> dict[int, Nodes] | None:
    """The nodes, of `count`, of the instances of one kind; None where they do not fit."""
    free = [instances[mine[0]].devices_per_node] * count
    turns: dict[str, int] = {}
    found: dict[int, Nodes] = {}
    for i in sorted(mine, key=lambda i: -instances[i].devices):
        one, turn = instances[i], turns.get(instances[i].role, 0)
        nodes = [node for k in range(count) if free[node := (turn + k) % count] >= one.share][: one.nodes]
        if len(nodes) < one.nodes:
            return None
        for node in nodes:
            free[node] -= one.share
        turns[one.role] = nodes[-1] + 1
        found[i] = tuple(nodes)
    return found


def _by_hand(network: Network, instances: Sequence[Footprint]) -> tuple[Nodes, ...]:
    """The nodes that the user gives, checked. Devices of several kinds may share a node, each taking its share of one of its kind."""
    given = network.instance_nodes
    if len(given) != len(instances):
        raise SimjaxError(f"network.instance_nodes has {len(given)} entries; the cluster has {len(instances)} instances, each needs one")
    used: dict[int, float] = {}
    for i, (nodes, one) in enumerate(zip(given, instances, strict=True)):
        where = f"network.instance_nodes[{i}]"
        if len(nodes) != one.nodes or len(set(nodes)) != len(nodes):
            raise SimjaxError(
                f"{where}={list(nodes)}: an instance of {one.devices} devices at {one.devices_per_node} a node takes {one.nodes} of them"
            )
        for node in nodes:
            if node < 0 or (network.nodes is not None and node >= network.nodes):
                last = "" if network.nodes is None else f" to {network.nodes - 1}"
                raise SimjaxError(f"{where}: there is no node {node}; they are numbered from 0{last}")
            used[node] = used.get(node, 0.0) + one.share / one.devices_per_node
            if used[node] > 1 + 1e-9:
                raise SimjaxError(f"{where}: node {node} has no room for {one.share} more devices of {one.kind}")
    return given
