"""What is said about a cluster beside its numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simjax.caveat import Estimate, grouped
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.routers import ROUTERS
from simjax.cluster.spec import ClusterSpec, RouterWeights
from simjax.cluster.warnings import about_requests, beyond_context, over_nodes, refused_by_vllm
from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.terms import layer_collectives_s
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.workload.contents import shared
from simjax.workload.models import RequestModels
from simjax.workload.workload import Workload

LLAMA, RTX = load_model("llama-3.1-8b"), load_device("rtx_4090")


def refused(**limits) -> list[str]:
    return refused_by_vllm([InstanceSpec(LLAMA, RTX, limits=InstanceLimits(**limits))] * 2)


def test_a_request_longer_than_any_measured_one():
    sources = [("a", 1000), ("b", 2000), ("a", 1000)]
    assert beyond_context(sources, 1000) == []
    (line,) = beyond_context(sources, 1001)
    assert line.startswith("a: the longest request has 1001 tokens, the longest measured context 1000")


def test_a_context_that_the_kv_cache_cannot_hold_is_said_once_and_only_if_it_was_asked_for():
    assert refused(num_gpu_blocks_override=2000) == []  # the model's own 131,072 tokens do not fit either
    assert refused(num_gpu_blocks_override=2000, max_model_len=32000) == []
    (line,) = refused(num_gpu_blocks_override=2000, max_model_len=32001)
    assert "max_model_len=32001 needs 2001 KV blocks, meta-llama/Llama-3.1-8B on rtx_4090 has 2000" in line


def test_a_budget_smaller_than_the_seats():
    assert refused(max_num_batched_tokens=64) == []  # vLLM lowers its default of max_num_seqs
    assert refused(max_num_batched_tokens=64, max_num_seqs=64) == []
    (line,) = refused(max_num_batched_tokens=64, max_num_seqs=65)
    assert "max_num_batched_tokens=64 is less than max_num_seqs=65" in line


def test_no_chunked_prefill_with_a_budget_below_the_context():
    (line,) = refused(enable_chunked_prefill=False)
    assert "vLLM would not start without chunked prefill: max_num_batched_tokens=8192 is less than max_model_len=131072" in line
    assert refused(enable_chunked_prefill=False, max_model_len=4096) == []


def test_several_models_behind_one_router():
    unnamed = Workload(np.arange(2.0), np.full(2, 8, np.int32), np.full(2, 3, np.int32))
    named = replace(unnamed, models=RequestModels.of(["llama-3.1-8b", None]))
    one, other = InstanceSpec(LLAMA, RTX), InstanceSpec(load_model("qwen3-8b"), RTX)
    assert about_requests(ClusterSpec((one, one)), unnamed) == []
    (line,) = about_requests(ClusterSpec((one, other, one)), unnamed)
    assert "different models (meta-llama/Llama-3.1-8B, Qwen/Qwen3-8B) behind one router: any of them serves any request" in line
    assert about_requests(ClusterSpec((one, other, one)), named) == []


def test_routers_that_look_for_what_is_not_there():
    alone = Workload(np.arange(2.0), np.full(2, 8, np.int32), np.full(2, 3, np.int32))
    sharing = shared.share_prefixes(alone, np.zeros(2, np.int64), 4)

    def lines(router: str, workload: Workload, weight: float = 1.0, count: int = 2, **limits) -> list[str]:
        spec = ClusterSpec((InstanceSpec(LLAMA, RTX, limits=InstanceLimits(**limits)),) * count, router, RouterWeights(prefix=weight))
        return about_requests(spec, workload)

    for router in ROUTERS:
        assert lines(router, alone, count=1) == []
        said = lines(router, alone)
        assert len(said) == (router in ("longest_prefix", "session_affinity"))
    assert "acts as round_robin" in lines("longest_prefix", alone)[0] and lines("longest_prefix", sharing) == []
    assert "no instance has a prefix cache" in lines("longest_prefix", sharing, enable_prefix_caching=False)[0]
    assert "acts as least_loaded" in lines("session_affinity", sharing)[0]
    assert lines("weighted", alone, weight=2.0) == ["cluster.router_prefix_weight=2 has no effect: no requests share a prefix"]
    assert lines("weighted", sharing, weight=2.0) == []


def test_tensor_parallelism_over_nodes_is_priced_between_them_and_said():
    """The case of Llama-3.1-405B on 16 H200: 252 all-reduces a step, at least two latencies of 10 us each between the nodes."""
    model, h200 = load_model("llama-3.1-405b"), load_device("h200")
    near, far = (Deployment(model, h200, Parallelism(n)) for n in (8, 16))
    assert (near.nodes, far.nodes) == (1, 2) and over_nodes(near) == []
    (line,) = over_nodes(far)
    assert line.startswith(
        "tensor_parallel_size=16 exceeds the 8 devices of a node of h200: all-reduces are priced in two levels over 2 nodes"
    )
    inside, outside = (np.asarray(layer_collectives_s(x, 1000)) * model.num_hidden_layers for x in (near, far))
    decode, prefill = outside[0] - inside[0], outside[-1] - inside[-1]
    assert decode == pytest.approx(252 * 2 * 10e-6, rel=0.02)
    sent_s = 252 * 1000 * model.hidden_size * 2 / 8 / 50e9  # each rank sends its eighth over the network
    assert prefill == pytest.approx(252 * 2 * 10e-6 + sent_s, rel=0.02)
    given = replace(h200.node.intra_link, bandwidth_bytes_per_s=50e9)
    assert Deployment(model, h200, Parallelism(16), link=given).nodes == 1  # a link that the user gives is that of all ranks


def test_estimates_are_one_line_behind_the_others():
    lines = [Estimate("a: one"), "own", Estimate("a: two"), "own", Estimate("b: three"), "last"]
    found = grouped(lines)
    assert found == ("own", "last", "a: one; two. b: three") and isinstance(found[-1], Estimate)
    assert grouped(["x"]) == ("x",) and grouped([]) == ()
    assert grouped(Estimate(f"{name}: x") for name in "abcde")[-1].endswith("c: x. and the like for 2 more")
