"""A tier behind the KV cache of ranks: its size, its links and the rules of its connector."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from simjax.errors import SimjaxError, closest
from simjax.tiering.connector import CONNECTORS, LOADS, POLICIES, SCOPES, Connector

_NAMES = {"load": LOADS, "policy": POLICIES, "scope": SCOPES}


@dataclass(frozen=True)
class Tiering:
    """A tier of KV cache behind that of the devices.

    Attributes:
        connector: name of the rules, one of `CONNECTORS`.
        rules: these rules, with what the configuration replaces.
        capacity_bytes: size of a pool, for all devices of a rank together; None where `num_chunks` is given.
        num_chunks: chunks that a pool holds, whatever their size; None where `capacity_bytes` is given.
        load_bytes_per_s, store_bytes_per_s: rate of one device's copies from and to the tier; the devices of a rank copy side by side.
        setup_s: seconds of a copy that do not depend on its size.
        per_block_s: seconds of a copy for each KV block.

    Raises:
        SimjaxError: there is no such connector or choice, a number is out of range, or the size is missing or given twice.
    """

    connector: str
    rules: Connector
    capacity_bytes: float | None = None
    num_chunks: int | None = None
    load_bytes_per_s: float = 50e9
    store_bytes_per_s: float = 50e9
    setup_s: float = 0.0
    per_block_s: float = 4e-6

    def __post_init__(self) -> None:
        if self.connector not in CONNECTORS:
            raise SimjaxError(
                f"kv_tiers.connector={self.connector}: there is no such connector; {closest(self.connector, list(CONNECTORS))}"
            )
        for name, known in _NAMES.items():
            if getattr(self.rules, name) not in known:
                value = getattr(self.rules, name)
                raise SimjaxError(f"kv_tiers.{name}={value}: there is no such choice; {closest(value, list(known))}")
        if (self.capacity_bytes is None) == (self.num_chunks is None):
            given = "are both set; leave one of them out" if self.num_chunks is not None else "are both unset; give the size of the tier"
            raise SimjaxError(f"kv_tiers.capacity_bytes and kv_tiers.num_chunks {given}")
        for name in ("capacity_bytes", "load_bytes_per_s", "store_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SimjaxError(f"kv_tiers.{name}={value}: it must be positive")
        for name, value in (("num_chunks", self.num_chunks), ("store_threshold", self.rules.store_threshold)):
            if value is not None and value < 1:
                raise SimjaxError(f"kv_tiers.{name}={value}: it must be at least 1")
        if self.rules.chunk_tokens < 0:
            raise SimjaxError(f"kv_tiers.chunk_tokens={self.rules.chunk_tokens}: it must not be negative")
        for name in ("setup_s", "per_block_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SimjaxError(f"kv_tiers.{name}={getattr(self, name)}: it must be a number of seconds that is not negative")

    @staticmethod
    def of(connector: str, **given: object) -> Tiering:
        """The tier of a connector: `given` replaces its rules and sets what is no rule; None leaves a rule or a default as it is.

        Raises:
            SimjaxError: as of the class.
        """
        if connector not in CONNECTORS:
            raise _unknown(connector)
        known = vars(CONNECTORS[connector])
        set_ = {name: value for name, value in given.items() if value is not None}
        rules = Connector(**{**known, **{name: value for name, value in set_.items() if name in known}})
        own = {field.name for field in fields(Tiering)} & set_.keys()
        return Tiering(connector, rules, **{name: set_[name] for name in own})  # type: ignore[arg-type]

    def blocks_per_chunk(self, block_size: int) -> int:
        """KV blocks of a chunk."""
        return max(1, self.rules.chunk_tokens // block_size)

    def chunks(self, block_bytes: float, block_size: int) -> int:
        """Chunks that a pool holds; `block_bytes`: of a KV block, on all devices of a rank.

        Raises:
            SimjaxError: not one fits.
        """
        if self.num_chunks is not None:
            return self.num_chunks
        assert self.capacity_bytes is not None
        chunk_bytes = block_bytes * self.blocks_per_chunk(block_size)
        held = int(self.capacity_bytes // chunk_bytes)
        if held < 1:
            raise SimjaxError(f"kv_tiers.capacity_bytes={self.capacity_bytes:g}: it must hold at least one chunk of {chunk_bytes:g} bytes")
        return held

    def copy_s(self, blocks: int, block_bytes: float, devices: int, load: bool) -> float:
        """Seconds of a copy of that many KV blocks, of `block_bytes` on all `devices` of a rank together."""
        rate = (self.load_bytes_per_s if load else self.store_bytes_per_s) * devices
        return self.setup_s + blocks * (self.per_block_s + block_bytes / rate)


def _unknown(connector: str) -> SimjaxError:
    return SimjaxError(f"kv_tiers.connector={connector}: there is no such connector; {closest(connector, list(CONNECTORS))}")
