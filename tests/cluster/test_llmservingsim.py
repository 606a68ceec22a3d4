"""LLMServingSim's cluster files, as they are and broken."""

from __future__ import annotations

import json

import pytest

from simjax.cluster.configured.llmservingsim import read_cluster
from simjax.cluster.instance import InstanceLimits
from simjax.cluster.spec import ClusterSpec
from simjax.deployment import Role
from simjax.errors import SimjaxError
from tests.data import data_path

FILES = "llmservingsim/configs/cluster"


def minimal() -> dict:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0, "mem_util": 0.8},
        "num_npus": 2,
        "tp_size": 2,
        "pd_type": None,
        "max_num_seqs": 0,
        "block_size": 32,
    }
    return {"num_nodes": 1, "link_bw": [16, 4], "link_latency": 20000, "nodes": [{"num_ranks": 1, "instances": [instance]}]}


def write(tmp_path, content) -> object:
    path = tmp_path / "cluster.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_units_and_overrides(tmp_path):
    (instance,) = read_cluster(write(tmp_path, minimal()), InstanceLimits(max_num_batched_tokens=2048)).instances
    assert instance.parallelism.tensor == 2
    assert instance.device.memory_bytes == 96 * 2**30
    assert instance.device.memory_bandwidth_bytes_per_s == 1597e9
    assert instance.link is not None
    assert (instance.link.bandwidth_bytes_per_s, instance.link.latency_s) == (16 * 2**30, pytest.approx(20e-6))
    limits = instance.limits
    assert (limits.block_size, limits.gpu_memory_utilization, limits.max_num_batched_tokens) == (32, 0.8, 2048)
    assert limits.max_num_seqs == 2048  # 0 is "no limit" there: as many as a step has tokens


@pytest.mark.parametrize("sizes", [{"num_npus": 4, "pp_size": 2}, {"num_npus": 4}, {"num_npus": None, "pp_size": 2}])
def test_stages_of_a_pipeline(tmp_path, sizes: dict):
    raw = minimal()
    raw["nodes"][0]["instances"][0] |= sizes
    (instance,) = read_cluster(write(tmp_path, raw), InstanceLimits()).instances
    assert (instance.parallelism.tensor, instance.parallelism.pipeline) == (2, 2)
    assert instance.device.node.devices_per_node == 4


@pytest.mark.parametrize(("name", "tensor", "stages"), [("single_node_pp_instance", 1, 4), ("single_node_tp_pp_instance", 2, 2)])
def test_their_pipelines_are_read_unchanged(name: str, tensor: int, stages: int):
    (instance,) = read_cluster(data_path(f"{FILES}/{name}.json"), InstanceLimits()).instances
    assert (instance.parallelism.tensor, instance.parallelism.pipeline) == (tensor, stages)


def test_their_experts_are_on_the_tensor_parallel_ranks(tmp_path):
    (instance,) = read_cluster(data_path(f"{FILES}/single_node_moe_single_instance.json"), InstanceLimits()).instances
    assert (instance.parallelism.tensor, instance.parallelism.expert) == (2, 2)
    raw = minimal()
    one = raw["nodes"][0]["instances"][0]
    for stated, model, expected in ((None, "qwen3-30b-a3b", 2), (1, "qwen3-30b-a3b", 1), (2, "qwen3-30b-a3b", 2), (2, "llama-3.1-8b", 1)):
        one |= {"model_name": model, "ep_size": stated}
        (instance,) = read_cluster(write(tmp_path, raw), InstanceLimits()).instances
        assert instance.parallelism.expert == expected


