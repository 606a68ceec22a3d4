"""The workers that batches run on: the local devices, and how many batches run at once on each."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, TypeAlias

import jax

Device: TypeAlias = Any  # a jax.Device, which type checkers take for a variable


class Workers(NamedTuple):
    """Devices of one kind on which batches run.

    Attributes:
        devices: the devices.
        each: batches that run at once on each of them.
    """

    devices: tuple[Device, ...]
    each: int

    @property
    def count(self) -> int:
        """Batches that run at once on all devices."""
        return len(self.devices) * self.each

    @property
    def accelerated(self) -> bool:
        """Whether the devices are accelerators rather than CPUs."""
        return self.devices[0].platform != "cpu"


def local_workers() -> Workers:
    """All local devices. A CPU runs a batch on each of its cores, which is faster than splitting each kernel of one batch over them."""
    devices = tuple(jax.local_devices())
    if devices[0].platform != "cpu":
        return Workers(devices, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Workers(devices, max(1, cores // len(devices)))
