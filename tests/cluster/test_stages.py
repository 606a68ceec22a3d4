"""Pp stages: their layers, memory, links and step times, and what is refused together with them."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

import simjax
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import cluster_timing
from simjax.config.compose import compose_config, typed
from simjax.deployment import Deployment, Role
from simjax.engine.host.lower import lower
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.memory.capacity import MemoryLimits, kv_blocks
from simjax.model import kv_bytes_per_token, load_model
from simjax.model.sizes import parameters, weight_bytes
from simjax.network.collectives import all_gather_s
from simjax.network.stages import boundary_s, link_between, nodes_of_stages, rows_of
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.stages import stage_layers
from simjax.workload.workload import Workload

H100, LLAMA = load_device("h100"), load_model("meta-llama/Llama-3.1-8B")


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (61, 4, (15, 15, 16, 15)),
        (32, 3, (11, 11, 10)),
        (62, 4, (15, 16, 16, 15)),
        (61, 8, (7, 7, 8, 8, 8, 8, 8, 7)),
        (7, 4, (2, 2, 2, 1)),
        (32, 2, (16, 16)),
        (3, 1, (3,)),
    ],
)
def test_layers_are_divided_as_vllm_does(layers: int, stages: int, expected: tuple[int, ...]):
    assert stage_layers(layers, stages) == expected


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Parallelism(pipeline=40), "pipeline_parallel_size=40: the model has 32 layers, fewer than stages"),
        (Parallelism(pipeline=2, layer_partition=(20, 11)), r"pipeline_layer_partition=\[20, 11\]: .* at least 1 and add up to 32 layers"),
        (Parallelism(pipeline=2, layer_partition=(32, 0)), r"pipeline_layer_partition=\[32, 0\]: .* at least 1 and add up to 32 layers"),
    ],
)
def test_layers_that_cannot_be_divided_so_are_refused(sizes: Parallelism, message: str):
    with pytest.raises(SimjaxError, match=f"^{message}$"):
        InstanceSpec(LLAMA, H100, sizes)


def test_a_partition_has_a_number_for_each_stage():
    with pytest.raises(SimjaxError, match=r"^cluster.pipeline_layer_partition=\[16,16\]: pipeline_parallel_size=1 needs as many numbers$"):
        Parallelism(layer_partition=(16, 16))


def staged(stages: int, partition: tuple[int, ...] | None = None, model=LLAMA, tensor: int = 1) -> Deployment:
    return Deployment(model, H100, Parallelism(tensor, stages, layer_partition=partition))


def test_stages_hold_the_weights_of_the_model_between_them():
    def held(model) -> int:
        return sum(weight_bytes(x.part, 1, 1, x.has_embedding, x.has_head) for x in staged(4, model=model).stages)

    assert held(LLAMA) == parameters(LLAMA) * LLAMA.dtype_bytes == weight_bytes(LLAMA)
    tied = replace(LLAMA, tie_word_embeddings=True)
    assert held(tied) == held(LLAMA) > weight_bytes(tied), "the last stage has a copy of an embedding that is the output matrix"


def test_dense_layers_of_a_mixture_of_experts_come_first():
    model = replace(load_model("qwen3-30b-a3b"), num_hidden_layers=10, num_moe_layers=7, intermediate_size=6144)
    assert [(x.part.num_dense_layers, x.part.num_moe_layers) for x in staged(4, model=model).stages] == [(2, 0), (1, 2), (0, 3), (0, 2)]


def test_the_stage_with_room_for_the_fewest_blocks_says_how_many_all_have():
    limits = MemoryLimits()
    each = [kv_blocks(x, limits) for x in staged(2, (20, 12)).stages]
    assert kv_blocks(staged(2, (20, 12)), limits) == min(each) == each[0] < each[1]
    assert kv_blocks(staged(2), limits) > min(each), "an even division leaves more"
    # Of stated bytes a block takes what it does on the stage with most layers.
    stated = MemoryLimits(kv_cache_memory_bytes=2**30)
    assert kv_blocks(staged(2, (20, 12)), stated) == 2**30 // (16 * kv_bytes_per_token(LLAMA) * 20 // 32)


def test_stages_are_on_whole_nodes_and_boundaries_between_them_have_their_link():
    node, intra = H100.node, H100.node.intra_link
    assert node.devices_per_node == 8
    assert [nodes_of_stages(node, t, s) for t, s in ((1, 1), (4, 2), (8, 2), (4, 4), (4, 3), (2, 8), (16, 2))] == [1, 1, 2, 2, 3, 2, 4]
    assert link_between(node, intra, 4, 2, 0, 1) == intra
    assert [link_between(node, intra, 4, 4, s, s + 1) == intra for s in range(3)] == [True, False, True]
    assert link_between(node, intra, 8, 2, 0, 1) == node.inter_link_of(8)
    given = replace(intra, bandwidth_bytes_per_s=1e9)
    assert link_between(node, given, 8, 2, 0, 1) == given, "a link that was given is that of all devices"


def test_two_tensors_of_padded_rows_pass_a_boundary():
    link = replace(H100.node.intra_link, endpoint_s=0.0)
    tokens = np.array([1, 3, 9, 100, 257, 512, 513])
    assert rows_of(tokens, graphs=True).tolist() == [1, 4, 16, 104, 272, 512, 513]
    assert rows_of(tokens, graphs=False).tolist() == tokens.tolist()
    bytes_in_all = 2 * 100 * 4096 * 2
    alone = boundary_s(np.array([100]), 8192.0, 1, link, link)
    np.testing.assert_allclose(alone, link.latency_s + bytes_in_all / link.rate_bytes_per_s)
    # Of two ranks each sends half, which its peer gets from its neighbour as well.
    halves = link.latency_s + bytes_in_all / 2 / link.rate_bytes_per_s + all_gather_s(bytes_in_all / 2, 2, link)
    np.testing.assert_allclose(boundary_s(np.array([100]), 8192.0, 2, link, link), halves)


@pytest.mark.parametrize("model", [LLAMA, load_model("qwen3-30b-a3b")])
def test_step_times_of_the_stages_add_up_to_those_of_the_model(model):
    whole, parts = (cluster_timing((InstanceSpec(model, H100, Parallelism(pipeline=n)),), LatencySource()) for n in (1, 3))
    assert parts.row.tolist() == [0] and parts.step_time.host_s.shape == (3,)
    for name in ("tokens_s", "sequences_s", "host_s"):
        summed = getattr(parts.step_time, name).sum(axis=0)
        np.testing.assert_allclose(summed, getattr(whole.step_time, name)[0], rtol=1e-12, err_msg=name)
    assert parts.step_time.sequences_s[:2].max() == 0.0, "the head is in the last stage"
    for name in ("decode_floor_s", "decode_kv_s", "mixed_floor_s", "chunk_kv_s"):
        np.testing.assert_allclose(
            getattr(parts.step_time.attention, name).sum(), getattr(whole.step_time.attention, name)[0], rtol=1e-12, err_msg=name
        )
    assert whole.step_time.send_s is None
    assert parts.step_time.send_s[:2, 1:].min() > 0 == parts.step_time.send_s[2].max()


def test_rows_of_clusters_with_and_without_stages():
    one, two = InstanceSpec(LLAMA, H100), InstanceSpec(LLAMA, H100, Parallelism(pipeline=2))
    timing = cluster_timing((two, one, two), LatencySource())
    assert timing.row.tolist() == [0, 2, 0] and timing.step_time.host_s.shape == (3,)
    assert any("pipeline_parallel_size=2: stages of 16+16 layers" in line for line in timing.warnings)


def workload(**more) -> Workload:
    return Workload(np.zeros(2), np.full(2, 8, np.int32), np.full(2, 4, np.int32), source="two", **more)


def test_what_the_engine_is_told_of_stages():
    cluster = ClusterSpec((InstanceSpec(LLAMA, H100, Parallelism(pipeline=4)), InstanceSpec(LLAMA, H100)))
    with jax.enable_x64(True):
        lowered = lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload())
    assert lowered.shape.pipeline_stages == 4 and lowered.params.ranks.pipeline_stages.tolist() == [4, 1]
    assert cluster.num_devices == 5
    alone = ClusterSpec(cluster.instances[1:])
    plain = lower(alone, cluster_timing(alone.instances, LatencySource()), workload())
    assert plain.shape.pipeline_stages == 0 and plain.params.ranks.pipeline_stages is None


def test_what_does_not_go_with_stages_is_refused():
    piped = InstanceSpec(LLAMA, H100, Parallelism(pipeline=2))

    def refused(*instances: InstanceSpec, **more) -> str:
        cluster = ClusterSpec(instances, **more)
        with pytest.raises(SimjaxError) as raised:
            lower(cluster, cluster_timing(cluster.instances, LatencySource()), workload())
        return str(raised.value)

    assert refused(piped, piped, router="dynamo") == (
        "pipeline_parallel_size=2 together with cluster.router=dynamo is not simulated yet; another router"
    )
    roles = [replace(piped, role=role) for role in (Role.PREFILL, Role.DECODE)]
    assert "together with prefill and decode instances" in refused(*roles)


def configured(*options: str) -> list[Parallelism]:
    return [x.parallelism for x in configured_cluster(typed(compose_config("run", list(options)))).instances]


def test_stages_are_options_of_the_run_and_of_groups():
    assert configured("cluster.pipeline_parallel_size=2", "cluster.tensor_parallel_size=4") == [Parallelism(4, 2)]
    parted = configured("cluster.pipeline_parallel_size=2", "cluster.pipeline_layer_partition=[20,12]")
    assert parted == [Parallelism(pipeline=2, layer_partition=(20, 12))]
    groups = "cluster.groups=[{pipeline_parallel_size: 4}, {tensor_parallel_size: 2}]"
    assert configured(groups, "cluster.pipeline_parallel_size=2") == [Parallelism(pipeline=4), Parallelism(2, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cluster.pipeline_layer_partition=[32]"], "cluster.pipeline_layer_partition has no effect with pipeline_parallel_size=1"),
        (
            ["cluster=disaggregated", "cluster.pipeline_parallel_size=2"],
            "cluster.pipeline_parallel_size=2 has no effect with cluster.prefill",
        ),
        (["cluster.pipeline_parallel_size=0"], "cluster.pipeline_parallel_size=0: it must be at least 1"),
        (["cluster.pipeline_parallel_size=33"], "pipeline_parallel_size=33: the model has 32 layers, fewer than stages"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], message: str):
    with pytest.raises(SimjaxError, match=f"^{message}"):
        configured_cluster(simjax.compose(options))
