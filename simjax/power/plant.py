"""What a reader of a run's energy must know of its devices, servers and building; the engine knows what steps take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.power.spec import NodePower


@dataclass(frozen=True)
class Plant:
    """The N ranks of a cluster, the K servers that they sit in, and the building.

    Attributes:
        idle_w: float64[N], idle power of the devices of each rank.
        standing_w: float64[N], power of raised clocks beyond that.
        standby_s: float64[N], seconds for which clocks stay raised after a step.
        meter_s: seconds over which the devices' own meters average, the longest of them.
        link_bytes_per_token: float64[N], bytes of a token in the collectives of a rank, all of its devices together.
        nodes: power of each server without its devices.
        shares: float64[K], share of each server that counts.
        on: float64[N, K], share of each rank's devices on each server.
        pue: power of the building for each watt at the servers' plugs.
        error: expected relative error of the devices' power under load, the largest of them.
        sources: origin of the numbers, one line each.
    """

    idle_w: np.ndarray
    standing_w: np.ndarray
    standby_s: np.ndarray
    meter_s: float
    link_bytes_per_token: np.ndarray
    nodes: tuple[NodePower, ...]
    shares: np.ndarray
    on: np.ndarray
    pue: float
    error: float
    sources: tuple[str, ...]

    def constant_w(self) -> dict[str, float]:
        """Watts of the servers' parts that hardly vary, by name."""
        names = NodePower().constants
        return {
            name: float(sum(share * node.constants[name] for share, node in zip(self.shares, self.nodes, strict=True))) for name in names
        }

    def wall(self) -> np.ndarray:
        """Watts at the wall for each watt of the devices of a rank, float64[N]."""
        return self.on @ np.array([node.at_the_wall for node in self.nodes])
