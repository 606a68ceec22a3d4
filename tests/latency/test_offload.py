"""Streamed weights against a plain schedule of copies and computations, one after another."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.lines import largest
from simjax.latency.offload.copied import copied, demanded_bytes, streamed_bytes
from simjax.latency.offload.demand import missed_experts
from simjax.latency.offload.ways import Way, longest, ways
from simjax.latency.step_time import decode_steps, mixed_step_s, row
from simjax.memory.pieces import pieces_of
from simjax.model import load_model
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.placement.stores import Store
from simjax.placement.weights import WeightPlacement
from tests.reference.memory import missed_experts as by_tokens
from tests.reference.memory import streamed_step_s

LLAMA, MOE, H100 = load_model("llama-3.1-8b"), load_model("qwen3-30b-a3b"), load_device("h100")
HOST = Store("host", "host", 2**40, 100e9, latency_s=5e-6, copy_s=1e-5)
CARD = Store("card", "cxl", 2**40, 60e9)
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)


def scheduled_s(deployment: Deployment, block_s: float, ends_s: tuple[float, float, float]) -> float:
    """When a step ends that streams its weights, by the reference; ends_s: embedding, last norm, head."""
    placement, (embedding_s, norm_s, head_s) = deployment.weights, ends_s
    assert placement is not None
    last = deployment.part.num_hidden_layers
    place_of = {"embedding": 0, "final_layernorm": last + (1 if placement.prefetch is None else 2), "lm_head": last + 2}
    copies: dict[int, dict[int, float]] = {}
    for piece in pieces_of(deployment):
        store = placement.store_of(piece.name, piece.block)
        if store is not None and not placement.on_demand(piece.name):
            mine = copies.setdefault(place_of[piece.name] if piece.block is None else piece.block + 1, {})
            mine[store] = mine.get(store, 0.0) + placement.stores[store].read_s(piece.size_bytes, piece.copies)
    latencies = [store.latency_s for store in placement.stores]
    return streamed_step_s([embedding_s, *[block_s] * last, norm_s, head_s], copies, latencies, placement.prefetch)


PLACEMENTS = {
    "whole, unbounded": WeightPlacement((HOST,), default=0, prefetch=None, simplified=True),
    "whole, one ahead": WeightPlacement((HOST,), default=0, layers=(("embedding", None),)),
    "blocks, three ahead": WeightPlacement((HOST,), blocks=((0, 31, 0),), prefetch=3),
    "second half": WeightPlacement((HOST,), blocks=((16, 31, 0),), prefetch=2),
    "first half, unbounded": WeightPlacement((HOST,), blocks=((0, 15, 0),), prefetch=None),
    "two stores": WeightPlacement((HOST, CARD), blocks=((0, 9, 0), (10, 31, 1)), layers=(("lm_head", 0),), prefetch=None),
    "one projection": WeightPlacement((CARD,), layers=(("down_proj", 0),), prefetch=2),
}


def longest_way_s(deployment: Deployment, block_s: float, ends_s: tuple[float, float, float]) -> float:
    """When the step ends by its ways."""
    embedding_s, norm_s, head_s = ends_s
    computed = embedding_s + deployment.part.num_hidden_layers * block_s + norm_s
    found = [way.copy_s + way.blocks * block_s + way.embedding * embedding_s + way.norm * norm_s for way in ways(deployment)]
    return max(computed, *found) + head_s


@pytest.mark.parametrize("name", PLACEMENTS)
@pytest.mark.parametrize("block_s", [0.0, 1e-3, 3.9e-3, 4.4e-3, 4.5e-3, 7.4e-3, 2e-2])
def test_the_longest_way_is_the_schedule(name: str, block_s: float) -> None:
    deployment, ends_s = InstanceSpec(LLAMA, H100, weights=PLACEMENTS[name]).deployment, (2e-4, 1e-5, 1e-3)
    within = 2e-3 if PLACEMENTS[name].prefetch is not None else 1e-12
    assert longest_way_s(deployment, block_s, ends_s) == pytest.approx(scheduled_s(deployment, block_s, ends_s), rel=within)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_longest_way_is_the_schedule_of_drawn_placements(data: st.DataObject) -> None:
    """Exact but for the latencies of copies that wait for a buffer once more, which are left out."""
    draw, model = data.draw, replace(LLAMA, num_hidden_layers=8)
    rate, latency_s = 10.0 ** draw(st.floats(9.5, 12.5)), draw(st.sampled_from((0.0, 1e-6, 1e-5)))
    store = Store("drawn", "cxl", 2**40, rate, latency_s=latency_s, copy_s=draw(st.sampled_from((0.0, 1e-5))))
    first = draw(st.integers(0, 7))
    blocks = ((first, draw(st.integers(first, 7)), 0),)
    placement = WeightPlacement((store,), blocks=blocks, prefetch=draw(st.sampled_from((None, 1, 2, 3, 40))))
    deployment = InstanceSpec(model, H100, weights=placement).deployment
    block_s = 4.4e8 / rate * draw(st.floats(0.0, 3.0))  # near the time of the copy of a block
    ends_s = draw(st.floats(0.0, 1e-2)), 1e-5, 1e-3
    found, wanted = longest_way_s(deployment, block_s, ends_s), scheduled_s(deployment, block_s, ends_s)
    assert wanted * (1 - 1e-9) - 8 * latency_s <= found <= wanted * (1 + 1e-9)


@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("kept", [0, 8, 100, 128])
def test_experts_that_are_missed_are_those_of_token_after_token(kept: int, skew: float) -> None:
    popularity = Popularity("zipf", skew) if skew else Popularity()
    placement = WeightPlacement((CARD,), layers=(("moe", 0),), cached_experts=kept)
    parallelism = Parallelism(experts=Experts(popularity=popularity))
    found = missed_experts(InstanceSpec(MOE, H100, parallelism, weights=placement).deployment, 64)
    shares = np.asarray(popularity.chosen(128, 8, 1)[0]) / 8
    for tokens in (1, 2, 7, 64):
        assert found[tokens - 1] == pytest.approx(by_tokens(shares.tolist(), 8, kept, tokens), rel=1e-9, abs=1e-12)


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


def test_bytes_of_a_step_are_those_of_its_time_at_the_rate() -> None:
    half = InstanceSpec(LLAMA, H100, weights=WeightPlacement((CARD,), blocks=((16, 31, 0),))).deployment
    block = (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096) * 2
    assert (streamed_bytes(half), demanded_bytes(half, 64)) == (16 * block, 0.0)
    assert (
        copied(half)
        == f"{16 * block / 2**30:.3g} GiB of a device's weights are elsewhere; every step copies {16 * block / 2**30:.3g} GiB of them"
    )
    placement = WeightPlacement((CARD,), layers=(("moe", 0), ("embedding", 0)), cached_experts=64)
    experts = InstanceSpec(MOE, H100, weights=placement).deployment
    assert streamed_bytes(experts) == 0.0
    assert demanded_bytes(experts, 1) == pytest.approx(48 * 4 * 3 * 2048 * 768 * 2 + 2048 * 2)  # four of eight experts are missed
    lines = cluster_timing((InstanceSpec(LLAMA, H100, weights=half.weights),), LatencySource()).warnings
    assert f"weights: {copied(half)}" in lines


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
