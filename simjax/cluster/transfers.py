"""Links and paths of the KV cache between the ranks of the prefill and the decode instances of a cluster.

A transfer within a node leaves its instance and enters the other over the links of their devices to the node's fabric. One between nodes
takes the network adapters of the instance, then all of its node's together, and the same at the other end; the fabric between nodes is
taken to carry what the adapters do. An instance has the adapters of its devices, or as many as it has devices where a node has fewer; one
that spans nodes has them to itself. What is said here of an instance is true of each of its ranks, if it has several: each has its own
devices and moves its own KV cache. A node that both sends and receives has the `duplex` part of its adapters each way.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec
from simjax.network.kv_transfer import KvShape, check_degrees, descriptors_per_block, transfer_bytes_per_token
from simjax.network.paths import LONGEST_PATH, TransferPaths


class _Facts(NamedTuple):
    """What transfers depend on of an instance."""

    role: Role
    model: str
    kv_cache_dtype: str
    shape: KvShape
    degree: int
    block_size: int
    devices: int
    fabric: LinkSpec
    network: LinkSpec
    nics: float
    nics_per_node: int


def transfer_paths(cluster: ClusterSpec) -> TransferPaths:
    """The paths from each prefill rank to each decode rank; between other ranks nothing is moved, over no link.

    Raises:
        SimjaxError: the cluster does not fit its nodes, or two of its instances cannot exchange a KV cache.
    """
    kinds, of = _kinds(cluster)
    count, first = len(of), np.array([nodes[0] for nodes in cluster.nodes_of_ranks])
    spans = np.array([len(nodes) > 1 for nodes in cluster.nodes_of_ranks])
    near = (first[:, None] == first) & ~spans[:, None] & ~spans
    role = lambda wanted: np.array([kind.role is wanted for kind in kinds])[of]
    pairs = role(Role.PREFILL)[:, None] & role(Role.DECODE)

    # Links by number: of the instances out of and into their fabric and their adapters, of the nodes out and in, and none.
    last = int(first.max()) + 1
    fabric_out, fabric_in, nic_out, nic_in = np.arange(4 * count).reshape(4, count)
    none = 4 * count + 2 * last
    node_out, node_in = (np.where(spans, none, 4 * count + offset + first) for offset in (0, last))
    path = np.stack(
        [
            np.where(near, fabric_out[:, None], nic_out[:, None]),
            np.where(near, none, node_out[:, None]),
            np.where(near, none, node_in),
            np.where(near, fabric_in, nic_in),
        ],
        axis=-1,
    )
    assert path.shape[-1] == LONGEST_PATH
    path[~pairs] = none

    fabric, nic, node = _capacities(kinds)
    of_node = np.zeros(last)
    np.maximum.at(of_node, first, node[of])
    capacity = np.concatenate([np.tile(fabric[of], 2), np.tile(nic[of], 2), np.tile(of_node, 2), [np.inf]])
    is_used = np.zeros(none + 1, bool)
    is_used[path] = is_used[none] = True
    used, path = np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[path]
    capacity = capacity[used] * cluster.disaggregation.link_efficiency * _duplex(kinds, of, first, used - 4 * count, last)
    bytes_per_token, setup_s, per_block_s = _pair_facts(cluster, kinds, of, near, pairs)
    return TransferPaths(
        bytes_per_token=bytes_per_token,
        setup_s=setup_s,
        per_block_s=per_block_s,
        path=path.astype(np.int32),
        capacity=capacity,
        link_names=tuple(_name(link, _owners(cluster), last) for link in used.tolist()),
    )


def _kinds(cluster: ClusterSpec) -> tuple[list[_Facts], np.ndarray]:
    """The facts of the kinds of instances, and the kind of each instance; instances of a kind share a record."""
    kinds: dict[int, int] = {}
    facts: list[_Facts] = []
    for one in cluster.ranks:
        if id(one) not in kinds:
            kinds[id(one)] = len(facts)
            facts.append(_facts(one))
    return facts, np.array([kinds[id(one)] for one in cluster.ranks])


def _facts(one: InstanceSpec) -> _Facts:
    deployment, devices, node = one.deployment, one.parallelism.devices_per_rank, one.device.node
    return _Facts(
        role=one.role,
        model=one.model.name,
        kv_cache_dtype=deployment.kv_cache_dtype,
        shape=KvShape.of(one.model, deployment.kv_cache_dtype),
        degree=one.parallelism.tensor,
        block_size=one.limits.block_size,
        devices=devices,
        fabric=deployment.link,
        network=node.inter_link,
        nics=node.nics_for(devices),
        nics_per_node=node.nics_per_node,
    )


def _capacities(kinds: list[_Facts]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes per second each way, by kind, of the links of an instance to its fabric, of its adapters, and of all adapters of its node."""
    fabric = np.array([one.devices * one.fabric.rate_bytes_per_s for one in kinds])
    adapter = np.array([one.network.rate_bytes_per_s for one in kinds])
    return fabric, adapter * [one.nics for one in kinds], adapter * [one.nics_per_node for one in kinds]


