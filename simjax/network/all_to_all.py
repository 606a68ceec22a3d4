"""Bytes and times of the all-to-all backends of data-parallel MoE layers, in closed form.

Every layer dispatches the tokens of each rank to the ranks of their experts, and combines what the experts made of them. Rank r of N has
T_r tokens of h elements, each for k different experts out of E.

- allgather_reducescatter (vLLM's default): every rank receives the tokens of all others with k weights and k indices of 4 bytes, and a
  reduce-scatter of 16-bit sums combines. Bytes of a rank grow with N.
- deepep_low_latency: a copy of each token for each of its experts, in 8 bits with a 4-byte scale for each 128 elements; 16-bit copies back.
- deepep_high_throughput: a copy for each rank that has one of the token's experts, over the network one for each node.

Of DeepEP's kernels a rank's devices on the same node are reached over the link within it, others over the network, both at once:
floor + max(bytes within / (efficiency · link), bytes between / (efficiency · link)). The constants are for no particular device: with
H800's links (200 and 50 GB/s) they meet DeepEP's published times of low-latency kernels on 8 to 256 ranks within 9 %, and the published
bandwidths of the normal ones on 8 to 64 ranks within 18 % (tests/network/test_all_to_all.py).
The constants of allgather_reducescatter are those of a ring over the links (`simjax.network.collectives`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb
from typing import Any

import numpy as np

from simjax.hardware import LinkSpec
from simjax.network.collectives import all_gather_s, reduce_scatter_s
from simjax.parallel.experts import ALL_GATHER, HIGH_THROUGHPUT, LOW_LATENCY

BACKENDS = (ALL_GATHER, HIGH_THROUGHPUT, LOW_LATENCY)
_ROUTE_BYTES = 8  # a weight and an index of each chosen expert
_SUM_BYTES = 2
_SCALED, _SCALE_BYTES = 128, 4  # elements that share a scale
ROUND_TOKENS = 256
"""Tokens of a rank in one round of low-latency dispatch, experts and combine: vLLM's VLLM_MOE_DP_CHUNK_SIZE up to 0.19, a step's since."""


@dataclass(frozen=True)
class Exchange:
    """What one rank moves in one layer, bytes of any shape; within its node and between nodes for DeepEP.

    Attributes:
        dispatch, combine: all bytes that it sends (DeepEP) or receives (allgather_reducescatter).
        remote: share of them that leaves the node.
    """

    dispatch: Any
    combine: Any
    remote: Any = 0.0


@dataclass(frozen=True)
class DeepEpEfficiency:
    """Constants of DeepEP's kernels.

    Attributes:
        floor_s: seconds of an exchange of nothing.
        intra, inter: fractions of the bandwidth of the links within a node and between nodes.
    """

    floor_s: Any = 28e-6
    intra: Any = 0.78
    inter: Any = 0.88

    def scaled(self, bandwidth: Any, latency: Any) -> DeepEpEfficiency:
        """The constants with bandwidths and the floor times as large, by numbers or traced scalars."""
        return DeepEpEfficiency(self.floor_s * latency, self.intra * bandwidth, self.inter * bandwidth)


@dataclass(frozen=True)
class Group:
    """An EP group and the tokens' experts.

    Attributes:
        ranks: N, all of which have experts.
        ranks_per_node: those of one server.
        hidden_size: h.
        experts: E.
        experts_per_token: k.
        dispatch_bytes: bytes of an element that allgather_reducescatter and deepep_high_throughput dispatch: 2, or 1 where the kernel of
            the experts takes 8 bits, which come with scales.
    """

    ranks: int
    ranks_per_node: int
    hidden_size: int
    experts: int
    experts_per_token: int
    dispatch_bytes: int = 2

    @property
    def row_bytes(self) -> float:
        """Bytes of a dispatched token, scales included."""
        return self.hidden_size * (self.dispatch_bytes + (_SCALE_BYTES / _SCALED if self.dispatch_bytes == 1 else 0.0))

    @property
    def nodes(self) -> int:
        """Servers of the group."""
        return -(-self.ranks // self.ranks_per_node)

    def distinct(self, parts: int) -> float:
        """Expected number of `parts` equal shares of the experts in which a token has one, under even popularity."""
        most = self.experts - self.experts // parts
        return parts * (1.0 - comb(most, self.experts_per_token) / comb(self.experts, self.experts_per_token))


def exchange(backend: str, group: Group, own: Any, total: Any) -> Exchange:
    """What a rank moves in one layer.

    Args:
        backend: one of `BACKENDS`.
        group: the EP group.
        own: tokens of the rank, T_r.
        total: tokens of all ranks.
    """
    h, k = group.hidden_size, group.experts_per_token
    if backend == ALL_GATHER:
        others = total - own
        return Exchange(others * (group.row_bytes + _ROUTE_BYTES * k), others * h * _SUM_BYTES)
    if backend == LOW_LATENCY:
        low = h * (1.0 + _SCALE_BYTES / _SCALED)
        return Exchange(own * k * low, own * k * h * _SUM_BYTES, 1.0 - min(group.ranks_per_node / group.ranks, 1.0))
    if backend == HIGH_THROUGHPUT:
        copies = group.distinct(group.ranks)
        away = group.distinct(group.nodes) * (1.0 - 1.0 / group.nodes)  # one copy for each other node, which spreads it
        return Exchange(own * copies * (group.row_bytes + _ROUTE_BYTES * k), own * copies * h * _SUM_BYTES, away / copies)
    raise ValueError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")


def exchange_s(
    backend: str,
    group: Group,
    most: Any,
    total: Any,
    intra: LinkSpec,
    inter: LinkSpec,
    memory_bandwidth_bytes_per_s: float,
    efficiency: DeepEpEfficiency = DeepEpEfficiency(),
    xp: Any = np,
) -> tuple[Any, Any]:
    """Seconds of dispatch and combine of one layer, both of which end when the slowest rank's does; affine in the tokens.

    Args:
        backend: one of `BACKENDS`.
        group: the EP group.
        most: tokens of the rank with the most, of any shape.
        total: tokens of all ranks, of the same shape.
        intra: link within a node.
        inter: link between nodes that each rank has.
        memory_bandwidth_bytes_per_s: of the device, for sums.
        efficiency: constants of DeepEP.
        xp: numpy, or jax.numpy where the efficiency or the links are traced.
    """
    if group.ranks == 1:
        return 0.0 * most, 0.0 * most
    if backend == ALL_GATHER:
        # each rank's buffer passes all others; the mean of unequal ones stands for them, for all pass the same links in turn
        link, shard = _ring(group, intra, inter, xp), total / group.ranks
        gather_s = all_gather_s(shard * (group.row_bytes + _ROUTE_BYTES * group.experts_per_token), group.ranks, link)
        whole = total * group.hidden_size * _SUM_BYTES
        return gather_s, reduce_scatter_s(whole, group.ranks, link, memory_bandwidth_bytes_per_s)
    moved = exchange(backend, group, most, total)

    def seconds(sent: Any) -> Any:
        away = sent * moved.remote
        # what stays on the rank does not move; of high throughput what leaves the node comes from another one as well, and is spread there
        own = 1.0 / group.ranks if backend == LOW_LATENCY else group.distinct(group.ranks) / group.ranks / group.ranks
        near = sent * (1.0 - own) - (away if backend == LOW_LATENCY else 0.0)
        within_s = near / (efficiency.intra * intra.bandwidth_bytes_per_s)
        return efficiency.floor_s + xp.maximum(within_s, away / (efficiency.inter * inter.bandwidth_bytes_per_s))

    return seconds(moved.dispatch), seconds(moved.combine)


def _ring(group: Group, intra: LinkSpec, inter: LinkSpec, xp: Any = np) -> LinkSpec:
    """The links of a ring through all ranks: NCCL runs as many rings as a node has adapters, each of which leaves it by another one."""
    if group.nodes == 1:
        return intra
    between = xp.minimum(group.ranks_per_node * inter.bandwidth_bytes_per_s, intra.bandwidth_bytes_per_s)
    latency_s = intra.latency_s + group.nodes / group.ranks * (inter.latency_s - intra.latency_s)
    return replace(intra, bandwidth_bytes_per_s=between, latency_s=latency_s)
