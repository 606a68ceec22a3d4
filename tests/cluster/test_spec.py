"""Describing a cluster: limits, capacities, groups, and the mistakes one can make."""

from __future__ import annotations

import pytest

from simjax.cluster.configured.cluster import build_cluster
from simjax.cluster.configured.groups import engine_limits
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.config.cluster import ClusterConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.model import load_model

LLAMA, H100 = load_model("llama-3.1-8b"), load_device("h100")


def build(cluster: ClusterConfig | None = None, **scheduler) -> ClusterSpec:
    return build_cluster("llama-3.1-8b", "h100", cluster or ClusterConfig(), SchedulerConfig(**scheduler))


def test_flags_that_are_not_set_are_vllms_defaults():
    (instance,) = build(max_num_seqs=7).instances
    assert instance.limits == InstanceLimits(max_num_seqs=7)
    assert (instance.model, instance.device) == (LLAMA, H100)


def test_flags_override_a_base():
    assert engine_limits(SchedulerConfig(block_size=32), InstanceLimits(max_num_seqs=5)) == InstanceLimits(max_num_seqs=5, block_size=32)


def test_vllm_keeps_one_block_for_itself():
    instance = InstanceSpec(LLAMA, H100, limits=InstanceLimits(num_gpu_blocks_override=2588))
    assert (instance.num_gpu_blocks, instance.usable_blocks) == (2588, 2587)


def test_the_kv_cache_can_be_stated_in_bytes():
    # 10 GiB; a block of Llama-3.1-8B is 16 tokens of keys and values, 8 heads of 128, 32 layers, 2 bytes: 2 MiB
    (instance,) = build(kv_cache_memory_bytes=10 * 2**30).instances
    assert (instance.num_gpu_blocks, instance.usable_blocks) == (5120, 5119)
    (instance,) = build(kv_cache_memory_bytes=10 * 2**30, num_gpu_blocks_override=100).instances
    assert instance.num_gpu_blocks == 100  # as in vLLM


@pytest.mark.parametrize("name", ["fp8", "fp8_e4m3", "fp8_e5m2"])
def test_keys_and_values_of_one_byte_take_half_the_space(name: str):
    (instance,) = build(kv_cache_memory_bytes=10 * 2**30, kv_cache_dtype=name).instances
    assert instance.num_gpu_blocks == 10_240
    two = build(ClusterConfig(groups=[{"kv_cache_dtype": name}, {}]), kv_cache_memory_bytes=2**30)
    assert [one.num_gpu_blocks for one in two.instances] == [1024, 512]


@pytest.mark.parametrize("degree, heads", [(1, 4), (2, 2), (4, 1), (8, 1)])
def test_every_rank_holds_a_head_of_keys_and_values(degree: int, heads: int):
    # Qwen3-30B-A3B: 4 heads of 128, 48 layers, 2 bytes
    config = ClusterConfig(tensor_parallel_size=degree)
    (instance,) = build_cluster("qwen3-30b-a3b", "h100", config, SchedulerConfig(kv_cache_memory_bytes=2**33)).instances
    assert instance.num_gpu_blocks == 2**33 // (16 * 2 * heads * 128 * 48 * 2)


def test_the_longest_request_is_the_models_context_unless_limited():
    assert InstanceSpec(LLAMA, H100).longest_request_tokens == 131072
    assert InstanceSpec(LLAMA, H100, limits=InstanceLimits(max_model_len=4096)).longest_request_tokens == 4096
    unsplit = InstanceLimits(max_model_len=4096, enable_chunked_prefill=False, max_num_batched_tokens=2048)
    assert InstanceSpec(LLAMA, H100, limits=unsplit).longest_request_tokens == 2048