@pytest.mark.parametrize("memory, tokens", [(24, 0), (24, 2048), (96, 0)])
def test_no_limits_leave_the_kv_cache_that_the_usual_ones_leave(tmp_path, memory: int, tokens: int):
    raw = minimal()
    one = raw["nodes"][0]["instances"][0]
    one |= {"num_npus": 1, "tp_size": 1, "max_num_batched_tokens": tokens}
    one["npu_mem"] |= {"mem_size": memory, "mem_util": 0.9}
    (unlimited,) = read_cluster(write(tmp_path, raw), InstanceLimits()).instances
    expected = tokens or unlimited.model.max_position_embeddings
    assert (unlimited.limits.max_num_batched_tokens, unlimited.limits.max_num_seqs) == (expected, min(expected, 65536))
    one |= {"max_num_batched_tokens": tokens or 8192, "max_num_seqs": 256}
    (usual,) = read_cluster(write(tmp_path, raw), InstanceLimits()).instances
    assert unlimited.num_gpu_blocks == usual.num_gpu_blocks > 1000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pp_size": 2}, "num_npus=2 is not tp_size=2 times pp_size=2"),
        ({"pd_type": "both"}, "pd_type='both': it must be prefill, decode or null"),
        ({"ep_size": 4}, r"ep_size=4: expert parallelism over other than .* ranks \(tp_size=2, 1 in its dp_group\) is not simulated yet"),
        ({"num_npus": 5}, "num_npus=5 is not tp_size=2 times pp_size=2"),
        (
            {"placement": {"layers": {"lm_head": {"weights": "cxl:1"}}}},
            r"placement.layers.lm_head.weights='cxl:1': the file has no cxl_mem",
        ),
        ({"placement": {"blocks": [{"blocks": "0-3", "kv_loc": "cpu"}]}}, r"placement.blocks\[0\].kv_loc='cpu' is not simulated yet"),
        ({"enable_attn_offloading": True}, "enable_attn_offloading: cpu_mem of its node has no pim_config"),
        ({"dtype": "int8"}, "dtype='int8' is not simulated yet"),
        ({"hardware": "RTX9999"}, "unknown device 'RTX9999'"),
        ({"model_name": "gpt-9"}, "unknown model 'gpt-9'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(tmp_path, change: dict, message: str):
    cluster = minimal()
    cluster["nodes"][0]["instances"][0] |= change
    with pytest.raises(SimjaxError, match=message):
        read_cluster(write(tmp_path, cluster), InstanceLimits())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dual_node_moe_dp_ep_intra_inter_instance", [(2, 1, 2, 4)]),
        ("single_node_dp_instance", [(2, 1, 2, 1)]),
        ("single_node_moe_dp_ep_instance", [(1, 1, 2, 2)]),
        ("single_node_moe_dp_pp_instance", [(1, 2, 2, 2)]),
        ("single_node_moe_dp_tp_pp_instance", [(2, 2, 2, 4)]),
        ("single_node_moe_dp_tp_instance", [(2, 1, 1, 2)] * 2),  # all experts on each member: nothing couples them
    ],
)
def test_their_data_parallel_groups_are_read_unchanged(name: str, sizes: list[tuple[int, ...]]):
    found = read_cluster(data_path(f"{FILES}/{name}.json"), InstanceLimits())
    of = [one.parallelism for one in found.instances]
    assert [(one.tensor, one.pipeline, one.data, one.expert) for one in of] == sizes
    assert len(found.nodes) == len(sizes)
    ClusterSpec(found.instances)


def test_members_of_a_group_are_alike(tmp_path):
    cluster = minimal()
    one = cluster["nodes"][0]["instances"][0] | {"dp_group": "A"}
    cluster["nodes"][0]["instances"] = [one, one | {"block_size": 16}]
    with pytest.raises(SimjaxError, match=r"instance 1: block_size=16, but 32 in the first member of dp_group='A'"):
        read_cluster(write(tmp_path, cluster), InstanceLimits())
    cluster["nodes"][0]["instances"] = [one]
    assert read_cluster(write(tmp_path, cluster), InstanceLimits()).instances[0].parallelism.data == 1


def test_broken_files(tmp_path):
    with pytest.raises(SimjaxError, match="no such cluster file"):
        read_cluster(tmp_path / "none.json", InstanceLimits())
    with pytest.raises(SimjaxError, match=r"cluster.json:1: not valid JSON"):
        read_cluster(write(tmp_path, "{"), InstanceLimits())
    with pytest.raises(SimjaxError, match="'npu_mem'"):
        cluster = minimal()
        del cluster["nodes"][0]["instances"][0]["npu_mem"]
        read_cluster(write(tmp_path, cluster), InstanceLimits())


