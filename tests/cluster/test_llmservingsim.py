"""LLMServingSim's cluster files, as they are and broken."""

from __future__ import annotations

import json

import pytest

from simjax.cluster.llmservingsim import read_cluster
from simjax.cluster.spec import InstanceLimits
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
    (instance,) = read_cluster(write(tmp_path, minimal()), InstanceLimits(max_num_batched_tokens=2048))
    assert instance.parallelism.tensor == 2
    assert instance.device.memory_bytes == 96 * 2**30
    assert instance.device.memory_bandwidth_bytes_per_s == 1597e9
    assert instance.link is not None
    assert (instance.link.bandwidth_bytes_per_s, instance.link.latency_s) == (16 * 2**30, pytest.approx(20e-6))
    limits = instance.limits
    assert (limits.block_size, limits.gpu_memory_utilization, limits.max_num_batched_tokens) == (32, 0.8, 2048)
    assert limits.max_num_seqs == 2048  # 0 is "no limit" there: as many as a step has tokens


@pytest.mark.parametrize("memory, tokens", [(24, 0), (24, 2048), (96, 0)])
def test_no_limits_leave_the_kv_cache_that_the_usual_ones_leave(tmp_path, memory: int, tokens: int):
    raw = minimal()
    one = raw["nodes"][0]["instances"][0]
    one |= {"num_npus": 1, "tp_size": 1, "max_num_batched_tokens": tokens}
    one["npu_mem"] |= {"mem_size": memory, "mem_util": 0.9}
    (unlimited,) = read_cluster(write(tmp_path, raw), InstanceLimits())
    expected = tokens or unlimited.model.max_position_embeddings
    assert (unlimited.limits.max_num_batched_tokens, unlimited.limits.max_num_seqs) == (expected, min(expected, 65536))
    one |= {"max_num_batched_tokens": tokens or 8192, "max_num_seqs": 256}
    (usual,) = read_cluster(write(tmp_path, raw), InstanceLimits())
    assert unlimited.num_gpu_blocks == usual.num_gpu_blocks > 1000


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pp_size": 2}, "pp_size=2 is not simulated yet"),
        ({"pd_type": "prefill"}, "pd_type='prefill' is not simulated yet"),
        ({"dp_group": "A"}, "dp_group='A' is not simulated yet"),
        ({"hardware": "RTX9999"}, "unknown device 'RTX9999'"),
        ({"model_name": "gpt-9"}, "unknown model 'gpt-9'"),
    ],
)
def test_what_cannot_be_simulated_is_refused(tmp_path, change: dict, message: str):
    cluster = minimal()
    cluster["nodes"][0]["instances"][0] |= change
    with pytest.raises(SimjaxError, match=message):
        read_cluster(write(tmp_path, cluster), InstanceLimits())


def test_broken_files(tmp_path):
    with pytest.raises(SimjaxError, match="no such cluster file"):
        read_cluster(tmp_path / "none.json", InstanceLimits())
    with pytest.raises(SimjaxError, match=r"cluster.json:1: not valid JSON"):
        read_cluster(write(tmp_path, "{"), InstanceLimits())
    with pytest.raises(SimjaxError, match="'npu_mem'"):
        cluster = minimal()
        del cluster["nodes"][0]["instances"][0]["npu_mem"]
        read_cluster(write(tmp_path, cluster), InstanceLimits())


@pytest.mark.parametrize(
    "name, count", [("single_node_single_instance", 1), ("single_node_multi_instance", 2), ("single_node_4_instance_2TP", 4)]
)
def test_example_files_read_unchanged(name: str, count: int):
    assert len(read_cluster(data_path(f"{FILES}/{name}.json"), InstanceLimits())) == count
