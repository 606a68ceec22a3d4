"""Capabilities of a device, of the links between devices and of a node, from their data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class LinkSpec:
    """One direction of a link between two devices.

    Attributes:
        bandwidth_bytes_per_s: bandwidth of one direction.
        latency_s: latency of a message in seconds, software included.
        endpoint_s: extra seconds that a device needs for each message it starts or receives.
        efficiency: share of the bandwidth that a stream of large messages attains, where it is less than other links of its kind attain.
        duplex: share of its bandwidth that a direction keeps while the other one is in use.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    endpoint_s: float = 0.0
    efficiency: float = 1.0
    duplex: float = 1.0

    @property
    def rate_bytes_per_s(self) -> float:
        """Bandwidth that a stream of large messages attains."""
        return self.bandwidth_bytes_per_s * self.efficiency


@dataclass(frozen=True)
class NodeSpec:
    """A server and its devices.

    Attributes:
        devices_per_node: devices of one server, or of a rack whose devices share one fabric.
        intra_link: link of a device to the fabric within the server.
        inter_link: link of a network adapter to the fabric between servers.
        nics_per_node: network adapters of a server; None on input means one for each device.
        cpu_memory_bytes, cpu_memory_bandwidth_bytes_per_s: size and bandwidth of the server's own memory, None without a source.
        name: stem of its file in `profiles/nodes`; no part of a comparison.
        sources: origin of each fact, by field; no part of a comparison.
    """

    devices_per_node: int
    intra_link: LinkSpec
    inter_link: LinkSpec
    nics_per_node: int = None  # type: ignore[assignment]  # filled in below
    cpu_memory_bytes: int | None = None
    cpu_memory_bandwidth_bytes_per_s: float | None = None
    name: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.nics_per_node is None:
            object.__setattr__(self, "nics_per_node", self.devices_per_node)

    def nodes_for(self, devices: int) -> int:
        """Servers over which that many devices of one instance are spread evenly, as few as hold them."""
        if devices <= self.devices_per_node or self.devices_per_node < 1:
            return 1
        return next(nodes for nodes in range(2, devices + 1) if devices % nodes == 0 and devices // nodes <= self.devices_per_node)

    def nics_for(self, devices: int) -> float:
        """Network adapters that carry the traffic of that many devices of one instance, over all its servers."""
        if self.nics_per_node >= self.devices_per_node:
            return devices * self.nics_per_node / self.devices_per_node
        nodes = self.nodes_for(devices)
        return nodes * min(devices // nodes, self.nics_per_node)

    def inter_link_of(self, devices: int) -> LinkSpec:
        """Link between servers that each of that many devices of one instance has at its disposal, at most that of one adapter."""
        return replace(self.inter_link, bandwidth_bytes_per_s=self.inter_link.rate_bytes_per_s * min(self.nics_for(devices) / devices, 1.0))


@dataclass(frozen=True)
class DeviceSpec:
    """One accelerator.

    Attributes:
        name: short name, the stem of its file in `profiles/hardware`.
        aliases: other names that `load_device` accepts, lower case.
        memory_bytes: memory as the runtime reports it, a little less than the data sheet's.
        memory_bandwidth_bytes_per_s: bandwidth of the device's own memory.
        peak_flops: dense (no sparsity) matrix FLOP/s by data type.
        multiprocessors: units that each work on one tile of a matrix product at a time (streaming multiprocessors, tensor cores of a TPU).
        tdp_w: board power limit in watts, None when the maker does not publish it.
        idle_w: power when idle in watts, None without a source.
        node: the server it sits in.
        sources: origin of each fact, by field.
        assumed: what its file does not state, in words; no part of a comparison.
    """

    name: str
    aliases: tuple[str, ...]
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops: Mapping[str, float]
    multiprocessors: int
    tdp_w: float | None
    idle_w: float | None
    node: NodeSpec
    sources: Mapping[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = field(default=(), compare=False)

    def peak(self, dtype: str) -> float:
        """Dense matrix FLOP/s in `dtype`.

        Raises:
            SimjaxError: the device file states none for it.
        """
        if dtype not in self.peak_flops:
            raise SimjaxError(f"device {self.name} states no peak_flops for {dtype}; it has {', '.join(self.peak_flops)}")
        return self.peak_flops[dtype]
