"""The energy of a run by what it is spent on: devices, servers, fans and supplies, the building."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import Result
from simjax.power.plant import Plant

DEVICES = ("idle", "standby", "footprint", "memory", "compute")
"""Parts of the devices' energy: at rest, clocks raised, and in steps being busy, moving bytes and computing."""
SERVERS = ("base", "cpu", "dram", "nic", "storage", "link")
LOSSES, BUILDING = "fans_and_supplies", "building"
PARTS = (*DEVICES, *SERVERS, LOSSES, BUILDING)


@dataclass(frozen=True)
class RunEnergy:
    """The energy of a run from its first arrival to its last event.

    Attributes:
        start_s, end_s: first arrival and last event.
        parts_j: energy by part, in joules, the keys of `PARTS`.
        devices_j: float64[N], energy of the devices of each rank.
    """

    start_s: float
    end_s: float
    parts_j: Mapping[str, float]
    devices_j: np.ndarray

    @property
    def total_j(self) -> float:
        """All of it."""
        return sum(self.parts_j.values())

    @property
    def gpu_j(self) -> float:
        """That of the devices alone."""
        return sum(self.parts_j[name] for name in DEVICES)

    @property
    def span_s(self) -> float:
        """Seconds that it was spent in."""
        return self.end_s - self.start_s

    @property
    def mean_power_w(self) -> float:
        """Mean power; 0 of a run that took no time."""
        return self.total_j / self.span_s if self.span_s > 0 else 0.0


def run_energy(result: Result) -> RunEnergy | None:
    """The energy of a run; None where power was not simulated."""
    plant = result.plant
    if plant is None:
        return None
    start_s, end_s = span_of(result)
    span_s, ended_s = end_s - start_s, of_ranks(result, "ended_s")
    still_s = np.where(np.isfinite(ended_s), np.minimum(np.maximum(end_s - ended_s, 0.0), plant.standby_s), 0.0)
    devices = {
        "idle": plant.idle_w * span_s,
        "standby": of_ranks(result, "standby_j") + plant.standing_w * still_s,
        **{name: of_ranks(result, f"{name}_j") for name in ("footprint", "memory", "compute")},
    }
    devices_j = sum(devices.values(), start=np.zeros(len(plant.idle_w)))
    servers = _servers_j(plant, result, span_s)
    by_name = {name: float(np.sum(servers[name])) for name in SERVERS}
    at_the_wall = np.array([node.at_the_wall for node in plant.nodes])
    lost_j = float(np.sum(devices_j * (plant.wall() - 1.0)) + np.sum(sum(servers.values()) * (at_the_wall - 1.0)))
    plugged_j = float(np.sum(devices_j)) + sum(by_name.values()) + lost_j
    parts = {**{name: float(np.sum(x)) for name, x in devices.items()}, **by_name, LOSSES: lost_j, BUILDING: (plant.pue - 1.0) * plugged_j}
    return RunEnergy(start_s, end_s, parts, devices_j)


def span_of(result: Result) -> tuple[float, float]:
    """The first arrival and the last event of a run with power, in seconds."""
    sent, ended_s = result.requests.arrival_s, of_ranks(result, "ended_s")
    start_s = float(np.min(sent[np.isfinite(sent)], initial=np.inf))
    ends = np.concatenate([result.requests.finish_s[result.requests.finished], ended_s[np.isfinite(ended_s)]])
    start_s = start_s if np.isfinite(start_s) else 0.0
    return start_s, float(np.max(ends, initial=start_s))


def _servers_j(plant: Plant, result: Result, span_s: float) -> dict[str, np.ndarray]:
    """Energy of the servers' parts, float64[K] each."""
    constant = {name: np.array([node.constants[name] for node in plant.nodes]) * plant.shares * span_s for name in SERVERS}
    busy_s, ranks = of_ranks(result, "busy_s"), np.maximum((plant.on > 0).sum(axis=0), 1)
    active_w = np.array([node.cpu_active_w for node in plant.nodes]) * plant.shares
    constant["cpu"] = constant["cpu"] + active_w * ((plant.on > 0).T @ busy_s) / ranks
    tokens = of_ranks(result, "prefill_tokens") + of_ranks(result, "decode_tokens")
    moved = plant.on.T @ (tokens * plant.link_bytes_per_token)
    constant["link"] = constant["link"] + moved * np.array([node.link_j_per_byte for node in plant.nodes])
    return constant


def of_ranks(result: Result, name: str) -> np.ndarray:
    """An array of a result over its ranks, by name."""
    return getattr(result.instances if result.ranks is None else result.ranks.totals, name)
