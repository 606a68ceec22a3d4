"""Prefill and decode instances of a cluster and the links between them: what a reader of its hand-overs must know."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths
from simjax.deployment import Role

if TYPE_CHECKING:  # results are read without JAX
    from simjax.engine.params import ClusterParams

UNBOUNDED = 1e30
"""Bytes per second of a link that is none, in the engine: products with it stay finite."""


@dataclass(frozen=True)
class Pools:
    """The instances by role, and the L links between their N ranks; pairs are [prefill rank, decode rank].

    Attributes:
        roles: role of each instance.
        devices: int64[K], devices of each instance.
        block_size: int64[K], tokens of a KV block.
        path: int32[N, N, H], links between the ranks of a pair; a link of infinite capacity is none.
        capacity: float64[L], bytes per second.
        setup_s, per_byte_s: float64[N, N], time of a transfer after that of its bytes on the links, and for each byte.
        link_names: names of the links; empty where nobody asked for them.
    """

    roles: tuple[Role, ...]
    devices: np.ndarray
    block_size: np.ndarray
    path: np.ndarray
    capacity: np.ndarray
    setup_s: np.ndarray
    per_byte_s: np.ndarray
    link_names: tuple[str, ...] = ()

    def of_role(self, role: Role) -> np.ndarray:
        """The numbers of the instances with that role, int64[K]."""
        return np.flatnonzero([each is role for each in self.roles])

    def gpus(self, role: Role) -> int:
        """The devices of the instances with that role."""
        return int(self.devices[self.of_role(role)].sum())

    def by_rank(self, instance: np.ndarray) -> Pools:
        """The pools with a rank where others have an instance, which is `instance` of each rank, int32[N]."""
        roles, devices = tuple(self.roles[i] for i in instance), (self.devices // np.bincount(instance))[instance]
        return replace(self, roles=roles, devices=devices, block_size=self.block_size[instance])

    def link_name(self, link: int) -> str:
        """The name of a link, "link 3" where it has none."""
        return self.link_names[link] if link < len(self.link_names) else f"link {link}"


def pools_of(cluster: ClusterSpec, params: ClusterParams, named: bool = False) -> Pools | None:
    """The pools of a cluster and its arrays, with the names of links if `named`; None where all instances run both phases."""
    if not cluster.disaggregated:
        return None
    handover = params.handover
    assert handover is not None
    count = len(cluster.ranks)
    block_size = np.asarray(params.ranks.block_size)
    block_bytes = np.asarray(handover.bytes_per_token) * block_size[None, :]
    per_byte_s = np.asarray(handover.per_block_s) / np.where(block_bytes > 0, block_bytes, 1.0)
    pairs = (slice(count), slice(count))
    return Pools(
        roles=tuple(instance.role for instance in cluster.instances),
        devices=np.array([instance.parallelism.num_devices for instance in cluster.instances]),
        block_size=np.array([instance.limits.block_size for instance in cluster.instances]),
        path=np.asarray(handover.path)[pairs],
        capacity=np.where(np.asarray(handover.capacity) < UNBOUNDED, handover.capacity, np.inf),
        setup_s=np.asarray(handover.setup_s)[pairs],
        per_byte_s=per_byte_s[pairs],
        link_names=transfer_paths(cluster).link_names if named else (),
    )