def _duplex(kinds: list[_Facts], of: np.ndarray, first: np.ndarray, used: np.ndarray, last: int) -> np.ndarray:
    """Part of their bandwidth that the used links keep, given by number less that of the first node's link.

    An instance only sends or only receives; a node may do both.
    """
    part = np.ones(last)
    np.minimum.at(part, first, np.array([one.network.duplex for one in kinds])[of])
    node = used % last
    both = (used >= 0) & (used < 2 * last) & (np.isin(node, used) & np.isin(node + last, used))
    return np.where(both, part[node], 1.0)


def _pair_facts(
    cluster: ClusterSpec, kinds: list[_Facts], of: np.ndarray, near: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bytes of a token, seconds of a transfer and of a block, by pair of instances; 0 between those that exchange nothing."""
    rule = cluster.disaggregation
    size = (len(kinds), len(kinds))
    bytes_per_token, per_block_s, within_s, between_s = np.zeros((4, *size))
    served = {role: {one.model for one in kinds if one.role is role} for role in Role}
    for model in served[Role.PREFILL] ^ served[Role.DECODE]:
        one, other = ("prefill", "decode") if model in served[Role.PREFILL] else ("decode", "prefill")
        raise SimjaxError(f"{model} has {one} instances and no {other} instances: a KV cache can only be read by the model that wrote it")
    for (p, sender), (d, receiver) in product(enumerate(kinds), enumerate(kinds)):
        if (sender.role, receiver.role) == (Role.PREFILL, Role.DECODE) and sender.model == receiver.model:
            _check_pair(sender, receiver)
            bytes_per_token[p, d] = transfer_bytes_per_token(receiver.shape, receiver.degree)
            pieces = descriptors_per_block(receiver.shape, sender.degree, receiver.degree)
            # A block of the receiver is several of a sender that has smaller ones.
            per_block_s[p, d] = rule.per_descriptor_s * pieces * max(1, -(-receiver.block_size // sender.block_size))
            within_s[p, d] = max(sender.fabric.latency_s, receiver.fabric.latency_s)
            between_s[p, d] = max(sender.network.latency_s, receiver.network.latency_s)
    at = np.ix_(of, of)
    setup_s = np.where(pairs, rule.setup_s + np.where(near, within_s[at], between_s[at]), 0.0)
    return bytes_per_token[at], setup_s, per_block_s[at]


def _check_pair(sender: _Facts, receiver: _Facts) -> None:
    """Refuse two instances of one model that cannot exchange a KV cache.

    Raises:
        SimjaxError: their data types, their shapes or their degrees do not go together.
    """
    if sender.kv_cache_dtype != receiver.kv_cache_dtype:
        raise SimjaxError(
            f"{sender.model}: prefill instances with kv_cache_dtype={sender.kv_cache_dtype}, decode instances with "
            f"{receiver.kv_cache_dtype}: a KV cache is moved as it is; give both the same scheduler.kv_cache_dtype"
        )
    if sender.shape != receiver.shape:
        raise SimjaxError(f"{sender.model}: the KV caches of its prefill and decode instances have different shapes; give both one model")
    check_degrees(sender.degree, receiver.degree)


def _owners(cluster: ClusterSpec) -> list[str]:
    """The names of the ranks: those of their instances where these have one rank."""
    found = []
    for i, instance in enumerate(cluster.instances):
        data = instance.parallelism.data
        found += [f"instance {i}"] if data == 1 else [f"rank {rank} of instance {i}" for rank in range(data)]
    return found


def _name(link: int, owners: list[str], nodes: int) -> str:
    """The name of a link by its number."""
    instances = len(owners)
    if link < 4 * instances:
        words = ("fabric out of", "fabric into", "network out of", "network into")[link // instances]
        return f"{words} {owners[link % instances]}"
    if link < 4 * instances + 2 * nodes:
        out, node = divmod(link - 4 * instances, nodes)
        return f"network {'into' if out else 'out of'} node {node}"
    return "none"
