"""Decode attention in memory that computes: against LLMServingSim's placement on channels, and over leaps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.latency_source import LatencySource
from simjax.cluster.timing import cluster_timing
from simjax.disk.paths import PROFILES
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.attention.coefficients import DecodeBatch
from simjax.latency.pim.compile_pim import bound, pim_times
from simjax.latency.pim.times import pim_steps
from simjax.latency.step_time import decode_steps, mixed_parts, mixed_step_s, row
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.placement.pim import Pim, load_pim
from simjax.placement.stores import Store
from simjax.placement.weights import WeightPlacement
from tests.reference.memory import channels_s, halves_s

LLAMA, H100 = load_model("llama-3.1-8b"), load_device("h100")
DDR4 = Pim(load_pim("ddr4_3200"), 64)
MIXED, DECODE = jax.jit(mixed_step_s), jax.jit(decode_steps)


def instance(pim: Pim | None = DDR4, model=LLAMA, **fields) -> InstanceSpec:
    return InstanceSpec(model, H100, pim=pim, **fields)


def ours_s(pim: Pim, contexts: list[int]) -> float:
    with jax.enable_x64(True):
        times = pim_times(instance(pim).deployment)
        assert times is not None
        batch = DecodeBatch(*(jnp.asarray(float(x)) for x in (len(contexts), sum(contexts), max(contexts))))
        return float(pim_steps(times, 0, batch)[0])


@pytest.mark.parametrize(
    ("name", "slope_ns", "constant_ns"),
    [
        ("ddr4_3200", 333.2538, 30675.2739),
        ("hbm2", 242.0548, 14513.5015),
        ("lpddr4x", 432.4458, 33918.1734),
        ("lpddr5", 282.4338, 15996.7018),
    ],
)
@pytest.mark.parametrize("contexts", [[900], [700] * 8, [700] * 9, [128] * 256, [4000, 10, 500, 80]])
def test_channels_are_as_full_as_theirs(name: str, slope_ns: float, constant_ns: float, contexts: list[int]) -> None:
    ours = ours_s(Pim(load_pim(name), 64), contexts)
    assert ours == pytest.approx(32 * channels_s(contexts, 64, 8, 1e-9 * slope_ns, 1e-9 * constant_ns), rel=1e-7)


@pytest.mark.parametrize(("n", "within"), [(20, 0.45), (100, 0.12), (256, 0.06)])
def test_uneven_contexts_are_spread_nearly_as_evenly(n: int, within: float) -> None:
    contexts = np.random.default_rng(n).integers(100, 2000, n).tolist()
    ratio = ours_s(DDR4, contexts) / (32 * channels_s(contexts, 64, 8, 333.2538e-9, 30675.2739e-9))
    assert abs(ratio - 1.0) < within


def timing(*pims: Pim | None):
    found = cluster_timing(tuple(instance(pim) for pim in pims), LatencySource())
    return [row(jax.tree.map(jnp.asarray, found.step_time), int(k)) for k in found.row]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("contexts", [[50, 60], [6000, 40, 40, 40, 40, 40, 40, 40, 40], [300] * 48])
def test_leaps_are_the_steps_one_by_one(contexts: list[int], interleaved: bool) -> None:
    with jax.enable_x64(True):
        (model,) = timing(replace(DDR4, interleaved=interleaved))
        k = np.zeros(48, np.int32)
        k[: len(contexts)] = contexts
        running = (k > 0).astype(np.int32)
        first_s, slope_s, valid = DECODE(model, len(contexts), int(k.sum()), int(k.max()))
        assert int(valid) >= 1
        for j in sorted({0, min(int(valid), 50_000) - 1}):
            one = float(MIXED(model, jnp.asarray(running), jnp.asarray(k + j * running, jnp.int32)))
            assert float(first_s) + j * float(slope_s) == pytest.approx(one, rel=1e-11)


@cache
def in_halves_or_not(interleaved: bool):
    return timing(replace(DDR4, interleaved=interleaved))[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 48), st.integers(50, 4000), st.booleans())
def test_steps_are_those_of_channels_and_halves(n: int, context: int, interleaved: bool) -> None:
    """Contexts that are all alike, for which the closed form is exact; a half has as many requests as the larger one."""
    with jax.enable_x64(True):
        model, whole = in_halves_or_not(interleaved), in_halves_or_not(False)
        new = jnp.asarray(np.arange(48) < n, jnp.int32)
        found = float(MIXED(model, new, new * context))
        attention = lambda count: 32 * channels_s([context] * count, 64, 8, 333.2538e-9, 30675.2739e-9)
        times = whole.times
        after_s, tokens_s = float(times.sequences_s[0, n] + times.host_s[0]), lambda count: float(times.tokens_s[0, count])
        half = -(-n // 2)
        wanted = tokens_s(n) + attention(n)
        if interleaved and n > 1:
            wanted = halves_s(tokens_s(half), tokens_s(n - half), attention(half))
        assert times.launch_s is None and found == pytest.approx(wanted + after_s, rel=1e-6)


def test_contexts_grow_unless_they_are_those_of_the_prompts() -> None:
    with jax.enable_x64(True):
        grown, held = timing(DDR4)[0], timing(replace(DDR4, prompts_only=True))[0]
        new, prompts = jnp.ones(4, jnp.int32), jnp.full(4, 100, jnp.int32)
        at = lambda model, context: float(mixed_step_s(model, new, jnp.full(4, context, jnp.int32), prompts=prompts))
        assert at(held, 100) == at(grown, 100) == at(held, 900) < at(grown, 900)
        of_prompts = DecodeBatch(jnp.asarray(4.0), jnp.asarray(400.0), jnp.asarray(100.0))
        first_s, slope_s, _ = decode_steps(held, jnp.int32(4), jnp.int64(3600), jnp.int32(900), of_prompts)
        assert (float(first_s), float(slope_s)) == (pytest.approx(at(held, 900), rel=1e-12), 0.0)


def test_the_device_keeps_the_attention_of_chunks() -> None:
    with jax.enable_x64(True):
        model, plain = timing(DDR4)[0], timing(None)[0]
        new, computed = jnp.array([512, 0, 0], jnp.int32), jnp.zeros(3, jnp.int32)
        assert float(MIXED(model, new, computed)) == float(MIXED(plain, new, computed))
        both = mixed_parts(model, jnp.array([512, 1, 1], jnp.int32), jnp.array([0, 900, 900], jnp.int32))
        chunk = mixed_parts(plain, new, computed)
        assert both.of_pim is not None
        assert float(both.attention_s - both.of_pim.whole_s) == pytest.approx(float(chunk.attention_s), rel=1e-12)


def test_instances_without_it_are_as_fast_beside_one_with() -> None:
    with jax.enable_x64(True):
        alone, (plain, _) = timing(None)[0], timing(None, DDR4)
        new, computed = jnp.array([1, 1, 300], jnp.int32), jnp.array([500, 20, 0], jnp.int32)
        assert float(MIXED(plain, new, computed)) == float(MIXED(alone, new, computed))
        assert float(DECODE(plain, 2, 520, 500)[0]) == float(DECODE(alone, 2, 520, 500)[0])
        assert alone.times.pim is None


def test_halves_read_the_weights_twice_and_hide_the_attention() -> None:
    with jax.enable_x64(True):
        whole, halves = timing(DDR4)[0], timing(replace(DDR4, interleaved=True))[0]
        long = [float(DECODE(model, 64, 64 * 9000, 9000)[0]) for model in (whole, halves)]
        short = [float(DECODE(model, 64, 64 * 10, 10)[0]) for model in (whole, halves)]
        assert long[1] < long[0]
        assert short[1] > short[0]
        assert float(DECODE(halves, 1, 900, 900)[0]) == float(DECODE(whole, 1, 900, 900)[0])


def test_a_link_is_passed_by_every_decode() -> None:
    linked = replace(DDR4, link_bandwidth_bytes_per_s=50e9)
    sent = 32 * (2 * 4096 + 2 * 1024) * 2 * 16 / 50e9
    assert ours_s(linked, [100] * 16) - ours_s(DDR4, [100] * 16) == pytest.approx(sent, rel=1e-9)


def test_the_kv_cache_is_as_large_as_the_memory_it_is_in() -> None:
    block = 16 * 2 * 8 * 128 * 2 * 32
    assert instance().num_gpu_blocks == 64 * 2**33 // block
    assert instance(replace(DDR4, holds_kv=False)).num_gpu_blocks == instance(None).num_gpu_blocks
    split = instance(parallelism=Parallelism(2), limits=InstanceLimits())
    assert split.num_gpu_blocks == 2 * 64 * 2**33 // block


def test_the_bound_is_named() -> None:
    (line,) = [line for line in cluster_timing((instance(),), LatencySource()).warnings if line.startswith("pim: ")]
    assert line == f"pim: {bound(instance().deployment)}"
    assert "49.2 GB/s inside a channel / 25.6 GB/s outside / 4 query heads per KV head = 0.48" in line
    many = load_model("llama-2-7b")
    assert "/ 1 query heads per KV head = 3.9," in bound(instance(Pim(load_pim("hbm_pim"), 64), many).deployment)


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("deepseek-v2-lite", {}, "layers other than grouped-query attention"),
        ("gemma-3-27b", {}, "layers other than grouped-query attention"),
        ("llama-3.1-8b", {"parallelism": Parallelism(1, 2)}, "does not go with pp stages yet"),
        ("llama-3.1-8b", {"weights": WeightPlacement((Store("host", "host", 1e12, 1e11),), 0)}, r"does not go with streamed weights"),
    ],
)
def test_what_is_not_simulated_is_refused(model: str, fields: dict, message: str) -> None:
    with pytest.raises(SimjaxError, match=message):
        instance(model=load_model(model), **fields)


def test_shipped_devices_say_where_their_numbers_are_from(tmp_path) -> None:
    for path in (PROFILES / "pim").glob("*.yaml"):
        stated = {line.partition(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()}
        assert stated - {"aliases", "sources"} == set(load_pim(path.stem).sources)
    assert load_pim("DDR4_8GB_3200_pim").name == "ddr4_3200"
    with pytest.raises(SimjaxError, match="unknown PIM device 'hbm9'"):
        load_pim("hbm9")
    mine = tmp_path / "mine.yaml"
    mine.write_text((PROFILES / "pim" / "hbm2.yaml").read_text().replace("sequence_s: 1.4", "sequence_s: x"))
    with pytest.raises(SimjaxError, match="sequence_s: "):
        load_pim(str(mine))
