"""What batches run on: the local devices, and how many batches at once on each."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeAlias

import jax

Device: TypeAlias = Any  # a jax.Device, which type checkers take for a variable


class Workers(NamedTuple):
    """What batches run on: devices of one kind, and how many batches at once on each of them."""

    devices: tuple[Device, ...]
    each: int

    @property
    def count(self) -> int:
        """Batches at once."""
        return len(self.devices) * self.each

    @property
    def accelerated(self) -> bool:
        """Whether the devices are no CPUs."""
        return self.devices[0].platform != "cpu"


def local_workers() -> Workers:
    """All local devices; a CPU takes a batch for each of its cores, which beats splitting each kernel of one batch over them."""
    devices = tuple(jax.local_devices())
    if devices[0].platform != "cpu":
        return Workers(devices, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Workers(devices, max(1, cores // len(devices)))
