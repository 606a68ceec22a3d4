"""The `power` objects of LLMServingSim's cluster files, read unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simjax.disk.documents import parse_json
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.power.spec import DevicePower, NodePower

BUSY_UTIL = 0.7
"""Use of the processors that it assumes while a device works."""
J_PER_PJ_BIT = 8e-12
"""Joules of a byte for each picojoule of a bit."""


def file_power(path: Path) -> tuple[dict[str, DevicePower], NodePower] | None:
    """Power of the devices by short name, and of a server without them; None unless every node of the file has a `power` object.

    Its standby lasts `standby_duration` seconds, and its active power holds while a device computes. The file is one whose cluster has been
    read (`simjax.cluster.configured.llmservingsim`).

    Raises:
        SimjaxError: a key is missing or no number, or the servers differ.
    """
    nodes = parse_json(path.read_text(encoding="utf-8-sig"), f"cluster file {path}")["nodes"]
    if not nodes or any("power" not in node for node in nodes):
        return None
    devices: dict[str, DevicePower] = {}
    servers: list[NodePower] = []
    for number, node in enumerate(nodes):
        where = f"{path}: power of node {number}"
        try:
            servers.append(_server(node["power"], node.get("cpu_mem") or {}))
            for name, watts in node["power"]["npu"].items():
                devices[load_device(name).name] = _device(watts)
        except SimjaxError as error:
            raise SimjaxError(f"{where}: {error}") from None
        except KeyError as error:
            raise SimjaxError(f"{where}: {error} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise SimjaxError(f"{where}: a value of the wrong type ({error})") from None
    if any(server != servers[0] for server in servers):
        raise SimjaxError(f"{path}: power: the nodes' servers differ, which is not simulated; make them alike")
    return devices, servers[0]


def _device(watts: Mapping[str, Any]) -> DevicePower:
    idle, standby, active = (float(watts[f"{state}_power"]) for state in ("idle", "standby", "active"))
    standby_s = float(watts["standby_duration"])
    return DevicePower(idle, standby, max(active - standby, 0.0), standby_s=standby_s, source="cluster file")


def _server(power: Mapping[str, Any], memory: Mapping[str, Any]) -> NodePower:
    cpu, dram, link, nic, storage = (power.get(name) or {} for name in ("cpu", "dram", "link", "nic", "storage"))
    spread, util = (float(cpu["active_power"]) - float(cpu["idle_power"]), float(cpu.get("util", 0.0))) if cpu else (0.0, 0.0)
    modules = float(memory.get("mem_size", 0)) // float(dram["dimm_size"]) if dram else 0.0
    return NodePower(
        base_w=float(power.get("base_node_power", 0.0)),
        cpu_w=float(cpu["idle_power"]) + spread * util if cpu else 0.0,
        cpu_active_w=spread * max(BUSY_UTIL - util, 0.0),
        dram_w=float(dram["idle_power"]) * modules if dram else 0.0,
        nic_w=float(nic["idle_power"]) * float(nic.get("num_nics", 1)) if nic else 0.0,
        storage_w=float(storage["idle_power"]) * float(storage.get("num_devices", 1)) if storage else 0.0,
        link_w=float(link["idle_power"]) * float(link.get("num_links", 1)) if link else 0.0,
        link_j_per_byte=J_PER_PJ_BIT * float(link.get("energy_per_bit", 0.0)) if link else 0.0,
        source="cluster file",
    )
