"""Where the power of a cluster comes from: the shipped files or a user's, and what is set on top of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from simjax.errors import SimjaxError, closest
from simjax.hardware import DeviceSpec
from simjax.power.cluster_file import file_power
from simjax.power.config import PowerConfig
from simjax.power.files import device_power, node_power
from simjax.power.spec import DevicePower, NodePower

_log = logging.getLogger(__name__)

MODELS = ("utilization", "three_state")
SHARES = ("used", "whole")
SETTABLE = ("idle_w", "standby_w", "standby_s", "footprint_w", "memory_w", "compute_w", "limit_w", "active_w")


@dataclass(frozen=True)
class PowerSource:
    """Power of the devices and nodes of a cluster.

    Attributes:
        model: `utilization`, by achieved bandwidth and compute, or `three_state`, LLMServingSim's idle, standby and active.
        file: YAML file of a device's power, for all devices; None for those shipped.
        values: numbers of the devices that replace those of the file, by `SETTABLE` name; `active_w` is of three_state.
        factor: factor on what devices draw in steps beyond standby: kernels differ.
        node: whether servers count in addition to their devices.
        share: `used`, the share of a server that its devices in use are, or `whole`.
        pue: power usage effectiveness of the building.
        cap_w: most power of a device, infinity for the limit of its board.
        node_cap_w: most power of a server at its plug, which is divided over its devices; infinity for none.
        clock: clock to which devices are locked, as a share of the highest one; 1 for none.
        devices: power of devices by name that go before the files (those of a cluster file).
        nodes: likewise of servers, one for all.

    Raises:
        SimjaxError: a name or number is wrong.
    """

    model: str = "utilization"
    file: Path | None = None
    values: tuple[tuple[str, float], ...] = ()
    factor: float = 1.0
    node: bool = True
    share: str = "used"
    pue: float = 1.0
    cap_w: float = math.inf
    node_cap_w: float = math.inf
    clock: float = 1.0
    devices: Mapping[str, DevicePower] = field(default_factory=dict, hash=False)
    nodes: NodePower | None = None

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise SimjaxError(f"power.model={self.model}: there is no such model; {closest(self.model, ['none', *MODELS])}")
        if self.share not in SHARES:
            raise SimjaxError(f"power.node_share={self.share}: it must be used or whole")
        if not self.pue >= 1:
            raise SimjaxError(f"power.pue={self.pue}: it must be at least 1, such as 1.15")
        if not 0.2 <= self.clock <= 1:
            raise SimjaxError(f"power.clock={self.clock}: it must be a share of the highest clock, from 0.2 to 1")
        if not 0 < self.factor < float("inf"):
            raise SimjaxError(f"power.factor={self.factor}: it must be a positive number, such as 1.1")
        for name, _ in self.values:
            if name not in SETTABLE:
                raise SimjaxError(f"power.values: there is no {name}; {closest(name, list(SETTABLE))}")

    @property
    def slows(self) -> bool:
        """Whether a cap or a locked clock makes steps slower."""
        return math.isfinite(self.cap_w) or math.isfinite(self.node_cap_w) or self.clock < 1

    def cap_of(self, device: DeviceSpec) -> float:
        """The cap of a device: its own, or its part of the server's; infinity for none.

        Raises:
            SimjaxError: a cap leaves no power for steps.
        """
        cap_w, known = self.cap_w, self.of_board(device)
        if math.isfinite(self.node_cap_w):
            server = self.of_node(device)
            rest_w = self.node_cap_w / server.at_the_wall - sum(server.constants.values()) - server.cpu_active_w
            cap_w = min(cap_w, rest_w / max(device.node.devices_per_node, 1))
        if cap_w < known.standby_w + 0.1 * (min(known.limit_w, 1e6) - known.standby_w) and math.isfinite(cap_w):
            raise SimjaxError(f"power: a cap of {cap_w:.4g} W leaves {device.name} hardly more than its standby, {known.standby_w:g} W")
        return cap_w

    def of_device(self, device: DeviceSpec) -> DevicePower:
        """The power of a device under its cap and clock.

        Raises:
            SimjaxError: as `of_board`, or a cap leaves no power for steps.
        """
        known, cap_w = self.of_board(device), self.cap_of(device)
        slower = self.clock**known.clock_exponent
        scaled = {name: slower * getattr(known, name) for name in ("footprint_w", "memory_w", "compute_w")}
        return replace(known, limit_w=min(known.limit_w, cap_w), **scaled)

    def of_board(self, device: DeviceSpec) -> DevicePower:
        """The power of a device at its highest clock.

        Raises:
            SimjaxError: no file has it, and the device states no limit to scale a typical one by.
        """
        given = dict(self.values)
        active_w = given.pop("active_w", None)
        known = self.devices.get(device.name)
        if known is None:
            known = device_power(device, self.file)
        known = replace(known, **given)
        if self.model == "three_state" and device.name not in self.devices:
            most = known.limit_w if active_w is None else active_w
            if most < known.standby_w:
                raise SimjaxError(f"power: active_w={most:g} of {device.name} is below its standby_w={known.standby_w:g}")
            known = replace(known, footprint_w=most - known.standby_w, memory_w=0.0, compute_w=0.0, limit_w=float("inf"))
        elif active_w is not None and self.model != "three_state":
            raise SimjaxError("power.values.active_w: only with power.model=three_state")
        scaled = {name: self.factor * getattr(known, name) for name in ("footprint_w", "memory_w", "compute_w")}
        return replace(known, **scaled)

    def of_node(self, device: DeviceSpec) -> NodePower:
        """The power of the server that a device sits in, without its devices; nothing where servers do not count."""
        if not self.node:
            return NodePower()
        return self.nodes or node_power(device.node.name)


def power_source(config: PowerConfig, cluster_file: str | None = None) -> PowerSource | None:
    """The source of power that a configuration describes, None where energy is left out.

    Three states take the numbers that a cluster file in LLMServingSim's schema has, and count its servers as wholes.

    Raises:
        SimjaxError: a name or number is wrong.
    """
    own = None if cluster_file is None else file_power(Path(cluster_file))
    if own is not None and config.model != "three_state":
        _log.warning("%s: its power is left out; power=three_state simulates it", cluster_file)
    if config.model == "none":
        return None
    own = own if config.model == "three_state" else None
    devices, nodes = ({}, None) if own is None else own
    unset = lambda watts: math.inf if watts is None else watts
    return PowerSource(
        model=config.model,
        file=None if config.file is None else Path(config.file),
        values=tuple((name, float(value)) for name, value in config.values.items()),
        factor=config.factor,
        node=config.node,
        share=config.node_share if own is None else "whole",
        pue=config.pue,
        cap_w=unset(config.cap_w),
        node_cap_w=unset(config.node_cap_w),
        clock=config.clock,
        devices=devices,
        nodes=nodes,
    )
