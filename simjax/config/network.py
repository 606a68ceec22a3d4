"""The `network` group of the configuration: nodes, their links, and the instances on them.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

from dataclasses import dataclass
from typing import Any

from simjax.config.disaggregation import DISAGGREGATED, have_roles
from simjax.options.condition import is_unset, needs
from simjax.options.option import option


def _linked(prefill: int, decode: int, groups: list[Any], file: str | None, size: int | None, stages: int | None) -> bool:
    names = ("tensor_parallel_size", "pipeline_parallel_size")
    sizes = [size, stages, *(group.get(name) for group in groups if hasattr(group, "get") for name in names)]
    return have_roles(prefill, decode, groups, file) or any(degree is not None and degree > 1 for degree in sizes)


# KV caches move between instances only where prefill and decode have instances of their own.
_MOVES = needs(DISAGGREGATED.keys, have_roles, "without prefill and decode instances", refused=False)
_LINKS = needs(
    (*DISAGGREGATED.keys, "cluster.tensor_parallel_size", "cluster.pipeline_parallel_size"),
    _linked,
    "with tensor_parallel_size=1 and no prefill and decode instances: nothing crosses a link",
    refused=False,
)


@dataclass
class NetworkConfig:
    """The nodes of a cluster.

    Devices sit in the type of node that their file names, or in `node`. Unset numbers are those of the type of node.

    Placement packed puts each instance on the first node that has room; spread deals the instances of each role to the nodes in turn. The
    devices of an instance that fits a node are never on two.
    """

    node: str | None = option(None, "type of node of all devices: a shipped name, or the path of a file like profiles/nodes/hgx_h100.yaml")
    nodes: int | None = option(None, "number of nodes, which the cluster must fit; unset: as many as it needs")
    placement: str = option("packed", "rule that puts instances on nodes: packed or spread", only=(is_unset("instance_nodes"), _MOVES))
    instance_nodes: list[Any] = option(
        [], "node of each instance instead, counted from 0, or a list of nodes for one whose ranks span several"
    )
    devices_per_node: int | None = option(None, "devices of a node")
    nics_per_node: int | None = option(None, "network adapters of a node", only=(_MOVES,))
    inter_bandwidth_bytes_per_s: float | None = option(
        None, "bandwidth of a network adapter each way, bytes/s; between nodes each device has one", "BYTES", only=(_LINKS,)
    )
    inter_latency_s: float | None = option(None, "latency of a message between nodes in seconds", only=(_LINKS,))
