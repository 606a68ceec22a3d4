"""The compatibility connector: all is sent within the prefill's steps, and the request runs on the decode instance at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role
from simjax.hardware import load_device
from simjax.job import simulate_cluster
from simjax.model import load_model
from simjax.workload import read_trace
from simjax.workload.workload import Workload
from tests.data import data_path

LIMITS = InstanceLimits(max_num_seqs=8, max_num_batched_tokens=512, async_scheduling=False)
ONE = InstanceSpec(load_model("llama-3.1-8b"), load_device("h100"), limits=LIMITS)
RULE = Disaggregation(connector="llmservingsim")
NO_API = LatencySource(api_pre_s=0.0, api_post_s=0.0)  # that simulator has no API server


def pair(seats: int = 8) -> ClusterSpec:
    decode = replace(ONE, role=Role.DECODE, limits=replace(LIMITS, max_num_seqs=seats))
    return ClusterSpec((replace(ONE, role=Role.PREFILL), decode), disaggregation=RULE)


def requests(arrival_s, output: int) -> Workload:
    n = len(arrival_s)
    return Workload(np.array(arrival_s, float), np.full(n, 100, np.int32), np.full(n, output, np.int32))


def test_the_first_token_is_that_of_the_prefill_and_the_next_follows_it_by_one_step():
    result = simulate_cluster(pair(), requests([0.0], 3), NO_API).result
    handovers, log = result.handovers, result.requests
    assert handovers is not None and log.instance.tolist() == [1]
    columns = ("prefill_finish_s", "transfer_start_s", "transfer_end_s", "decode_scheduled_s")
    assert {getattr(handovers, name)[0] for name in columns} == {log.first_token_s[0]}
    alone = simulate_cluster(ClusterSpec((ONE,)), requests([0.0], 3), NO_API).result.requests
    np.testing.assert_allclose(log.finish_s - log.first_token_s, alone.finish_s - alone.first_token_s, rtol=1e-9)
    assert log.first_token_s[0] > alone.first_token_s[0], "the prefill's step sends"


def test_one_token_is_done_with_the_prefill():
    result = simulate_cluster(pair(), requests([0.0, 0.5], 1), NO_API).result
    assert (result.requests.finish_s == result.requests.first_token_s).all()


def test_seats_of_the_decode_instance_do_not_count():
    workload = requests([0.0, 0.0, 0.0], 40)
    free, tight = (simulate_cluster(pair(seats), workload).result.requests for seats in (8, 1))
    np.testing.assert_allclose(tight.finish_s, free.finish_s, rtol=1e-9)


def test_llmservingsims_own_run_within_one_percent():
    folder = data_path("llmservingsim")
    limits = InstanceLimits(max_num_seqs=128, max_num_batched_tokens=2048, async_scheduling=False)
    found = read_cluster(folder / "configs/cluster/single_node_pd_instance.json", limits)
    cluster = ClusterSpec(found.instances, "least_loaded", disaggregation=RULE)
    workload = read_trace(folder / "workloads/example_trace.jsonl").workload
    log = simulate_cluster(cluster, workload, LatencySource(bundle_root=folder / "profiles")).result.requests
    theirs = pd.read_csv(folder / "peer_outputs/example_pd_run.csv").sort_values("request id")
    np.testing.assert_allclose(log.finish_s - log.arrival_s, theirs.latency.to_numpy() / 1e9, rtol=0.01)
    np.testing.assert_array_equal(log.instance, theirs["instance id"].to_numpy())
