"""The hand-over and the network among the parameters of a sensitivity."""

import math
from dataclasses import replace

import pytest

import simjax
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.transfers import transfer_paths
from simjax.errors import SimjaxError
from simjax.sensitivity.names import CLUSTER_PARAMETERS
from simjax.sensitivity.parameters import HELD_BY_STEPS, Setting, sensitivity_parameters
from simjax.sensitivity.sensitivity import Effect, _within_steps
from simjax.workload import build_workload

APART = ["cluster=disaggregated", "network.instance_nodes=[0,1,2,3]", "disaggregation.handover_s=0.01"]
WORKLOAD = build_workload(simjax.compose(["workload.num_requests=4"]).workload)
OF_TRANSFERS = ("setup_s", "link_efficiency", "handover_s", "per_descriptor_s", "network_bandwidth", "network_latency")


def setting_of(*words: str) -> tuple[simjax.ClusterSpec, Setting]:
    cluster = configured_cluster(simjax.compose([*words]))
    sources = (LatencySource(),) * len(cluster.instances)
    return cluster, Setting(cluster.instances, sources, disaggregation=cluster.disaggregation)


def changed(name: str, factor: float, *words: str) -> tuple[simjax.ClusterSpec, float]:
    """The cluster with a parameter times a factor, and the logarithm that was reached."""
    cluster, setting = setting_of(*words)
    ((parameter,), _) = sensitivity_parameters(setting, WORKLOAD, [name])
    assert not parameter.smooth, "step times do not hold it"
    scaled, reached = parameter.scale(setting, factor)
    return replace(cluster, instances=scaled.instances, disaggregation=scaled.disaggregation), reached


@pytest.mark.parametrize(("name", "capacity", "setup"), [("link_efficiency", 1.1, 1), ("network_bandwidth", 1.1, 1), ("setup_s", 1, 1.1)])
def test_paths_follow(name: str, capacity: float, setup: float) -> None:
    now, then = transfer_paths(configured_cluster(simjax.compose(APART))), transfer_paths(changed(name, 1.1, *APART)[0])
    assert then.capacity[0] == pytest.approx(capacity * now.capacity[0], rel=1e-12)
    assert then.setup_s[0, 2] - 10e-6 == pytest.approx(setup * (now.setup_s[0, 2] - 10e-6), rel=1e-9)


def test_latency_of_the_network_and_the_link_within_a_node() -> None:
    assert transfer_paths(changed("network_latency", 2.0, *APART)[0]).setup_s[0, 2] == pytest.approx(0.4e-3 + 20e-6)
    near = transfer_paths(changed("link_bandwidth", 2.0, "cluster=disaggregated")[0])
    assert near.capacity[0] == pytest.approx(0.7 * 2 * 450e9)


def test_seconds_of_the_proxy_and_shares_stay_in_bounds() -> None:
    assert changed("handover_s", 1.5, *APART)[0].disaggregation.handover_s == pytest.approx(0.015)
    cluster, reached = changed("link_efficiency", 2.0, *APART)
    assert cluster.disaggregation.link_efficiency == 1.0 and reached == pytest.approx(math.log(1 / 0.7))


def test_what_is_zero_is_named_and_all_are_found() -> None:
    _, setting = setting_of(*APART)
    found, (line,) = sensitivity_parameters(setting, WORKLOAD)
    assert {x.name for x in found} >= {*OF_TRANSFERS, "link_bandwidth"} - {"per_descriptor_s"}
    assert line.startswith("left out, for a percent of 0 is 0: ") and "per_descriptor_s" in line
    assert set(OF_TRANSFERS) <= set(CLUSTER_PARAMETERS)


def test_a_change_within_a_step_is_named() -> None:
    """Only of parameters that steps hold, and only where no output has moved."""
    parameters = sensitivity_parameters(setting_of(*APART)[1], WORKLOAD, ["setup_s", "handover_s", "gemm_bandwidth"])[0]
    assert {x.name: x.by_differences for x in parameters} == {"setup_s": HELD_BY_STEPS, "handover_s": HELD_BY_STEPS, "gemm_bandwidth": ""}
    moved = {"setup_s": [0.0, None], "handover_s": [0.0, 0.2], "gemm_bandwidth": [0.0, 0.0]}
    effects = [Effect("x", name, "s", 1.0, size, None, None) for name, sizes in moved.items() for size in sizes]
    (line,) = _within_steps(effects, parameters, 0.02)
    assert line == "setup_s: no effect at step=0.02, which is too little to cross the end of a decode step; a larger step may"
    assert _within_steps([replace(x, elasticity=0.1) for x in effects], parameters, 0.02) == []


@pytest.mark.parametrize("name", OF_TRANSFERS)
def test_without_prefill_and_decode_instances_they_have_no_effect(name: str) -> None:
    _, setting = setting_of()
    assert name not in {x.name for x in sensitivity_parameters(setting, WORKLOAD)[0]}
    with pytest.raises(SimjaxError, match=rf"^parameters: {name}: it has no effect "):
        sensitivity_parameters(setting, WORKLOAD, [name])


def test_the_network_between_the_ranks_of_an_instance_is_one() -> None:
    _, setting = setting_of("model=llama-3.1-405b", "device=h200", "cluster.tensor_parallel_size=16")
    ((parameter,), _) = sensitivity_parameters(setting, WORKLOAD, ["network_latency"])
    assert parameter.value == 10e-6 and parameter.smooth
    scaled, reached = parameter.scale(setting, 1.2)
    assert scaled.instances[0].device.node.inter_link.latency_s == pytest.approx(12e-6) and reached == pytest.approx(math.log(1.2))
