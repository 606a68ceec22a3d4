"""Memory that computes (PIM): its devices, from the files in `profiles/pim`, and how an instance uses them for decode attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from simjax.disk.documents import once_per_file
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError, closest
from simjax.hardware.fields import file_named, key_of
from simjax.options.plausible import Plausible
from simjax.placement.files import Fields, read_fields

QUERY_WIDTH = 4096
"""Width of the queries of a token in the layer of which `PimDevice.sequence_s` is stated, Llama-3.1-8B's."""
_RANGES = {
    "channel_bytes": Plausible(2**24, 2**40, "bytes (not GB)"),
    "bandwidth_bytes_per_s": Plausible(1e8, 1e13, "bytes/s (not GB/s)"),
    "internal_bandwidth_bytes_per_s": Plausible(1e8, 1e14, "bytes/s (not GB/s)"),
    "sequence_s": Plausible(1e-9, 1e-2, "seconds (not ns)"),
}
_FIELDS = Fields("PIM file", "pim/hbm_pim.yaml", _RANGES, required=(*_RANGES, "channels", "sources"), others=("aliases",))


@dataclass(frozen=True)
class PimDevice:
    """Memory whose banks compute.

    Attributes:
        name: stem of its file.
        channel_bytes: capacity of a channel.
        bandwidth_bytes_per_s: of a channel, to the outside.
        internal_bandwidth_bytes_per_s: at which the units of a channel read keys and values. Each query reads them again.
        sequence_s: of one request in one layer on one channel, whatever its context, at queries of `QUERY_WIDTH` elements.
        channels: of a usual configuration, for one accelerator.
        aliases: other names, such as those of LLMServingSim's files.
        sources: origin of each number.

    Raises:
        SimjaxError: a number is out of its range.
    """

    name: str
    channel_bytes: float
    bandwidth_bytes_per_s: float
    internal_bandwidth_bytes_per_s: float
    sequence_s: float
    channels: int
    aliases: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in ("channel_bytes", "bandwidth_bytes_per_s", "internal_bandwidth_bytes_per_s", "channels"):
            if not 0 < getattr(self, name) < math.inf:
                raise SimjaxError(f"PIM device {self.name}: {name}={getattr(self, name)}: it must be a positive number")

    def gain(self, queries_per_kv_head: float) -> float:
        """Most that attention gains over reading keys and values once to the outside, by as many channels."""
        return self.internal_bandwidth_bytes_per_s / self.bandwidth_bytes_per_s / queries_per_kv_head


@dataclass(frozen=True)
class Pim:
    """Decode attention of an instance on memory that computes.

    Attributes:
        device: kind of memory.
        channels: of each rank.
        interleaved: whether a step goes in two halves, of which one computes on the accelerator while the attention of the other one is in
            memory.
        holds_kv: whether the KV cache is in this memory, and as large as it; else it has the size that it has on the device.
        prompts_only: whether contexts are taken as long as their prompts, as LLMServingSim has them; else they grow with every token.
        link_bandwidth_bytes_per_s: over which queries, new keys and values and results pass; infinite for none.

    Raises:
        SimjaxError: a number is out of its range.
    """

    device: PimDevice
    channels: int
    interleaved: bool = False
    holds_kv: bool = True
    prompts_only: bool = False
    link_bandwidth_bytes_per_s: float = math.inf

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise SimjaxError(f"pim.channels={self.channels}: it must be at least 1")
        if not self.link_bandwidth_bytes_per_s > 0:
            raise SimjaxError(f"pim.link_bandwidth_bytes_per_s={self.link_bandwidth_bytes_per_s}: it must be a positive number")

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all channels of a rank."""
        return int(self.channels * self.device.channel_bytes)


def load_pim(name_or_path: str) -> PimDevice:
    """The PIM device of that name (`hbm_pim`, `DDR4_8GB_3200_pim`; case, spaces, `-` and `_` do not matter) or YAML file.

    Raises:
        SimjaxError: there is no such device, or its file is malformed.
    """
    if (path := file_named(name_or_path)) is not None:
        return _read(path)
    shipped = [_read(path) for path in sorted((PROFILES / "pim").glob("*.yaml"))]
    names = {key_of(name): one for one in shipped for name in (one.name, *one.aliases)}
    if (found := names.get(key_of(name_or_path))) is None:
        raise SimjaxError(f"unknown PIM device '{name_or_path}'; {closest(key_of(name_or_path), sorted(one.name for one in shipped))}")
    return found


@once_per_file(64)
def _read(path: Path) -> PimDevice:
    numbers, others = read_fields(path, _FIELDS)
    aliases = tuple(str(name) for name in others.get("aliases", ()))
    return PimDevice(path.stem, **numbers, channels=int(others["channels"]), aliases=aliases, sources=dict(others["sources"]))
