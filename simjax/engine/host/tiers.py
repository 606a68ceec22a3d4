"""Tiers of KV cache behind the instances of a cluster: what a reader of their blocks must know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from simjax.cluster.spec import ClusterSpec

if TYPE_CHECKING:  # results are read without JAX
    from simjax.engine.params import ClusterParams


@dataclass(frozen=True)
class TierSizes:
    """Sizes by instance, arrays over the K instances.

    Attributes:
        block_size: int64[K], tokens of a KV block.
        block_bytes: float64[K], bytes of a KV block, on all devices of a rank together.
        capacity_blocks: int64[K], blocks that the tiers of all its ranks hold.
    """

    block_size: np.ndarray
    block_bytes: np.ndarray
    capacity_blocks: np.ndarray

    def by_rank(self, instance: np.ndarray) -> TierSizes:
        """The sizes of the ranks, where `instance` is that of each, int32[N]."""
        blocks = self.capacity_blocks // np.bincount(instance)
        return TierSizes(self.block_size[instance], self.block_bytes[instance], blocks[instance])

    @property
    def capacity_bytes(self) -> float:
        """Bytes that all tiers hold."""
        return float((self.capacity_blocks * self.block_bytes).sum())


def tier_sizes(cluster: ClusterSpec, params: ClusterParams) -> TierSizes | None:
    """The tiers of a cluster and its arrays; None where there are none."""
    if cluster.tiering is None:
        return None
    assert params.tiers is not None
    instance = np.asarray(cluster.instance_of_rank)
    first = np.flatnonzero(np.diff(instance, prepend=-1))
    of_rank = lambda values: np.asarray(values)[: len(instance)]
    return TierSizes(
        block_size=of_rank(params.ranks.block_size)[first].astype(np.int64),
        block_bytes=of_rank(params.tiers.block_bytes)[first].astype(np.float64),
        capacity_blocks=np.add.reduceat(of_rank(params.tiers.capacity_blocks).astype(np.int64), first),
    )
