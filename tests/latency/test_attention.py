"""The attention coefficients: the formula by hand, numpy against JAX, and fits of made-up and of measured kernels."""

import dataclasses

import jax
import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.latency.attention.coefficients import (
    AttentionCoefficients,
    DecodeBatch,
    decode_attention_s,
    effective_context,
    equal_contexts,
    merged,
    mixed_attention_s,
    scaled,
    step_batch,
)
from simjax.latency.attention.fit import (
    MIXED,
    AttentionPoints,
    chunks_of,
    decodes_of,
    fit_attention,
    fit_decode_skew,
)
from simjax.latency.tables.bundle import read_bundle
from tests.data import data_path
from tests.latency.step_times import COEFFICIENTS

A = AttentionCoefficients(**COEFFICIENTS)
PROFILES = "llmservingsim/profiles/"


def batch(*pairs):
    new, computed = np.array(pairs, dtype=np.int64).T
    return step_batch(new, computed, np)


def test_a_mixed_step_by_hand():
    # a chunk of 100 queries (two tiles) on 50 keys beside decodes of 200 and 4000 keys
    chunks, decodes = batch((100, 50), (1, 200), (0, 7777), (1, 4000))
    assert chunks == (1, 100, 5000, 2, (50 + 64) + (50 + 128), 150, 2)
    assert decodes == (2, 4200, 4000)
    c = COEFFICIENTS
    spilled = c["spill_s"] * (4200 - c["spill_tokens"]) / (1 + (c["spill_sequences"] / 2) ** 4)
    work = 2 * c["mixed_sequence_s"] + 4200 * c["mixed_kv_s"] + spilled + 2 * c["chunk_tile_s"] + 292 * c["chunk_kv_s"]
    work += (3 * 2 - 2) * c["empty_tile_s"]
    longest = 4000 * c["longest_s"]
    assert longest > work + 0.65 * longest  # few, long rows: the longest decides
    assert mixed_attention_s(A, chunks, decodes, np) == pytest.approx(c["mixed_floor_s"] + longest, rel=1e-14)
    chunks, decodes = batch((100, 50), *[(1, 400)] * 10)
    spilled = c["spill_s"] * (4000 - c["spill_tokens"]) / (1 + (c["spill_sequences"] / 10) ** 4)
    work = 10 * c["mixed_sequence_s"] + 4000 * c["mixed_kv_s"] + spilled + 2 * c["chunk_tile_s"] + 292 * c["chunk_kv_s"]
    work += (11 * 2 - 2) * c["empty_tile_s"]
    assert mixed_attention_s(A, chunks, decodes, np) == pytest.approx(c["mixed_floor_s"] + work + 0.65 * 400 * c["longest_s"], rel=1e-14)


def test_numpy_and_jax_agree():
    rng = np.random.default_rng(0)
    new, computed = rng.choice([0, 1, 1, 40, 500], (20, 12)).astype(np.int32), rng.integers(0, 9000, (20, 12), dtype=np.int32)
    with jax.enable_x64(True):
        on_device = jax.jit(step_batch)(new, computed)
    on_host = step_batch(new, computed, np)
    for device, host in zip(on_device, on_host, strict=True):
        np.testing.assert_array_equal(np.stack(device), np.stack(host))


def test_one_chunk_is_its_own_merged_chunk():
    chunks, _ = batch((300, 1234))
    assert merged(chunks, np) == chunks
    two, _ = batch((100, 0), (300, 1200))
    assert merged(two, np).history == two.history
    assert merged(two, np).longest == 400 + 900  # 400 queries on their mean history


def test_unequal_decodes_cost_more_and_keep_their_distance():
    _, decodes = batch((1, 100), (1, 100), (1, 1000))
    assert effective_context(0.1, decodes, np) == pytest.approx(400 + 0.1 * 600)
    assert effective_context(0.1, equal_contexts(decodes, np), np) == 400
    later = DecodeBatch(decodes.n, decodes.kv_sum + 3 * 50, decodes.kv_max + 50)
    assert effective_context(0.1, later, np) == pytest.approx(effective_context(0.1, decodes, np) + 50, rel=1e-14)


