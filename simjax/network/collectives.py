"""Time of collective operations over equal links, in closed form.

With B the bandwidth of one direction of a link, L its latency, e the endpoint time, M the device's memory bandwidth (two reads and one
write where partial sums are added), N ranks and a payload of D bytes, a ring all-reduce takes
2 (N-1) (L + D/(N B)) + 3 (N-1) D/(N M) + e (2 (N-1) + 1).

Servers on devices behind a switch do not walk the ring: every rank reads the others' buffers at once, and a small message takes the same
few link latencies whatever N is (`hops`). On H100 that time is 4.3, 4.6 and 4.7 us for 2, 4 and 8 ranks; the formula with 2 (N-1) hops of
1.5 us gives 3, 9 and 21.

Between servers, NCCL has the choice of a ring and of two binary trees, each of which reduces half of the buffer to its root and sends the
sum back (Sanders, Speck, Träff: Two-tree algorithms for full bandwidth broadcast, reduction and scan, 2009; NCCL since 2.4):
2 log2(N) latencies instead of 2 (N-1), for up to twice the bytes. The faster one is taken, as NCCL's tuning does.

The ring is ASTRA-sim's analytical, congestion-unaware model as LLMServingSim uses it, but for its rounding of every hop and every addition
down to whole nanoseconds.
"""

from __future__ import annotations

from typing import Any

from simjax.hardware import LinkSpec


def all_reduce_s(payload_bytes: Any, ranks: int, link: LinkSpec, memory_bandwidth_bytes_per_s: float, hops: Any = None) -> Any:
    """Seconds of an all-reduce of `payload_bytes` (the full buffer, any shape); 0 on a single rank.

    hops: number of link latencies that it takes, whatever the number of ranks; None for those of a ring.
    """
    if ranks == 1:
        return 0.0 * payload_bytes
    steps, part = ranks - 1, payload_bytes / ranks
    transfer = 2 * steps * _hop_s(part, link) if hops is None else hops * link.latency_s + 2 * steps * part / link.bandwidth_bytes_per_s
    return transfer + 3 * steps * part / memory_bandwidth_bytes_per_s + link.endpoint_s * (2 * steps + 1)


def tree_all_reduce_s(payload_bytes: Any, ranks: int, link: LinkSpec, memory_bandwidth_bytes_per_s: float) -> Any:
    """Seconds of an all-reduce of `payload_bytes` (the full buffer, any shape) over two binary trees; 0 on a single rank.

    A rank inside one tree is a leaf of the other: it receives the halves of two children and the two sums, two buffers in all.
    """
    if ranks == 1:
        return 0.0 * payload_bytes
    rounds = 2 * (ranks - 1).bit_length()
    transfer = rounds * link.latency_s + 2 * payload_bytes / link.bandwidth_bytes_per_s
    return transfer + 3 * payload_bytes / memory_bandwidth_bytes_per_s + link.endpoint_s * (rounds + 1)


def all_reduce_over_nodes_s(
    payload_bytes: Any, nodes: int, ranks: int, intra: LinkSpec, inter: LinkSpec, memory_bandwidth_bytes_per_s: float, hops: Any = None
) -> Any:
    """Seconds of an all-reduce in two levels over `nodes` servers of `ranks` ranks each.

    The ranks of a node reduce and scatter the buffer among them, each all-reduces its part with its counterparts in the other nodes over
    its own `inter` link, by a ring or by trees, whichever is faster for that part, and the ranks of a node gather the parts: an all-reduce
    within the node, and one of a part between the nodes. Arguments are otherwise those of `all_reduce_s`; `hops` are those within a node.
    """
    part = payload_bytes / ranks
    ring = all_reduce_s(part, nodes, inter, memory_bandwidth_bytes_per_s)
    trees = tree_all_reduce_s(part, nodes, inter, memory_bandwidth_bytes_per_s)
    between = ring * (ring <= trees) + trees * (trees < ring)  # of numpy and JAX arrays alike
    return all_reduce_s(payload_bytes, ranks, intra, memory_bandwidth_bytes_per_s, hops) + between


def reduce_scatter_s(payload_bytes: Any, ranks: int, link: LinkSpec, memory_bandwidth_bytes_per_s: float) -> Any:
    """Seconds of a ring reduce-scatter of `payload_bytes` (the full buffer, any shape); 0 on a single rank."""
    if ranks == 1:
        return 0.0 * payload_bytes
    steps, part = ranks - 1, payload_bytes / ranks
    return steps * _hop_s(part, link) + 3 * steps * part / memory_bandwidth_bytes_per_s + link.endpoint_s * ranks


def all_gather_s(shard_bytes: Any, ranks: int, link: LinkSpec) -> Any:
    """Seconds of a ring all-gather of `shard_bytes` per rank (any shape); 0 on a single rank."""
    if ranks == 1:
        return 0.0 * shard_bytes
    return (ranks - 1) * _hop_s(shard_bytes, link) + link.endpoint_s * ranks


def _hop_s(message_bytes: Any, link: LinkSpec) -> Any:
    return link.latency_s + message_bytes / link.bandwidth_bytes_per_s
