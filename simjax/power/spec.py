"""Power of a device, of the rest of its server, and of the building around it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from simjax.errors import SimjaxError

# Of devices whose power nobody has fitted, as shares of the board's limit (notes of the measurements: four devices, each left out once).
POOLED = {"idle": 0.08, "memory": 0.81, "compute": 0.36}
POOLED_ERROR = 0.2


@dataclass(frozen=True)
class DevicePower:
    """Power of one device, in watts and seconds.

    A device draws `idle_w` always, `standby_w` instead from the start of a step until `standby_s` after it, and on top of that, in a
    step of which it is busy for a share b and attains shares m and c of its memory bandwidth and its peak while it is busy,

        b (footprint_w + memory_w sqrt(m) + compute_w sqrt(c)),

    softly limited so that all of it stays below `limit_w`. Collectives are busy with neither memory nor peak. With `memory_w` and
    `compute_w` of 0 this is a model of three states: idle, standby and active.

    Attributes:
        idle_w: power without a context, or in the lowest clock state.
        standby_w: power with clocks raised and nothing to do, at least `idle_w`.
        standby_s: seconds for which the clocks stay raised after the last work.
        footprint_w: power of a busy device beyond standby that moves and computes nothing.
        memory_w, compute_w: further power at the full bandwidth, and at the dense peak.
        limit_w: limit of the board, infinity for none.
        clock_exponent: power of the clock with which the power of steps goes, see `simjax.latency.clocks`.
        meter_s: width of the moving average that the device's own meter reports, 0 where it reports moments.
        error: expected relative error of the power under load, as a fraction.
        source: origin of the numbers.
    """

    idle_w: float
    standby_w: float
    footprint_w: float
    memory_w: float = 0.0
    compute_w: float = 0.0
    limit_w: float = math.inf
    standby_s: float = 0.0
    clock_exponent: float = 1.6
    meter_s: float = 0.0
    error: float = field(default=POOLED_ERROR, compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not (value >= 0 and (math.isfinite(value) or one.name == "limit_w")):
                raise SimjaxError(f"power: {one.name}={value}: it must be a number that is not negative")
        if self.standby_w < self.idle_w:
            raise SimjaxError(f"power: standby_w={self.standby_w:g} is below idle_w={self.idle_w:g}; it must be at least that")
        if self.limit_w <= self.standby_w:
            raise SimjaxError(f"power: limit_w={self.limit_w:g} leaves nothing above standby_w={self.standby_w:g}")


def pooled(tdp_w: float, idle_w: float | None = None) -> DevicePower:
    """Power of a device of which only the limit of its board, and perhaps its idle power, are known."""
    idle = POOLED["idle"] * tdp_w if idle_w is None else idle_w
    return DevicePower(
        idle_w=idle,
        standby_w=max(idle, POOLED["idle"] * tdp_w),
        footprint_w=0.0,
        memory_w=POOLED["memory"] * tdp_w,
        compute_w=POOLED["compute"] * tdp_w,
        limit_w=tdp_w,
        source="pooled over A100, H100 and B200, scaled by the board's limit",
    )


@dataclass(frozen=True)
class NodePower:
    """Power of a server without its devices, in watts.

    Attributes:
        base_w: boards, switches and whatever has no entry of its own.
        cpu_w, cpu_active_w: processors while no device of the node works, and what they draw more while one does.
        dram_w, nic_w, storage_w: memory, network adapters and disks, which hardly vary.
        link_w: links between the devices.
        link_j_per_byte: energy of a byte in the collectives of its devices.
        fan_share: power of the fans as a share of that of everything that they cool.
        supply_efficiency: share of the wall's power that the supplies pass on.
        source: origin of the numbers.
    """

    base_w: float = 0.0
    cpu_w: float = 0.0
    cpu_active_w: float = 0.0
    dram_w: float = 0.0
    nic_w: float = 0.0
    storage_w: float = 0.0
    link_w: float = 0.0
    link_j_per_byte: float = 0.0
    fan_share: float = 0.0
    supply_efficiency: float = 1.0
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int | float) and not (value >= 0 and math.isfinite(value)):
                raise SimjaxError(f"power of a node: {one.name}={value}: it must be a number that is not negative")
        if not 0 < self.supply_efficiency <= 1:
            raise SimjaxError(f"power of a node: supply_efficiency={self.supply_efficiency}: it must lie in (0, 1]")

    @property
    def constants(self) -> Mapping[str, float]:
        """Parts that draw the same at all times, in watts by name."""
        return {name: getattr(self, f"{name}_w") for name in ("base", "cpu", "dram", "nic", "storage", "link")}

    @property
    def at_the_wall(self) -> float:
        """Watts at the wall for each watt that the node's parts draw: fans and supplies."""
        return (1.0 + self.fan_share) / self.supply_efficiency
