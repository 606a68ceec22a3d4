"""Measured transfers of KV caches, each with its path to itself: setup_s + bytes / (link_efficiency x bandwidth), and their pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from simjax.calibrate.handover.observed import Part
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.validate.formats.fields import numeric, read_table

NOISE = 0.02  # of one measurement, relative: repeated transfers of a size
SIZES = ("bytes", "blocks", "prompt_tokens")
"""Columns that give the size of a transfer, the first that is there counts."""
TIMES = {"transfer_s": 1.0, "transfer_ms": 1e-3, "transfer_us": 1e-6}
"""Columns that give its time, in seconds, and their units."""
BLOCK_SIZE = "block_size"


@dataclass(frozen=True)
class MeasuredTransfers:
    """Transfers that were measured one by one, from the first prefill to the first decode instance of a cluster.

    Attributes:
        cluster: the cluster.
        blocks: f64[n], KV blocks that were moved.
        block_size: f64[n], tokens of a block.
        seconds: f64[n].
    """

    cluster: ClusterSpec
    blocks: np.ndarray
    block_size: np.ndarray
    seconds: np.ndarray

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of them as one kind."""
        return (Part("transfer", self.seconds, NOISE),)

    @property
    def several_block_sizes(self) -> bool:
        """Whether pieces and bytes grow in different ways."""
        return len(np.unique(self.block_size)) > 1

    def simulated_s(self, rules: Sequence[Disaggregation]) -> list[np.ndarray]:
        """Seconds with each of N hand-overs, f64[N, n], in a list of one."""
        return [np.stack([_alone_s(replace(self.cluster, disaggregation=rule), self.blocks, self.block_size) for rule in rules])]


def alone_s(cluster: ClusterSpec, prompt_tokens: ArrayLike) -> np.ndarray:
    """Seconds of transfers of whole prompts from the first prefill to the first decode instance, each with its path to itself.

    Raises:
        SimjaxError: the cluster has no such instances.
    """
    block_size = _pair(cluster)[2]
    return _alone_s(cluster, -(-np.asarray(prompt_tokens) // block_size), block_size)


def read_transfers(path: Path, cluster: ClusterSpec) -> MeasuredTransfers:
    """Read a table of transfers: a size of `SIZES` and a time of `TIMES`, perhaps `block_size`; other columns are ignored.

    Prompts are moved in whole blocks of the decode instance.

    Raises:
        SimjaxError: the file is no such table, or a cell is not positive.
    """
    sender, receiver, own = _pair(cluster)
    table = read_table(path, ())
    size = next((name for name in SIZES if name in table), None)
    time = next((name for name in TIMES if name in table), None)
    for found, known, what in ((size, SIZES, "size"), (time, TIMES, "time")):
        if found is None:
            there = ", ".join(map(str, table.columns))
            raise SimjaxError(f"{path}: no column gives the {what} of a transfer: {' or '.join(known)}; it has {there}")
    assert size is not None and time is not None
    amount, seconds = (_positive(table, name, path) for name in (size, time))
    block_size = _positive(table, BLOCK_SIZE, path) if BLOCK_SIZE in table else np.full(len(table), float(own))
    if size == "prompt_tokens":
        amount = np.ceil(amount / block_size)
    elif size == "bytes":
        amount = amount / (block_size * transfer_paths(cluster).bytes_per_token[sender, receiver])
    return MeasuredTransfers(cluster, amount, block_size, seconds * TIMES[time])


def _positive(table: object, column: str, path: Path) -> np.ndarray:
    values = numeric(table, column, path)  # pyright: ignore[reportArgumentType]
    if (bad := np.flatnonzero(values <= 0)).size:
        raise SimjaxError(f"{path}:{bad[0] + 2}: {column}={values[bad[0]]:g}: it must be positive")
    return values


def _pair(cluster: ClusterSpec) -> tuple[int, int, int]:
    """The first prefill and the first decode instance, and the latter's block size."""
    if not cluster.disaggregated:
        raise SimjaxError("a transfer needs a prefill and a decode instance")
    roles = [one.role for one in cluster.instances]
    sender, receiver = roles.index(Role.PREFILL), roles.index(Role.DECODE)
    return sender, receiver, cluster.instances[receiver].limits.block_size


def _alone_s(cluster: ClusterSpec, blocks: ArrayLike, block_size: ArrayLike) -> np.ndarray:
    sender, receiver, _ = _pair(cluster)
    return transfer_paths(cluster).alone_s(sender, receiver, np.asarray(blocks), np.asarray(block_size))
