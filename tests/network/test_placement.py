"""Placement of instances on nodes: the rules, by hand, and clusters that do not fit."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.network.placement import Footprint, Network, Nodes, place


def of(devices: int, per_node: int = 8, kind: str = "h100", role: str = "both") -> Footprint:
    nodes = next(n for n in range(1, devices + 1) if devices % n == 0 and devices // n <= per_node)
    return Footprint(devices, per_node, nodes, kind, role)


def placed(*instances: Footprint, **network) -> tuple[Nodes, ...]:
    return place(Network(**network), instances)


def test_packed_fills_a_node_and_splits_no_group():
    assert placed(*[of(1)] * 9) == ((0,),) * 8 + ((1,),)
    assert placed(of(4), of(4), of(4)) == ((0,), (0,), (1,))
    assert placed(of(3), of(3), of(3)) == ((0,), (0,), (1,)), "two of the first node's devices stay free"
    assert placed(of(3), of(3), of(3), of(2)) == ((0,), (0,), (1,), (0,)), "which a smaller one takes"


def test_ranks_that_span_nodes_take_whole_ones():
    assert placed(of(16), of(8), of(16)) == ((0, 1), (2,), (3, 4))
    assert placed(of(4, 6), of(12, 6), of(2, 6)) == ((0,), (1, 2), (0,))
    assert placed(of(20), of(3)) == ((0, 1, 2, 3), (0,)), "five of eight devices on each of four nodes"


def test_a_node_has_devices_of_one_kind():
    assert placed(of(2), of(2, kind="l40s"), of(2)) == ((0,), (1,), (0,))
    assert placed(of(2), of(2, per_node=4), of(2)) == ((0,), (1,), (0,))


def test_spread_deals_each_role_to_the_nodes_in_turn():
    prefill, decode = of(2, role="prefill"), of(2, role="decode")
    assert placed(prefill, prefill, decode, decode, nodes=2, placement="spread") == ((0,), (1,), (0,), (1,))
    assert placed(prefill, prefill, decode, decode, nodes=2) == ((0,),) * 4
    assert placed(*[of(1)] * 5, nodes=3, placement="spread") == ((0,), (1,), (2,), (0,), (1,))
    big, small = of(4, role="decode"), of(1, role="prefill")
    assert placed(*[small] * 8, *[big] * 2, placement="spread") == ((0,), (1,)) * 4 + ((0,), (1,)), "the large ones go first"
    assert placed(of(5), of(5), of(6), placement="spread") == ((1,), (2,), (0,)), "two nodes have no room for three"
    assert placed(of(8, kind="l40s"), of(8), of(8), nodes=4, placement="spread") == ((0,), (1,), (2,))
    assert placed(of(16), of(8), nodes=4, placement="spread") == ((0, 1), (2,))


def test_by_hand():
    given = ((1,), (0,), (0,))
    assert placed(of(4), of(4), of(4), instance_nodes=given) == given
    assert placed(of(8), of(16), instance_nodes=((5,), (0, 3))) == ((5,), (0, 3))
    assert placed(of(4), of(2, 4, "l40s"), instance_nodes=((0,), (0,))) == ((0,), (0,)), "half a node each"


@pytest.mark.parametrize(
    ("instances", "network", "message"),
    [
        ([of(8)] * 3, {"nodes": 2}, "network.nodes=2: the cluster does not fit; its 3 instances with 24 devices of h100 (8 a node) need 3"),
        ([of(5)] * 3, {"nodes": 2}, "network.nodes=2: the cluster does not fit; its 3 instances with 15 devices of h100 (8 a node) need 3"),
        ([of(8), of(8, kind="a")], {"nodes": 1}, "network.nodes=1: the cluster does not fit; its 2 instances with 16 devices of h100 (8 a"),
        (
            [of(4), of(4), of(3), of(3), of(2)],
            {"nodes": 2, "placement": "spread"},
            "network.placement=spread: dealt in turn, the instances on h100 do not fit 2 nodes; use packed",
        ),
        ([of(1)] * 2, {"instance_nodes": ((0,),)}, "network.instance_nodes has 1 entries; the cluster has 2 instances, each needs one"),
        ([of(16)], {"instance_nodes": ((0,),)}, "network.instance_nodes[0]=[0]: an instance of 16 devices at 8 a node takes 2 of them"),
        ([of(4)], {"instance_nodes": ((0, 1),)}, "network.instance_nodes[0]=[0, 1]: an instance of 4 devices at 8 a node takes 1 of them"),
        (
            [of(16)],
            {"instance_nodes": ((2, 2),)},
            "network.instance_nodes[0]=[2, 2]: an instance of 16 devices at 8 a node takes 2 of them",
        ),
        ([of(4)] * 3, {"instance_nodes": ((0,),) * 3}, "network.instance_nodes[2]: node 0 has no room for 4 more devices of h100"),
        ([of(4)], {"nodes": 2, "instance_nodes": ((2,),)}, "network.instance_nodes[0]: there is no node 2; they are numbered from 0 to 1"),
        ([of(4)], {"instance_nodes": ((-1,),)}, "network.instance_nodes[0]: there is no node -1; they are numbered from 0"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused_by_name(instances, network, message):
    with pytest.raises(SimjaxError, match=f"^{re.escape(message)}") as error:
        placed(*instances, **network)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"placement": "packet"}, "network.placement=packet: there is no such rule; did you mean packed?"),
        ({"nodes": 0}, "network.nodes=0: it must be at least 1"),
    ],
)
def test_a_wrong_network_is_refused(network, message):
    with pytest.raises(SimjaxError, match=f"^{re.escape(message)}$"):
        Network(**network)


def test_no_node_has_more_than_it_holds():
    """Drawn clusters, by both rules."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        instances = [of(int(rng.choice([1, 2, 3, 4, 8, 16])), role=str(rng.choice(["prefill", "decode"]))) for _ in range(12)]
        for placement in ("packed", "spread"):
            found = placed(*instances, placement=placement)
            used: dict[int, int] = {}
            for one, nodes in zip(instances, found, strict=True):
                assert len(set(nodes)) == one.nodes
                for node in nodes:
                    used[node] = used.get(node, 0) + one.share
            assert max(used.values()) <= 8 and set(used) == set(range(max(used) + 1))


def test_placing_64_instances_takes_less_than_a_millisecond():
    instances = tuple(of(1, role=role) for role in ("prefill", "decode") for _ in range(32))
    fastest = float("inf")
    for number in range(20):
        network = Network(nodes=8 + number)  # not known yet
        begun = time.perf_counter()
        place(network, instances)
        fastest = min(fastest, time.perf_counter() - begun)
    assert fastest < 1e-3
