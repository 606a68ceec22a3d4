"""Links and paths between prefill and decode instances, by hand."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths
from simjax.deployment import Role
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, load_device
from simjax.model import load_model
from simjax.network.paths import TransferPaths
from simjax.network.placement import Network
from simjax.parallel.parallelism import Parallelism

QWEN, H100, L40S = load_model("qwen3-8b"), load_device("h100"), load_device("l40s")
SHARE = 0.7  # of a link's bandwidth that transfers attain by default


def instance(role: Role, tensor: int = 1, device: DeviceSpec = H100, model: str = "qwen3-8b", **limits) -> InstanceSpec:
    return InstanceSpec(load_model(model), device, Parallelism(tensor), InstanceLimits(**limits), role=role)


def prefill(*args, **kwargs) -> InstanceSpec:
    return instance(Role.PREFILL, *args, **kwargs)


def decode(*args, **kwargs) -> InstanceSpec:
    return instance(Role.DECODE, *args, **kwargs)


def crossed(paths: TransferPaths, sender: int, receiver: int) -> list[tuple[str, Any]]:
    """The links of a path in order, with their capacities in GB/s."""
    links = [link for link in paths.path[sender, receiver] if link != len(paths.capacity) - 1]
    return [(paths.link_names[link], pytest.approx(paths.capacity[link] / 1e9)) for link in links]


def test_a_transfer_within_a_node_takes_the_links_to_its_fabric():
    paths = transfer_paths(ClusterSpec((prefill(2), decode(4))))
    assert crossed(paths, 0, 1) == [("fabric out of instance 0", SHARE * 2 * 450), ("fabric into instance 1", SHARE * 4 * 450)]
    assert paths.bytes_per_token.tolist() == [[0, 147_456], [0, 0]]
    assert paths.setup_s[0, 1] == pytest.approx(0.4e-3 + 1.5e-6)
    assert np.all(paths.path[[0, 1, 1], [0, 0, 1]] == len(paths.capacity) - 1), "nothing goes the other way"
    assert np.isinf(paths.capacity[-1]) and paths.link_names[-1] == "none"


def test_a_transfer_between_nodes_takes_adapters_of_instances_and_nodes():
    paths = transfer_paths(ClusterSpec((prefill(4), prefill(4), decode(8), decode(2))))
    out = [("network out of instance 0", SHARE * 4 * 50), ("network out of node 0", SHARE * 8 * 50)]
    assert crossed(paths, 0, 2) == [*out, ("network into node 1", SHARE * 8 * 50), ("network into instance 2", SHARE * 8 * 50)]
    assert crossed(paths, 0, 3) == [*out, ("network into node 2", SHARE * 8 * 50), ("network into instance 3", SHARE * 2 * 50)]
    assert paths.setup_s[0, 2] == pytest.approx(0.4e-3 + 10e-6)
    assert len(paths.link_names) == len(set(paths.link_names)) == len(paths.capacity) == 2 + 1 + 2 + 2 + 1


def test_instances_of_a_node_with_few_adapters_share_them():
    two = replace(H100, node=replace(H100.node, nics_per_node=2))
    paths = transfer_paths(ClusterSpec((prefill(1, two),) * 8 + (decode(8, two),)))
    assert crossed(paths, 7, 8) == [
        ("network out of instance 7", SHARE * 50),
        ("network out of node 0", SHARE * 2 * 50),
        ("network into node 1", SHARE * 2 * 50),
        ("network into instance 8", SHARE * 2 * 50),
    ]


def test_ranks_over_nodes_have_their_adapters_to_themselves():
    paths = transfer_paths(ClusterSpec((prefill(8), decode(16))))
    assert crossed(paths, 0, 1) == [
        ("network out of instance 0", SHARE * 8 * 50),
        ("network out of node 0", SHARE * 8 * 50),
        ("network into instance 1", SHARE * 16 * 50),
    ]
    assert paths.bytes_per_token[0, 1] == 2 * 147_456, "two ranks hold each of the eight heads"


def test_a_node_that_sends_and_receives_has_the_duplex_part_of_its_adapters():
    half = replace(H100, node=replace(H100.node, inter_link=replace(H100.node.inter_link, duplex=0.6, efficiency=0.5)))
    both = transfer_paths(ClusterSpec((prefill(1, half), decode(1, half)) * 2, network=Network(instance_nodes=((0,), (0,), (1,), (1,)))))
    assert crossed(both, 0, 3)[1:3] == [
        ("network out of node 0", SHARE * 0.6 * 0.5 * 8 * 50),
        ("network into node 1", SHARE * 0.6 * 0.5 * 8 * 50),
    ]
    assert crossed(both, 0, 3)[0] == ("network out of instance 0", SHARE * 0.5 * 50)
    assert crossed(both, 0, 1) == [("fabric out of instance 0", SHARE * 450), ("fabric into instance 1", SHARE * 450)]
    alone = transfer_paths(ClusterSpec((prefill(8, half), decode(8, half))))
    assert crossed(alone, 0, 1)[1] == ("network out of node 0", SHARE * 0.5 * 8 * 50), "one direction only"


def test_unlike_devices_meet_over_the_network_at_their_own_rates():
    paths = transfer_paths(ClusterSpec((prefill(2), decode(4, L40S))))
    assert [name for name, _ in crossed(paths, 0, 1)] == [
        "network out of instance 0",
        "network out of node 0",
        "network into node 1",
        "network into instance 1",
    ]
    rtx = load_device("rtx_4090")
    paths = transfer_paths(ClusterSpec((prefill(2), decode(1, rtx))))
    assert crossed(paths, 0, 1)[0::3] == [("network out of instance 0", SHARE * 2 * 50), ("network into instance 1", SHARE * 25)]


def test_the_link_that_is_given_for_ranks_is_that_of_transfers_within_a_node():
    given = replace(H100.node.intra_link, bandwidth_bytes_per_s=10e9, latency_s=1e-3)
    paths = transfer_paths(ClusterSpec(tuple(replace(one, link=given) for one in (prefill(1), decode(1)))))
    assert crossed(paths, 0, 1) == [("fabric out of instance 0", SHARE * 10), ("fabric into instance 1", SHARE * 10)]
    assert paths.setup_s[0, 1] == pytest.approx(0.4e-3 + 1e-3)


def test_numbers_of_the_hand_over_are_those_of_the_cluster():
    rule = Disaggregation(setup_s=2e-3, per_descriptor_s=4e-6, link_efficiency=0.5)
    paths = transfer_paths(ClusterSpec((prefill(4, block_size=8), decode(2, block_size=32)), disaggregation=rule))
    assert paths.setup_s[0, 1] == pytest.approx(2e-3 + 1.5e-6)
    # Keys and values of 36 layers, from two ranks, of four blocks for one.
    assert paths.per_block_s[0, 1] == pytest.approx(4e-6 * 2 * 36 * 2 * 4)
    assert crossed(paths, 0, 1)[0][1] == 0.5 * 4 * 450


def test_instances_that_run_both_phases_exchange_nothing():
    paths = transfer_paths(ClusterSpec((prefill(), instance(Role.BOTH), decode())))
    assert np.argwhere(paths.bytes_per_token).tolist() == [[0, 2]]
    assert np.all(paths.path[1] == len(paths.capacity) - 1) and np.all(paths.path[:, 1] == len(paths.capacity) - 1)


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (
            (prefill(kv_cache_dtype="fp8"), decode()),
            "Qwen/Qwen3-8B: prefill instances with kv_cache_dtype=fp8, decode instances with bfloat16: a KV cache is moved as it is; give",
        ),
        (
            (prefill(), decode(model="llama-3.1-8b")),
            " instances: a KV cache can only be read by the model that wrote it",
        ),
        ((prefill(2), decode(1), decode(4), prefill(8)), None),
    ],
)
def test_instances_that_cannot_exchange_a_cache_are_refused(instances, message):
    if message is None:
        assert np.all(transfer_paths(ClusterSpec(instances)).bytes_per_token[np.ix_([0, 3], [1, 2])] == 147_456)
        return
    with pytest.raises(SimjaxError, match=re.escape(message)) as error:
        transfer_paths(ClusterSpec(instances))
    assert "\n" not in str(error.value)


def test_degrees_of_which_none_divides_the_other_are_refused():
    narrow = replace(QWEN, num_attention_heads=48, num_key_value_heads=12, intermediate_size=12288)
    spec = lambda role, degree: InstanceSpec(narrow, H100, Parallelism(degree), role=role)
    with pytest.raises(SimjaxError, match=r"^tensor_parallel_size=3 of prefill and 2 of decode instances"):
        transfer_paths(ClusterSpec((spec(Role.PREFILL, 3), spec(Role.DECODE, 2))))


def test_the_cost_of_a_cluster_grows_with_its_instances_not_with_its_pairs():
    small, large = (ClusterSpec((prefill(),) * x + (decode(),) * y) for x, y in ((2, 1), (24, 40)))

    def fastest_s(cluster: ClusterSpec) -> float:
        times = []
        for _ in range(20):
            begun = time.process_time()
            transfer_paths(cluster)
            times.append(time.process_time() - begun)
        return min(times)

    # 21 times as many instances, 480 times as many pairs
    assert fastest_s(large) < 60 * fastest_s(small)
