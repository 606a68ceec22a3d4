"""What is said about a cluster beside its numbers."""

from __future__ import annotations

from simjax.cluster.spec import InstanceLimits, InstanceSpec
from simjax.cluster.warnings import beyond_context, refused_by_vllm
from simjax.hardware import load_device
from simjax.model import load_model

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