def test_scaling_leaves_counts_and_shares_alone():
    doubled = scaled(A, 2.0)
    chunks, decodes = batch((100, 50), (1, 200), (1, 4000))
    assert mixed_attention_s(doubled, chunks, decodes, np) == pytest.approx(2 * mixed_attention_s(A, chunks, decodes, np), rel=1e-14)
    assert decode_attention_s(doubled, decodes, np) == pytest.approx(2 * decode_attention_s(A, decodes, np), rel=1e-14)


def made_up_points(a):
    q, k, n, kv = (x.ravel() for x in np.meshgrid([0, 16, 64, 200, 900, 2048], [0, 100, 3000], [0, 1, 8, 64, 200], [16, 300, 3000]))
    possible = (q + n > 0) & ((q > 0) | (k == 0))
    points = AttentionPoints(q[possible], k[possible], n[possible], kv[possible], np.zeros(possible.sum()))
    seconds = np.where(
        points.chunk > 0, mixed_attention_s(a, chunks_of(points), decodes_of(points), np), decode_attention_s(a, decodes_of(points), np)
    )
    return points._replace(seconds=seconds)


def test_the_fit_finds_the_coefficients_that_made_the_points():
    made = dataclasses.replace(A, decode_skew=0.0, spill_tokens=1e5, spill_sequences=60.0, longest_s=1e-6)
    found, errors = fit_attention(made_up_points(made))
    assert errors["decode"].p90 < 1e-9 and errors["mixed"].p90 < 1e-3
    for name in ("decode_floor_s", "decode_sequence_s", "decode_kv_s", "mixed_floor_s", "mixed_kv_s", "chunk_kv_s", "longest_s"):
        assert getattr(found, name) == pytest.approx(getattr(made, name), rel=2e-2), name


def test_the_fit_finds_the_skew():
    mean_s, longest_s = np.array([1.0, 2.0, 5.0]), np.array([2.0, 2.5, 9.0])
    assert fit_decode_skew(mean_s, longest_s, mean_s + 0.3 * (longest_s - mean_s)) == pytest.approx(0.3)
    assert fit_decode_skew(mean_s, longest_s, 0.9 * mean_s) == 0.0
    assert fit_decode_skew(*[np.array([])] * 3) == 0.0


def test_too_few_points_are_refused():
    points = made_up_points(A)
    with pytest.raises(SimjaxError, match=r"2 points decode-only, at least 3"):
        fit_attention(AttentionPoints(*(x[np.cumsum(points.chunk == 0) <= 2] for x in points)))
    with pytest.raises(SimjaxError, match=rf"0 points with a prefill chunk, at least {len(MIXED)}"):
        fit_attention(AttentionPoints(*(x[points.chunk == 0] for x in points)))


@pytest.mark.parametrize(
    "bundle",
    [
        "RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1",
        "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp1",
        "RTXPRO6000/meta-llama/Llama-3.1-8B/bf16/tp2",
        "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp1",
        "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16/tp2",
        "RTXPRO6000/Qwen/Qwen3-32B/bf16/tp1",
        "RTXPRO6000/Qwen/Qwen3-32B/bf16/tp2",
    ],
)
def test_errors_on_measured_kernels(bundle):
    """The bounds that `attention_fit` states."""
    _, errors = fit_attention(read_bundle(data_path(PROFILES + bundle)).attention)
    decode, mixed = errors["decode"], errors["mixed"]
    assert decode.p50 < 0.07 and decode.p90 < 0.18 and decode.p50_many < 0.055 and decode.p90_many < 0.16
    assert mixed.p50 < 0.05 and mixed.p90 < 0.18 and mixed.p50_many < 0.05 and mixed.p90_many < 0.205
