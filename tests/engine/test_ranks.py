"""Instances of several data-parallel ranks: each rank is a scheduler of its own, and results have a row an instance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from simjax.cluster.balancer import Balancer
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Role
from simjax.engine.host.lower import lower
from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import Result
from simjax.engine.simulate import simulate
from simjax.hardware import load_device
from simjax.metrics import summarize
from simjax.metrics.files import requests_frame
from simjax.metrics.timeseries import timeline
from simjax.model import load_model
from simjax.network.placement import Footprint, dealt_to_ranks
from simjax.parallel.parallelism import Parallelism
from simjax.workload.workload import Workload

SPEC = InstanceSpec(load_model("llama-3.1-8b"), load_device("h100"), limits=InstanceLimits(max_num_seqs=16, num_gpu_blocks_override=201))
WORK = Workload(np.arange(40) / 30.0, np.tile(np.array([700, 90, 1500], np.int32), 14)[:40], np.full(40, 60, np.int32))


def cluster(*ranks: int, spec: InstanceSpec = SPEC) -> ClusterSpec:
    return ClusterSpec(tuple(dataclasses.replace(spec, parallelism=Parallelism(data=x)) for x in ranks))


def ran(spec: ClusterSpec) -> Result:
    lowered = lower(spec, cluster_timing(spec.instances, LatencySource()), WORK)
    return simulate(lowered.shape, lowered.params)


@pytest.fixture(scope="module")
def several() -> Result:
    """Four ranks of two instances."""
    return ran(dataclasses.replace(cluster(3, 1), balancer=Balancer(external=True)))


def test_ranks_are_schedulers_of_their_own(several: Result):
    """Dealt to them in turn, requests have the times of as many instances of one rank."""
    single = ran(cluster(1, 1, 1, 1))
    ranks = by_rank(several)
    assert several.ranks is not None and single.ranks is None
    for name in ("instance", "arrival_s", "scheduled_s", "first_token_s", "finish_s", "preemptions"):
        np.testing.assert_array_equal(getattr(ranks.requests, name), getattr(single.requests, name))
    assert several.requests.instance.tolist() == [0, 0, 0, 1] * 10
    assert ranks.instances.num_blocks.tolist() == [200] * 4 and several.instances.num_blocks.tolist() == [600, 200]
    np.testing.assert_array_equal(ranks.instances.peak_blocks, single.instances.peak_blocks)
    assert several.instances.peak_blocks.tolist() == [single.instances.peak_blocks[:3].sum(), single.instances.peak_blocks[3]]
    assert several.ranks.number.tolist() == [0, 1, 2, 0]


def test_tables_have_a_row_an_instance_and_ranks_beside(several: Result):
    summary = summarize(several)
    single = summarize(by_rank(several))
    assert [one["requests"] for one in summary["instances"]] == [30, 10]
    assert [(one["instance"], one["rank"], one["requests"]) for one in summary["ranks"]] == [(0, 0, 10), (0, 1, 10), (0, 2, 10), (1, 0, 10)]
    busy = [one["busy_fraction"] for one in summary["ranks"]]
    assert summary["instances"][0]["busy_fraction"] == pytest.approx(np.mean(busy[:3])) and 0 < min(busy) <= max(busy) < 1
    assert summary["kv"] == single["kv"], "peaks are those of the fullest rank"
    assert requests_frame(several.requests, ranks=several.ranks)["rank"].tolist() == [0, 1, 2, 0] * 10
    assert "rank" not in requests_frame(several.requests) and "ranks" not in single


def test_the_timeline_of_an_instance_is_that_of_its_ranks(several: Result):
    whole, ranks = timeline(several, 0.5), timeline(by_rank(several), 0.5)
    of_rank = lambda name: ranks[name].to_numpy(float).reshape(4, -1)
    mine = whole[whole["instance"] == 0]
    assert whole["instance"].nunique() == 2
    for name in ("running", "waiting", "output_tokens_per_s", "prompt_tokens_per_s"):
        np.testing.assert_allclose(mine[name].to_numpy(float), of_rank(name)[:3].sum(axis=0), err_msg=name)
    np.testing.assert_allclose(mine["kv_used_fraction"].to_numpy(float), of_rank("kv_used_fraction")[:3].mean(axis=0))


@pytest.mark.parametrize(
    ("tensor", "data", "nodes", "ranks"),
    [
        (1, 8, 1, [(0,)] * 8),
        (2, 8, 2, [(0,)] * 4 + [(1,)] * 4),
        (4, 3, 3, [(0,), (1,), (2,)]),  # two would fit a node, but then the nodes differ
        (16, 2, 4, [(0, 1), (2, 3)]),
    ],
)
def test_ranks_are_spread_evenly_over_as_few_nodes_as_hold_them(tensor: int, data: int, nodes: int, ranks: list[tuple[int, ...]]):
    found = Footprint.of(tensor, 1, load_device("h100").node, "h100", "both", data)
    assert (found.devices, found.nodes) == (tensor * data, nodes)
    assert list(dealt_to_ranks(tuple(range(nodes)), data)) == ranks


def test_each_rank_has_its_own_links():
    """A transfer to one of two ranks goes over the adapters of one device, not over those of the instance."""
    from simjax.cluster.transfers import transfer_paths

    def capacity(data: int) -> tuple[np.ndarray, tuple[str, ...], int]:
        prefill = dataclasses.replace(SPEC, role=Role.PREFILL)
        decode = dataclasses.replace(SPEC, role=Role.DECODE, parallelism=Parallelism(data=data))
        paths = transfer_paths(ClusterSpec((prefill, decode)))
        return paths.capacity[paths.path[0, 1]], paths.link_names, len(paths.path)

    (one, names, pairs), (two, names_of_two, pairs_of_two) = capacity(1), capacity(2)
    np.testing.assert_array_equal(one, two)
    assert (pairs, pairs_of_two) == (2, 3)
    assert "fabric into instance 1" in names and "fabric into rank 1 of instance 1" in names_of_two
