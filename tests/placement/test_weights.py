"""Placements of weights: the memory that they leave, who reads from where, and the messages of those that cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.offload.demand import hit_rate, missed_experts
from simjax.memory.offload import freed_bytes, moved_bytes
from simjax.memory.pieces import pieces_of
from simjax.model import load_model, weight_bytes
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.placement.llmservingsim import read_placement
from simjax.placement.stores import Store, load_store
from simjax.placement.weights import WeightPlacement, block_ranges

LLAMA, MOE, H100 = load_model("llama-3.1-8b"), load_model("qwen3-30b-a3b"), load_device("h100")
HOST = Store("host", "host", 2**40, 100e9)
WHOLE = WeightPlacement((HOST,), default=0)


def instance(placement: WeightPlacement | None, model=LLAMA, **fields) -> InstanceSpec:
    return InstanceSpec(model, H100, weights=placement, limits=InstanceLimits(), **fields)


@pytest.mark.parametrize("model", [LLAMA, MOE, load_model("llama-3.1-70b-fp8")], ids=lambda model: model.name)
@pytest.mark.parametrize("tensor", [1, 4])
def test_pieces_are_all_of_the_weights(model, tensor: int) -> None:
    one = instance(None, model, parallelism=Parallelism(tensor)).deployment
    assert sum(piece.size_bytes for piece in pieces_of(one)) == weight_bytes(model, tensor)


def test_weights_that_leave_make_room_for_exactly_their_bytes() -> None:
    block = sum(piece.size_bytes for piece in pieces_of(instance(None).deployment) if piece.block == 0)
    half = instance(WeightPlacement((HOST,), blocks=((0, 15, 0),), prefetch=2))
    assert freed_bytes(half.deployment) == 16 * block - 3 * block  # two ahead, and the one that computes
    bytes_of_a_kv_block = 16 * 2 * 8 * 128 * 2 * 32
    assert half.num_gpu_blocks - instance(None).num_gpu_blocks == pytest.approx(13 * block / bytes_of_a_kv_block, abs=1)
    kept = instance(replace(half.weights, simplified=True, prefetch=None))
    assert kept.num_gpu_blocks == instance(None).num_gpu_blocks
    assert moved_bytes(kept.deployment) == {0: 16 * block}


def test_stages_have_the_blocks_that_are_theirs() -> None:
    staged = instance(WeightPlacement((HOST,), blocks=((0, 15, 0),)), parallelism=Parallelism(1, 2))
    first, last = (moved_bytes(stage) for stage in staged.deployment.stages)
    assert first.keys() == {0} and not last


def test_a_matrix_that_is_embedding_and_head_leaves_only_as_both() -> None:
    tied = replace(LLAMA, tie_word_embeddings=True)
    freed = lambda *names: freed_bytes(instance(WeightPlacement((HOST,), layers=tuple((name, 0) for name in names)), tied).deployment)
    matrix = tied.vocab_size * tied.hidden_size * 2
    assert freed("embedding") == 0
    assert freed("lm_head") == 0
    assert freed("embedding", "lm_head") == matrix - matrix  # it needs a buffer of its size while the head computes


def test_experts_that_are_kept_are_the_popular_ones() -> None:
    def placed(kept: int, popularity: Popularity) -> InstanceSpec:
        placement = WeightPlacement((HOST,), layers=(("moe", 0),), cached_experts=kept)
        return instance(placement, MOE, parallelism=Parallelism(experts=Experts(popularity=popularity)))

    even, zipf = Popularity(), Popularity("zipf", exponent=1.2)
    experts, chosen = MOE.num_experts, MOE.num_experts_per_tok
    assert hit_rate(placed(32, even).deployment) == pytest.approx(32 / experts)
    assert hit_rate(placed(32, zipf).deployment) > 0.55
    assert hit_rate(placed(experts, zipf).deployment) == 1.0
    assert missed_experts(placed(0, even).deployment, 1)[0] == pytest.approx(chosen)
    several = missed_experts(placed(0, even).deployment, 64)[63]
    assert several == pytest.approx(experts * (1 - (1 - chosen / experts) ** 64))
    expert = 3 * MOE.hidden_size * MOE.moe_intermediate_size * 2
    freed = [freed_bytes(placed(kept, even).deployment) for kept in (0, 32, experts)]
    layers = MOE.num_moe_layers - 1  # one layer's experts are in the buffer
    assert freed == [layers * experts * expert, layers * (experts - 32) * expert, 0]


def test_devices_of_a_server_share_its_memory_and_servers_share_a_pool() -> None:
    def readers(pooled: bool, instances: int, tensor: int) -> list[int]:
        placement = WeightPlacement((replace(HOST, pooled=pooled),), default=0)
        cluster = ClusterSpec((instance(placement, parallelism=Parallelism(tensor)),) * instances)
        return [one.weights.stores[0].readers for one in cluster.instances if one.weights is not None]

    assert readers(False, 1, 2) == [2]
    assert readers(False, 6, 2) == [8, 8, 8, 8, 4, 4]  # eight devices a server
    assert readers(True, 6, 2) == [12] * 6
    assert replace(HOST, readers=8).rate_bytes_per_s == 100e9 / 8
    assert replace(HOST, readers=2, link_bandwidth_bytes_per_s=20e9).rate_bytes_per_s == 20e9
    assert replace(HOST, devices=4, readers=2).rate_bytes_per_s == 200e9


def test_a_memory_that_is_too_small_is_refused() -> None:
    small = WeightPlacement((replace(HOST, capacity_bytes=20e9),), default=0)
    ClusterSpec((instance(small),))
    with pytest.raises(SimjaxError, match=r"weights: 29.9 GiB are placed in host, which holds 18.6 GiB"):
        ClusterSpec((instance(small),) * 2)


@pytest.mark.parametrize(
    ("placement", "model", "message"),
    [
        (WeightPlacement((HOST,), layers=(("moe", 0),)), LLAMA, "has no operation 'moe' with weights; it has "),
        (WeightPlacement((HOST,), blocks=((30, 32, 0),)), LLAMA, "blocks 30-32: .* has blocks 0 to 31"),
        (WeightPlacement((HOST,), layers=(("moe", 0),), cached_experts=129), MOE, "cached_experts=129: .* has 128 experts"),
    ],
)
def test_what_the_model_does_not_have_is_refused(placement: WeightPlacement, model, message: str) -> None:
    with pytest.raises(SimjaxError, match=message):
        instance(placement, model)


def test_ranks_that_step_together_are_refused() -> None:
    with pytest.raises(SimjaxError, match="weights: ranks of a mixture of experts that step together"):
        instance(WHOLE, MOE, parallelism=Parallelism(1, 1, 2, 2))


def test_ranges_of_blocks() -> None:
    assert block_ranges("0-3, 8,10-11", 12) == ((0, 3), (8, 8), (10, 11))
    assert block_ranges("all", 12) == ((0, 11),)
    for text in ("", "3-", "a", "5-2", "12", "0-12"):
        with pytest.raises(SimjaxError, match=f"^blocks={text}: "):
            block_ranges(text, 12)


def test_shipped_memories_say_where_their_numbers_are_from() -> None:
    for path in (PROFILES / "memory").glob("*.yaml"):
        store = load_store(path.stem)
        stated = {line.partition(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()}
        assert stated - {"kind", "sources", "devices", "pooled"} == set(store.sources)


def test_broken_memory_files(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(SimjaxError, match="unknown memory 'hosst'"):
        load_store("hosst")
    text = (PROFILES / "memory" / "cxl_x8.yaml").read_text()
    for change, message in (
        (("kind: cxl", "kind: disk"), "kind=disk: there is no such kind"),
        (("26.0e+9", "26"), "bandwidth_bytes_per_s=26 cannot be meant"),
        (("latency_s: 2.5e-7", "latency_s: soon"), "latency_s: "),
        (("copy_s:", "copies_s:"), "there is no field 'copies_s'; did you mean copy_s"),
        (("kind: cxl\n", ""), "field 'kind' is missing"),
    ):
        path.write_text(text.replace(*change))
        with pytest.raises(SimjaxError, match=message):
            load_store(str(path))


def test_their_placements() -> None:
    raw = {
        "default": {"weights": "cpu"},
        "blocks": [{"blocks": "0-3,8", "weights": "cxl:1"}, {"blocks": "2", "weights": "npu"}],
        "layers": {"lm_head": {"weights": "npu", "kv_evict_loc": "cpu"}},
    }
    host, pool = {"mem_size": 512, "mem_bw": 256, "mem_latency": 0}, {"mem_size": 1024, "mem_bw": 60, "mem_latency": 250, "num_devices": 2}
    found = read_placement(raw, host, pool, 32)
    assert found is not None
    cpu, cxl = found.stores
    assert (cpu.kind, cpu.bandwidth_bytes_per_s, cxl.kind, cxl.latency_s, cxl.pooled) == ("host", 256e9, "cxl", pytest.approx(250e-9), True)
    assert [found.store_of("qkv_proj", block) for block in (0, 2, 8, 9)] == [1, None, 1, 0]
    assert (found.store_of("lm_head", None), found.store_of("embedding", None)) == (None, 0)
    assert read_placement({"default": {"weights": "npu", "kv_loc": "npu"}}, host, pool, 32) is None
    for change, message in (
        ({"default": {"weights": "cxl:2"}}, "weights='cxl:2': cxl_mem has 2 devices, counted from 0"),
        ({"default": {"weights": "disk"}}, "weights='disk': it must be npu, cpu or cxl:"),
        ({"default": {"kv_loc": "cpu"}}, "placement.default.kv_loc='cpu' is not simulated yet"),
        ({"blocks": [{"blocks": "31-40", "weights": "cpu"}]}, "blocks=31-40: the model has blocks 0 to 31"),
    ):
        with pytest.raises(SimjaxError, match=message):
            read_placement(change, host, pool, 32)
