"""Devices, links and nodes: spec-sheet facts, independent of any model."""

from simjax.hardware.nodes import load_node, node_names
from simjax.hardware.registry import device_names, load_device
from simjax.hardware.spec import DeviceSpec, LinkSpec, NodeSpec

__all__ = ["DeviceSpec", "LinkSpec", "NodeSpec", "device_names", "load_device", "load_node", "node_names"]
