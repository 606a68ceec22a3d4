"""From the configuration to the nodes and links of a cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from simjax.config.network import NetworkConfig
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, load_node
from simjax.hardware.ranges import RANGES
from simjax.network.placement import Network, Nodes


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
