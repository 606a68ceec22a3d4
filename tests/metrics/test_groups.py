"""What the requests of each group of a mixed cluster got."""

import numpy as np
import pytest

import simjax
from simjax.cluster.alike import alike_instances
from simjax.job import configured_cluster, measurement_window

MIXED = "cluster.groups=[{instances: 2, device: h100}, {device: l40s, max_num_seqs: 64}]"


def groups_of(*options: str) -> list[str]:
    found = alike_instances(configured_cluster(simjax.compose([*options])))
    return [] if found is None else list(found.names)


def test_names_say_what_differs() -> None:
    assert groups_of("cluster.instances=3") == []
    assert groups_of(MIXED) == ["h100, max_num_seqs 256", "l40s, max_num_seqs 64"]
    assert groups_of("cluster=disaggregated") == ["prefill", "decode"]
    assert groups_of("cluster.groups=[{block_size: 16}, {block_size: 32}]") == ["group #0", "group #1"]


def test_the_summary_of_a_mixed_cluster() -> None:
    config = simjax.compose([MIXED, "workload.num_requests=60", "metrics.warmup_s=0", "metrics.cooldown_s=0"])
    done = simjax.run(config)
    summary = simjax.summarize(done.result, window=measurement_window(config.metrics))
    groups, log = summary["groups"], done.result.requests
    fast, slow = groups.values()
    assert (fast["instances"], slow["instances"]) == ([0, 1], [2])
    assert (fast["requests"], slow["requests"]) == (40, 20)
    ttft_s = log.first_token_s - log.arrival_s
    assert slow["ttft_s"]["mean"] == pytest.approx(float(np.mean(ttft_s[log.instance == 2])))
    assert slow["tpot_s"]["mean"] > fast["tpot_s"]["mean"] > 0
    assert fast["output_tokens_per_s"] + slow["output_tokens_per_s"] == pytest.approx(summary["throughput"]["output_tokens_per_s"])
