"""Attention of layers that see a part of the context: coefficients by hand, steps against a plain count, leaps, joined models."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.deployment import Deployment
from simjax.hardware import load_device
from simjax.latency.attention.coefficients import TILE, step_batch
from simjax.latency.attention.roofline import attention_coefficients, attention_of_windows
from simjax.latency.attention.windows import WindowedAttention, windowed_decodes, windowed_mixed_s
from simjax.latency.join import join_step_times
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.roofline import roofline_profile
from simjax.latency.step_time import decode_steps, mixed_step_s, row
from simjax.model import kv_bytes_per_token, load_model, state_bytes_per_sequence, without_windows

H100, B200 = load_device("h100"), load_device("b200")
GPT, DEEPSEEK, SPARSE, LLAMA = map(load_model, ("gpt-oss-20b", "deepseek-v3", "deepseek-v3.2", "llama-3.1-8b"))
PROFILE = roofline_profile(H100)
EFFICIENCY = PROFILE.rank(1).attention
W = WindowedAttention(window=10.0, decode_kv_s=2.0, mixed_kv_s=3.0, chunk_kv_s=5.0, longest_s=0.0)


def batch(new, computed):
    return step_batch(np.array(new), np.array(computed), np)


def test_a_window_bounds_what_is_read():
    model, whole = GPT, without_windows(GPT)
    a, w = attention_coefficients(EFFICIENCY, Deployment(model, H100)), attention_of_windows(EFFICIENCY, Deployment(model, H100))
    other = attention_coefficients(EFFICIENCY, Deployment(whole, H100))
    assert w is not None and attention_of_windows(EFFICIENCY, Deployment(whole, H100)) is None
    assert w.window == 128 and w.decode_kv_s == pytest.approx(a.decode_kv_s)  # twelve layers of each kind
    for name in ("decode_kv_s", "chunk_kv_s", "longest_s"):
        assert getattr(a, name) + getattr(w, name) == pytest.approx(getattr(other, name), rel=1e-12)
    for name in ("decode_floor_s", "decode_sequence_s", "mixed_sequence_s", "chunk_tile_s", "empty_tile_s"):
        assert getattr(a, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert kv_bytes_per_token(model) == kv_bytes_per_token(whole)


def test_steps_against_a_plain_count():
    with jax.enable_x64(True):
        for contexts in ([3, 3], [9, 9, 9], [40], [40, 60]):
            _, d = batch([1] * len(contexts), contexts)
            first_s, slope_s, valid = (float(x) for x in windowed_decodes(W, 0.0, d))
            at = [2.0 * len(contexts) * min(np.mean(contexts) + j, 10.0) for j in range(30)]
            assert first_s == at[0]
            assert all(first_s + slope_s * j == pytest.approx(at[j]) for j in range(min(int(valid), 30)))
            assert valid > 30 or first_s + slope_s * valid != pytest.approx(at[int(valid)])
    # a chunk of two tiles on 100 tokens: either walks its window and itself; a decode of 40 tokens reads ten
    c, d = batch([2 * TILE, 1], [100, 40])
    assert windowed_mixed_s(W, c, d, np) == 5.0 * 2 * (10 + TILE) + 3.0 * 10
    c, d = batch([2], [1])
    assert windowed_mixed_s(replace(W, window=1e6), c, d, np) == 5.0 * (1 + TILE)


def test_latent_attention_is_bound_by_its_work_where_heads_are_many():
    one, eight = (Deployment(DEEPSEEK, replace(H100, memory_bytes=2**45), kv_cache_dtype=x) for x in ("auto", "fp8"))
    a, b = attention_coefficients(EFFICIENCY, one), attention_coefficients(EFFICIENCY, eight)
    peak = 9.894e14 * EFFICIENCY.prefill_compute_efficiency
    read_s = 70_272 / (H100.memory_bandwidth_bytes_per_s * EFFICIENCY.decode_bandwidth_efficiency)
    work_s = 61 * 2 * 128 * (2 * 512 + 64) / peak
    assert a.decode_kv_s == b.decode_kv_s == pytest.approx(max(read_s, work_s)) and work_s > read_s
    assert a.chunk_kv_s == pytest.approx(TILE * 61 * 2 * 128 * (128 + 64 + 128) / peak)


def test_sparse_attention_reads_index_keys_of_all_tokens():
    one = Deployment(SPARSE, B200)
    a, w = attention_coefficients(EFFICIENCY, one), attention_of_windows(EFFICIENCY, one)
    bandwidth = B200.memory_bandwidth_bytes_per_s * EFFICIENCY.decode_bandwidth_efficiency
    peak = B200.peak("bfloat16") * EFFICIENCY.prefill_compute_efficiency
    assert w is not None and w.window == 2048
    assert a.decode_kv_s == pytest.approx(max(61 * 132 / bandwidth, 61 * 2 * 64 * 128 / peak))
    assert w.chunk_kv_s == pytest.approx(TILE * 61 * 2 * 128 * 1088 / peak)


def test_a_state_is_read_and_written_with_every_decode():
    model = load_model("qwen3.5-35b-a3b")
    a = attention_coefficients(EFFICIENCY, Deployment(model, H100))
    bandwidth = H100.memory_bandwidth_bytes_per_s * EFFICIENCY.decode_bandwidth_efficiency
    moved_s = 2 * state_bytes_per_sequence(model) / bandwidth
    assert a.decode_sequence_s == pytest.approx(40 * EFFICIENCY.decode_sequence_s + moved_s)
    assert a.decode_kv_s == pytest.approx(20_480 / bandwidth)


def test_joined_models_keep_their_own():
    with jax.enable_x64(True):
        ones = [compile_profile(PROFILE, Deployment(x, H100), max_tokens=64, max_sequences=8) for x in (GPT, LLAMA)]
        assert ones[1].windows is None
        both = join_step_times(ones)
        new, computed = jnp.array([1, 1, 0]), jnp.array([500, 700, 0])
        for i, one in enumerate(ones):
            alone, joined = row(one, 0), row(both, i)
            assert mixed_step_s(alone, new, computed) == mixed_step_s(joined, new, computed)
            assert [float(x) for x in decode_steps(alone, 2, 1200, 700)] == [float(x) for x in decode_steps(joined, 2, 1200, 700)]
        first_s, slope_s, _ = decode_steps(row(ones[0], 0), 2, 1200, 700)
        assert float(first_s) == pytest.approx(float(mixed_step_s(row(ones[0], 0), new, computed)), rel=1e-12)
        assert float(slope_s) == pytest.approx(2 * float(ones[0].attention.decode_kv_s[0]))