def test_a_file_that_lists_fewer_nodes_or_instances_than_it_says(tmp_path):
    cluster = minimal() | {"num_nodes": 2}
    with pytest.raises(SimjaxError, match=r"cluster.json: num_nodes=2, but 1 are listed"):
        read_cluster(write(tmp_path, cluster), InstanceLimits())
    cluster = minimal()
    cluster["nodes"][0]["num_instances"] = 3
    with pytest.raises(SimjaxError, match=r"cluster.json: node 0: num_instances=3, but 1 are listed"):
        read_cluster(write(tmp_path, cluster), InstanceLimits())


def test_a_placement_on_the_device_asks_for_nothing(tmp_path):
    cluster = minimal()
    cluster["nodes"][0]["instances"][0]["placement"] = {"default": {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "cpu"}}
    assert len(read_cluster(write(tmp_path, cluster), InstanceLimits()).instances) == 1


def test_all_overrides_of_an_instance_count(tmp_path):
    overrides = {"dtype": "float16", "kv_cache_dtype": "fp8", "enable_prefix_caching": False, "enable_chunked_prefill": False}
    overrides |= {"reserve_full_isl": False, "long_prefill_token_threshold": 512, "max_num_batched_tokens": 4096, "max_num_seqs": 7}
    cluster = minimal()
    cluster["nodes"][0]["instances"][0] |= overrides
    (instance,) = read_cluster(write(tmp_path, cluster), InstanceLimits()).instances
    assert {name: getattr(instance.limits, name) for name in overrides} == overrides
    assert instance.model.dtype == "float16"


def test_roles_models_nodes_and_links(tmp_path):
    cluster = minimal() | {"num_nodes": 2, "link_bw": [128, 16], "link_latency": [500, 20000]}
    (one,) = cluster["nodes"][0]["instances"]
    cluster["nodes"] = [
        {"instances": [one | {"pd_type": "prefill"}, one | {"pd_type": "prefill", "num_npus": 1, "tp_size": 1}]},
        {"instances": [one | {"pd_type": "decode", "model_name": "Qwen/Qwen3-32B"}]},
    ]
    found = read_cluster(write(tmp_path, cluster), InstanceLimits())
    assert found.nodes == (0, 0, 1)
    assert [x.role for x in found.instances] == [Role.PREFILL, Role.PREFILL, Role.DECODE]
    assert [x.device.node.devices_per_node for x in found.instances] == [3, 3, 2]
    assert [x.model.name.split("/")[-1] for x in found.instances] == ["Llama-3.1-8B", "Llama-3.1-8B", "Qwen3-32B"]
    for instance in found.instances:
        assert instance.link is not None
        assert instance.link.bandwidth_bytes_per_s == 128 * 2**30
        assert instance.link.latency_s == pytest.approx(0.5e-6)
        for between in (instance.device.node.intra_link, instance.device.node.inter_link):
            assert between.bandwidth_bytes_per_s == 16 * 2**30
            assert between.latency_s == pytest.approx(20e-6)


def test_a_prefill_instance_without_a_decode_instance(tmp_path):
    cluster = minimal()
    cluster["nodes"][0]["instances"][0]["pd_type"] = "prefill"
    with pytest.raises(SimjaxError, match="prefill instances and no decode instances"):
        ClusterSpec(read_cluster(write(tmp_path, cluster), InstanceLimits()).instances)


@pytest.mark.parametrize(
    "name, count",
    [
        ("single_node_single_instance", 1),
        ("single_node_multi_instance", 2),
        ("single_node_4_instance_2TP", 4),
        ("single_node_heterogeneous", 2),
        ("single_node_moe_pd_instance", 2),
        ("single_node_pd_per_instance_config", 2),
    ],
)
def test_example_files_read_unchanged(name: str, count: int):
    assert len(read_cluster(data_path(f"{FILES}/{name}.json"), InstanceLimits()).instances) == count
