"""Capabilities of a device, of the links between devices and of a node, from their data sheets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class LinkSpec:
    """One direction of a link between two devices.

    Attributes:
        bandwidth_bytes_per_s: bandwidth of one direction.
        latency_s: latency of a message in seconds, software included.
        endpoint_s: extra seconds that a device needs for each message it starts or receives.
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    endpoint_s: float = 0.0


@dataclass(frozen=True)
class NodeSpec:
    """The server that devices of one kind usually sit in.

    Attributes:
        devices_per_node: devices of one server.
        intra_link: link between devices of one server.
        inter_link: link between servers, per device.
        cpu_memory_bytes, cpu_memory_bandwidth_bytes_per_s: size and bandwidth of the server's own memory, None without a source.
    """

    devices_per_node: int
    intra_link: LinkSpec
    inter_link: LinkSpec
    cpu_memory_bytes: int | None = None
    cpu_memory_bandwidth_bytes_per_s: float | None = None


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
        node: the server it usually sits in.
        sources: origin of each fact, by field.
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

    def peak(self, dtype: str) -> float:
        """Dense matrix FLOP/s in `dtype`.

        Raises:
            SimjaxError: the device file states none for it.
        """
        if dtype not in self.peak_flops:
            raise SimjaxError(f"device {self.name} states no peak_flops for {dtype}; it has {', '.join(self.peak_flops)}")
        return self.peak_flops[dtype]
