"""Streamed weights against a plain schedule of copies and computations, one after another."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.cluster.latency_source import LatencySource
from simjax.cluster.spec import InstanceSpec
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.lines import largest
from simjax.latency.offload.ways import Way, longest, ways
from simjax.latency.step_time import decode_steps, mixed_step_s, row
from simjax.memory.pieces import pieces_of
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.placement.stores import Store
from simjax.placement.weights import WeightPlacement

LLAMA, MOE, H100 = load_model("llama-3.1-8b"), load_model("qwen3-30b-a3b"), load_device("h100")
HOST = Store("host", "host", 2**40, 100e9, latency_s=5e-6, copy_s=1e-5)
CARD = Store("card", "cxl", 2**40, 60e9)
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)


def scheduled_s(deployment: Deployment, block_s: float, ends_s: tuple[float, float, float]) -> float:
    """When a step ends that streams its weights; ends_s: embedding, last norm, head. Copies are issued in order, each to its store."""
    placement, (embedding_s, norm_s, head_s) = deployment.weights, ends_s
    assert placement is not None
    last = deployment.part.num_hidden_layers
    computes = [embedding_s, *[block_s] * last, norm_s, head_s]
    place_of = {"embedding": 0, "final_layernorm": last + (1 if placement.prefetch is None else 2), "lm_head": last + 2}
    needs: dict[int, list[tuple[int, float]]] = {}
    for piece in pieces_of(deployment):
        place = place_of[piece.name] if piece.block is None else piece.block + 1
        store = placement.store_of(piece.name, piece.block)
        if store is not None and not placement.on_demand(piece.name):
            needs.setdefault(place, []).append((store, placement.stores[store].read_s(piece.size_bytes, piece.copies)))
    free = [store.latency_s for store in placement.stores]
    ends: list[float] = []
    computed: dict[int, float] = {}
    now, streamed = 0.0, sorted(needs)
    for place, seconds in enumerate(computes):
        if place in needs:
            j = streamed.index(place)
            arrived = 0.0
            buffer_free = 0.0
            if placement.prefetch is not None and j > placement.prefetch:
                buffer_free = computed[streamed[j - placement.prefetch - 1]]
            begun = {store: max(free[store], buffer_free + placement.stores[store].latency_s) for store, _ in needs[place]}
            for store, copy_s in needs[place]:
                begun[store] += copy_s
                free[store] = begun[store]
                arrived = max(arrived, begun[store])
            now = max(now, arrived)
        now += seconds
        computed[place] = now
        ends.append(now)
    return ends[-1]


PLACEMENTS = {
    "whole, unbounded": WeightPlacement((HOST,), default=0, prefetch=None, simplified=True),
    "whole, one ahead": WeightPlacement((HOST,), default=0, layers=(("embedding", None),)),
    "blocks, three ahead": WeightPlacement((HOST,), blocks=((0, 31, 0),), prefetch=3),
    "second half": WeightPlacement((HOST,), blocks=((16, 31, 0),), prefetch=2),
    "first half, unbounded": WeightPlacement((HOST,), blocks=((0, 15, 0),), prefetch=None),
    "two stores": WeightPlacement((HOST, CARD), blocks=((0, 9, 0), (10, 31, 1)), layers=(("lm_head", 0),), prefetch=None),
    "one projection": WeightPlacement((CARD,), layers=(("down_proj", 0),), prefetch=2),
}


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("block_s", [0.0, 1e-3, 3.9e-3, 4.4e-3, 4.5e-3, 7.4e-3, 2e-2])
def test_the_longest_way_is_the_schedule(name: str, block_s: float) -> None:
    deployment = InstanceSpec(LLAMA, H100, weights=PLACEMENTS[name]).deployment
    embedding_s, norm_s, head_s = ends_s = (2e-4, 1e-5, 1e-3)
    blocks = deployment.part.num_hidden_layers
    computed = embedding_s + blocks * block_s + norm_s
    found = [way.copy_s + way.blocks * block_s + way.embedding * embedding_s + way.norm * norm_s for way in ways(deployment)]
    assert max(computed, *found) + head_s == pytest.approx(scheduled_s(deployment, block_s, ends_s), rel=2e-3)
    if PLACEMENTS[name].prefetch is None:
        assert max(computed, *found) + head_s == pytest.approx(scheduled_s(deployment, block_s, ends_s), rel=1e-12)


def test_ways_that_are_never_the_longest_are_left_out() -> None:
    kept = longest([Way(10.0, 0), Way(5.0, 4), Way(6.0, 5), Way(1.0, 9), Way(2.0, 8), Way(4.0, 0, norm=True)])
    assert kept == [Way(10.0, 0), Way(6.0, 5), Way(1.0, 9), Way(4.0, 0, norm=True)]


def timing(weights: WeightPlacement | None, *others: WeightPlacement | None, model=LLAMA):
    instances = tuple(InstanceSpec(model, H100, weights=one) for one in (weights, *others))
    found = cluster_timing(instances, LatencySource())
    return [row(jax.tree.map(jnp.asarray, found.step_time), int(k)) for k in found.row]


def test_steps_are_as_long_as_their_copies_and_no_shorter_than_without() -> None:
    with jax.enable_x64(True):
        (plain,), (streamed,) = timing(None), timing(WeightPlacement((replace(CARD, devices=2),), blocks=((0, 31, 0),)))
        new, computed = jnp.ones(8, jnp.int32), jnp.full(8, 900, jnp.int32)
        copies_s = sum(x.size_bytes for x in pieces_of(InstanceSpec(LLAMA, H100).deployment) if x.block is not None) / 120e9
        assert copies_s < float(MIXED(streamed, new, computed)) < copies_s + float(MIXED(plain, new, computed))
        long = jnp.array([8000] + [0] * 7, jnp.int32)
        assert float(MIXED(streamed, long, computed)) == pytest.approx(float(MIXED(plain, long, computed)), rel=0.05)  # copies are hidden


@pytest.mark.parametrize("rate", [60e9, 1500e9, 2200e9])
def test_leaps_are_the_steps_one_by_one(rate: float) -> None:
    with jax.enable_x64(True):
        (model,) = timing(WeightPlacement((replace(CARD, bandwidth_bytes_per_s=rate),), default=0, prefetch=2))
        contexts = np.array([9000, 4000, 100, 30], np.int32)
        first_s, slope_s, valid = DECODE(model, 4, int(contexts.sum()), int(contexts.max()))
        steps = sorted({0, 1, min(int(valid), 60_000) - 1})
        for j in steps:
            one = float(MIXED(model, jnp.ones(4, jnp.int32), jnp.asarray(contexts + j, jnp.int32)))
            assert float(first_s) + j * float(slope_s) == pytest.approx(one, rel=1e-11)


def test_a_model_without_streams_is_as_fast_beside_one_with() -> None:
    with jax.enable_x64(True):
        new, computed = jnp.array([1, 1, 300], jnp.int32), jnp.array([500, 20, 0], jnp.int32)
        placement = WeightPlacement((CARD,), default=0)
        (alone,), (streamed,), together = timing(None), timing(placement), timing(None, placement)
        assert [float(MIXED(x, new, computed)) for x in together] == [float(MIXED(x, new, computed)) for x in (alone, streamed)]
        assert [float(DECODE(x, 2, 520, 500)[0]) for x in together] == [float(DECODE(x, 2, 520, 500)[0]) for x in (alone, streamed)]
        assert alone.times.weights is None


def test_experts_on_demand_wait_for_those_that_are_not_kept() -> None:
    """Whatever is computed, a step on one token copies top-k experts in every layer, and none where all are kept."""

    def step_s(kept: int, simplified: bool = False) -> float:
        placement = WeightPlacement((CARD,), layers=(("moe", 0),), cached_experts=kept, simplified=simplified)
        (model,) = timing(placement, model=MOE)
        return float(MIXED(model, jnp.ones(1, jnp.int32), jnp.full(1, 50, jnp.int32)))

    with jax.enable_x64(True):
        plain_s = float(MIXED(timing(None, model=MOE)[0], jnp.ones(1, jnp.int32), jnp.full(1, 50, jnp.int32)))
        expert_s = 3 * MOE.hidden_size * MOE.moe_intermediate_size * 2 / 60e9
        assert step_s(0) - plain_s == pytest.approx(MOE.num_moe_layers * MOE.num_experts_per_tok * expert_s, rel=1e-9)
        assert step_s(64) - plain_s == pytest.approx(MOE.num_moe_layers * MOE.num_experts_per_tok / 2 * expert_s, rel=1e-9)
        assert step_s(MOE.num_experts) == pytest.approx(plain_s, rel=1e-12)
        whole = MOE.num_experts * expert_s + MOE.hidden_size * MOE.num_experts * 2 / 60e9
        assert step_s(0, simplified=True) - plain_s == pytest.approx(MOE.num_moe_layers * whole, rel=1e-9)


def test_pp_stages_stream_their_own_blocks() -> None:
    with jax.enable_x64(True):
        placement = WeightPlacement((CARD,), blocks=((16, 31, 0),))
        found = cluster_timing((InstanceSpec(LLAMA, H100, Parallelism(1, 2), weights=placement),), LatencySource())
        assert found.step_time.weights is not None
        first, last = (float(MIXED(row(found.step_time, k), jnp.ones(1, jnp.int32), jnp.full(1, 9, jnp.int32))) for k in range(2))
        block = sum(x.size_bytes for x in pieces_of(InstanceSpec(LLAMA, H100).deployment) if x.block == 0)
        assert last > 16 * block / 60e9 > first


def test_the_largest_of_lines_holds_until_another_one_is() -> None:
    first_s, slope_s, valid = largest(jnp.array([5.0, 1.0, 5.0]), jnp.array([0.0, 2.0, 0.5]), jnp.int32(100))
    assert (float(first_s), float(slope_s), int(valid)) == (5.0, 0.5, 3)  # 5 + 0.5 j and 1 + 2 j meet between the third and the fourth