def test_groups_differ_in_model_device_degree_and_flags():
    groups = [
        {"instances": 2},
        {"device": "rtx_4090", "max_num_seqs": 64},
        {"model": "qwen3-32b", "device": "h200", "tensor_parallel_size": 2},
    ]
    cluster = build(ClusterConfig(groups=groups, router="least_kv"), block_size=32)
    found = [(x.model.name, x.device.name, x.parallelism.tensor, x.limits.max_num_seqs, x.limits.block_size) for x in cluster.instances]
    assert found == [
        (LLAMA.name, "h100", 1, 256, 32),
        (LLAMA.name, "h100", 1, 256, 32),
        (LLAMA.name, "rtx_4090", 1, 64, 32),
        ("Qwen/Qwen3-32B", "h200", 2, 256, 32),
    ]
    assert cluster.num_devices == 5 and cluster.router == "least_kv"


def test_a_link_can_be_given():
    (instance,) = build(ClusterConfig(link_latency_s=5e-6)).instances
    assert instance.link is not None
    assert instance.link.latency_s == 5e-6
    assert instance.link.bandwidth_bytes_per_s == H100.node.intra_link.bandwidth_bytes_per_s


@pytest.mark.parametrize(
    "cluster, scheduler, message",
    [
        ({"router": "least_load"}, {}, "cluster.router=least_load.*did you mean least_loaded"),
        ({"instances": 0}, {}, "cluster.instances=0"),
        ({"tensor_parallel_size": -1}, {}, "tensor_parallel_size=-1"),
        ({"groups": [{"instnces": 2}]}, {}, r"cluster.groups\[0\]: unknown key 'instnces'; did you mean instances"),
        ({"groups": ["h100"]}, {}, r"cluster.groups\[0\]: a group is a mapping"),
        ({"groups": [{"instances": 1}, {"instances": 1.5}]}, {}, r"cluster.groups\[1\].instances=1.5"),
        ({"groups": [{}], "file": "x.json"}, {}, "cluster.file and cluster.groups"),
        ({}, {"max_num_seqs": 0}, "scheduler.max_num_seqs=0"),
        ({}, {"gpu_memory_utilization": 1.2}, "scheduler.gpu_memory_utilization=1.2"),
        ({}, {"kv_cache_memory_bytes": 0}, "scheduler.kv_cache_memory_bytes=0: it must be an integer of at least 1"),
        (
            {},
            {"kv_cache_dtype": "fp9"},
            "scheduler.kv_cache_dtype=fp9: not one of vLLM's --kv-cache-dtype that are simulated; did you mean fp8",
        ),
        ({}, {"kv_cache_dtype": "int8"}, "scheduler.kv_cache_dtype=int8: .* known: auto, bfloat16, float16, fp8, fp8_e4m3, fp8_e5m2"),
        ({}, {"kv_cache_dtype": "fp16"}, "scheduler.kv_cache_dtype=fp16: not one of vLLM's"),
        ({}, {"dtype": "fp8"}, "scheduler.dtype=fp8: not one of vLLM's --dtype that are simulated; known: auto, bfloat16"),
        ({}, {"max_num_batched_tokens": 64, "max_num_seqs": 65}, "max_num_seqs=65: vLLM refuses more seats than max_num_batched_tokens=64"),
        ({"link_bandwidth_bytes_per_s": 50.0}, {}, r"cluster.link_bandwidth_bytes_per_s=50 cannot be meant: it is in bytes/s \(not GB/s\)"),
        ({}, {"kv_cache_dtype": "turboquant_k8v4"}, "scheduler.kv_cache_dtype=turboquant_k8v4: .* known: auto, .*fp8"),
    ],
)
def test_mistakes_are_named(cluster: dict, scheduler: dict, message: str):
    with pytest.raises(SimjaxError, match=message):
        build(ClusterConfig(**cluster), **scheduler)


def test_a_model_that_does_not_fit_is_named():
    with pytest.raises(SimjaxError, match="does not fit rtx_4090"):
        _ = InstanceSpec(load_model("llama-3.1-70b"), load_device("rtx_4090")).num_gpu_blocks
