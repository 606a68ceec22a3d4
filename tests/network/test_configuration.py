"""`network.*`: what it changes, and what is refused."""

from __future__ import annotations

import re

import pytest

import simjax
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.transfers import transfer_paths
from simjax.errors import SimjaxError
from simjax.hardware import load_device, load_node
from simjax.job import about_options

PD = ["cluster=disaggregated"]


def built(*words: str) -> simjax.ClusterSpec:
    return configured_cluster(simjax.compose([*words]))


def test_devices_sit_in_the_node_of_their_file_unless_another_is_given():
    assert built().instances[0].device is load_device("h100"), "nothing is copied where nothing is said"
    assert built("network.node=hgx_b200").instances[0].device.node == load_node("hgx_b200")
    changed = built("network.inter_bandwidth_bytes_per_s=25e9", "network.inter_latency_s=5e-6", "cluster.tensor_parallel_size=2")
    node, own = changed.instances[0].device.node, load_node("hgx_h100")
    assert (node.inter_link.bandwidth_bytes_per_s, node.inter_link.latency_s) == (25e9, 5e-6)
    assert node.intra_link == own.intra_link and node.devices_per_node == own.devices_per_node
    smaller = built("network.devices_per_node=4").instances[0].device.node
    assert (smaller.devices_per_node, smaller.nics_per_node) == (4, 4)
    assert built("network.devices_per_node=4", "network.nics_per_node=1", *PD).instances[0].device.node.nics_per_node == 1


def test_fewer_devices_of_a_node_make_ranks_span_nodes():
    one, two = (built("cluster.tensor_parallel_size=8", *words) for words in ([], ["network.devices_per_node=4"]))
    assert (one.instances[0].deployment.nodes, two.instances[0].deployment.nodes) == (1, 2)
    assert (one.nodes, two.nodes) == (((0,),), ((0, 1),))


def test_rules_and_hand_placement_decide_what_a_transfer_crosses():
    links = lambda *words: {name.split(" ")[0] for name in transfer_paths(built(*PD, *words)).link_names} - {"none"}
    assert links() == {"fabric"}
    assert links("network.nodes=4", "network.instance_nodes=[0,1,2,3]") == {"network"}
    assert links("network.nodes=2", "network.placement=spread") == {"network", "fabric"}
    assert built(*PD, "network.nodes=2", "network.placement=spread").nodes == ((0,), (1,), (0,), (1,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network.nodes=1", "cluster.instances=9"], "network.nodes=1: the cluster does not fit; its 9 instances with 9 devices of h100"),
        (["network.nodes=1", *PD, "cluster.decode.tensor_parallel_size=8"], "network.nodes=1: the cluster does not fit; its 4 instances"),
        (["network.node=hgx_h10"], "unknown type of node 'hgx_h10'; did you mean hgx_h100"),
        (["network.node=a.yaml"], "cannot read node file a.yaml"),
        (["network.inter_bandwidth_bytes_per_s=50", *PD], "network.inter_bandwidth_bytes_per_s=50 cannot be meant: it is in bytes/s"),
        (["network.inter_bandwidth_bytes_per_s=0", *PD], "network.inter_bandwidth_bytes_per_s=0.0: it must be a positive number"),
        (["network.inter_latency_s=10", *PD], "network.inter_latency_s=10 cannot be meant: it is in seconds"),
        (["network.inter_latency_s=-1", *PD], "network.inter_latency_s=-1.0: it must be a number of seconds that is not negative"),
        (["network.devices_per_node=0"], "network.devices_per_node=0: it must be at least 1"),
        (["network.nics_per_node=0", *PD], "network.nics_per_node=0: it must be at least 1"),
        (["network.instance_nodes=[x]"], "network.instance_nodes[0]=x: it must be the number of a node, or a list of them"),
        (["network.instance_nodes=[[]]"], "network.instance_nodes[0]=[]: it must be the number of a node, or a list of them"),
        (["network.instance_nodes=[true]"], "network.instance_nodes[0]=True: it must be the number of a node"),
        (["network.placement=x", *PD], "network.placement=x: there is no such rule; known: packed, spread"),
        (
            ["network.placement=spread", "network.instance_nodes=[0]", *PD],
            "network.placement=spread has no effect with instance_nodes; leave",
        ),
        (["network.nodes=2", "cluster.file=x.json"], "network.nodes=2 has no effect with cluster.file=x.json"),
        (
            ["network.node=hgx_h200", *PD, "cluster.prefill.device=l40s"],
            "network.node=hgx_h200: the cluster has devices of several kinds (l40s, h100); each sits in the type of node that its device",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(words, message):
    with pytest.raises(SimjaxError, match=f"^{re.escape(message)}") as error:
        built(*words)
    assert "\n" not in str(error.value)


def test_links_that_nothing_crosses_are_named():
    said = lambda *words: [line for line in about_options(simjax.compose([*words])) if line.startswith("network.")]
    (line,) = said("network.inter_latency_s=5e-6")
    assert line.startswith("network.inter_latency_s=5e-06 has no effect with tensor_parallel_size=1 and no prefill and decode instances")
    assert said("network.placement=spread", "network.nics_per_node=2") == [
        "network.placement=spread has no effect without prefill and decode instances",
        "network.nics_per_node=2 has no effect without prefill and decode instances",
    ]
    assert said("network.inter_latency_s=5e-6", "network.placement=spread", "network.nics_per_node=2", *PD) == []
    assert said("network.inter_latency_s=5e-6", "cluster.groups=[{role: prefill},{role: decode}]") == []


def test_the_link_of_devices_matters_to_single_ones_where_caches_move_between_them():
    said = lambda *words: [line for line in about_options(simjax.compose([*words])) if line.startswith("cluster.link")]
    assert said("cluster.link_latency_s=5e-6") == [
        "cluster.link_latency_s=5e-06 has no effect with tensor_parallel_size=1: one device has no link"
    ]
    assert (
        said("cluster.link_latency_s=5e-6", *PD)
        == said("cluster.link_latency_s=5e-6", "cluster.groups=[{role: prefill},{role: decode}]")
        == []
    )
    assert transfer_paths(built(*PD, "cluster.link_latency_s=5e-3")).setup_s[0, 2] == pytest.approx(0.4e-3 + 5e-3)
