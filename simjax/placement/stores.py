"""Memories outside the devices that hold weights: host memory and CXL devices, from the files in `profiles/memory`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simjax.disk.documents import once_per_file
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError, closest
from simjax.hardware.fields import file_named, key_of
from simjax.options.plausible import Plausible
from simjax.placement.files import Fields, read_fields

KINDS = ("host", "cxl")
_RANGES = {
    "capacity_bytes": Plausible(2**28, 2**50, "bytes (not GB)"),
    "bandwidth_bytes_per_s": Plausible(1e8, 1e14, "bytes/s (not GB/s)"),
    "link_bandwidth_bytes_per_s": Plausible(1e8, 1e14, "bytes/s (not GB/s)"),
    "latency_s": Plausible(1e-9, 0.1, "seconds (not ns)"),
    "copy_s": Plausible(1e-9, 0.1, "seconds (not microseconds)"),
}
_REQUIRED = ("kind", "capacity_bytes", "bandwidth_bytes_per_s", "latency_s", "sources")
_FIELDS = Fields("memory file", "memory/cxl_x8.yaml", _RANGES, _REQUIRED, others=("devices", "pooled"))


@dataclass(frozen=True)
class Store:
    """A memory that accelerators read weights from.

    A read crosses the memory and then the accelerator's own slot, so the slower of the two sets its rate. Accelerators that read at the
    same time share the memory, and each has its slot for itself.

    Attributes:
        name: of its file, or of its key in a cluster file.
        kind: host, memory of a server that all its accelerators share; or cxl.
        capacity_bytes: of one memory device, or of a server's memory.
        bandwidth_bytes_per_s: rate of reads of one memory device, or of a server's memory.
        latency_s: before the first byte of a copy; copies that follow one another without a pause hide theirs.
        copy_s: software of each copy, in seconds.
        link_bandwidth_bytes_per_s: rate of the slot of an accelerator; infinite where the memory alone counts.
        devices: memory devices that every piece is spread over.
        pooled: whether all servers share it; else each has its own.
        readers: accelerators that read at the same time, each at an even share.
        sources: origin of each number.

    Raises:
        SimjaxError: a number is out of its range.
    """

    name: str
    kind: str
    capacity_bytes: float
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    copy_s: float = 0.0
    link_bandwidth_bytes_per_s: float = math.inf
    devices: int = 1
    pooled: bool = False
    readers: int = 1
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SimjaxError(f"memory {self.name}: kind={self.kind}: there is no such kind; {closest(str(self.kind), list(KINDS))}")
        for name in ("capacity_bytes", "bandwidth_bytes_per_s", "link_bandwidth_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise SimjaxError(f"memory {self.name}: {name}={getattr(self, name)}: it must be a positive number")
        for name in ("latency_s", "copy_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SimjaxError(f"memory {self.name}: {name}={getattr(self, name)}: it must be a number of seconds that is not negative")
        for name in ("devices", "readers"):
            if getattr(self, name) < 1:
                raise SimjaxError(f"memory {self.name}: {name}={getattr(self, name)}: it must be at least 1")

    @property
    def rate_bytes_per_s(self) -> float:
        """Rate at which one accelerator reads while all of them do."""
        return min(self.link_bandwidth_bytes_per_s, self.bandwidth_bytes_per_s * self.devices / self.readers)

    @property
    def room_bytes(self) -> float:
        """Bytes that it holds."""
        return self.capacity_bytes * self.devices

    def read_s(self, size_bytes: Any, copies: Any = 1) -> Any:
        """Seconds that so many bytes occupy it in so many copies, one after another, the first of which begins `latency_s` later."""
        return copies * self.copy_s + size_bytes / self.rate_bytes_per_s

    def read_by(self, readers: int) -> Store:
        """The memory with so many accelerators that read at the same time."""
        return self if readers == self.readers else replace(self, readers=readers)


def load_store(name_or_path: str) -> Store:
    """The memory of that name (`host_pcie5`, `cxl_x8`; case, spaces, `-` and `_` do not matter) or YAML file.

    Raises:
        SimjaxError: there is no such memory, or its file is malformed.
    """
    if (path := file_named(name_or_path)) is not None:
        return _read(path)
    shipped = {key_of(path.stem): path for path in sorted((PROFILES / "memory").glob("*.yaml"))}
    if (found := shipped.get(key_of(name_or_path))) is None:
        raise SimjaxError(f"unknown memory '{name_or_path}'; {closest(key_of(name_or_path), sorted(p.stem for p in shipped.values()))}")
    return _read(found)


@once_per_file(64)
def _read(path: Path) -> Store:
    numbers, others = read_fields(path, _FIELDS)
    rest = {name: others[name] for name in ("devices", "pooled") if name in others}
    return Store(path.stem, str(others["kind"]), **numbers, **rest, sources=dict(others["sources"]))
