"""The roofline of one operation, against hand calculations on a device of round numbers."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.hardware import load_device
from simjax.latency.fitting.efficiency import ROW_EDGES, OpEfficiency, kernel_factor, op_seconds
from simjax.model import load_model
from simjax.model.ops import Op, step_ops

DEVICE = replace(load_device("h100"), memory_bandwidth_bytes_per_s=1e12, peak_flops={"bfloat16": 1e14}, multiprocessors=100)
PERFECT = OpEfficiency()


def gemm(k=1024, n=25_600, weight_bytes=0, row_bytes=0.0):
    return Op("gemm", 1, k=k, n=n, weight_bytes=weight_bytes, row_bytes=row_bytes, row_flops=2.0 * k * n)


def seconds(op, e, rows, **kwargs):
    return op_seconds(op, e, DEVICE, "bfloat16", np.atleast_1d(rows), np, **kwargs)


def test_whole_waves_run_at_the_peak():
    # 128 rows of 25,600 columns are 100 tiles of 128 x 256: one wave.
    op = gemm(row_bytes=1e-9)
    assert seconds(op, PERFECT, 128)[0] == pytest.approx(op.row_flops * 128 / 1e14, rel=1e-6)


def test_one_row_more_starts_another_row_of_tiles():
    op = gemm(row_bytes=1e-9)
    at = seconds(op, PERFECT, [128, 129, 144, 145])
    # 16 rows fit in the smallest tile, whose second row takes a wave of 16-row tiles: 25,600 / 64 = 400 tiles, 4 waves.
    small_tiles = 9 * 400 / 100 * (2 * 16 * 64 * 1024) / 1e12
    assert at[1] == at[2] == pytest.approx(small_tiles, rel=1e-6)
    assert at[3] > at[2]


def test_small_tiles_are_penalised():
    op, e = gemm(row_bytes=1e-9), replace(PERFECT, tile_penalty=64.0)
    # The best tile for 128 x 25,600 is 128 x 256: slower by 1 + 64 (1/128 + 1/256).
    assert seconds(op, e, 128)[0] == pytest.approx(op.row_flops * 128 / 1e14 * 1.75, rel=1e-6)


def test_splitting_along_k_fills_the_device():
    # One tile of 128 x 256 would leave 99 of 100 multiprocessors idle; smaller tiles and four parts of k use 64 of them.
    op = gemm(n=256, row_bytes=1e-9)
    one_tile = 2 * 128 * 256 * 1024 / 1e12
    assert seconds(op, PERFECT, 128)[0] <= one_tile / 32


def test_memory_and_compute_join_as_a_norm():
    op = gemm(weight_bytes=3_355_443_200 // 50)
    memory = op.weight_bytes / 1e12
    compute = op.row_flops * 128 / 1e14
    assert memory == pytest.approx(compute)
    for p in (1.0, 2.0, 8.0):
        assert seconds(op, replace(PERFECT, overlap=p), 128)[0] == pytest.approx(memory * 2 ** (1 / p))


def test_bandwidth_efficiency_and_floor():
    op = Op("rows", 1, weight_bytes=500, row_bytes=1000.0)
    e = OpEfficiency(floor_s=2e-6, bandwidth_efficiency=0.5)
    assert seconds(op, e, 10**6)[0] == pytest.approx(2e-6 + (1e9 + 500) / 0.5e12)


def test_rows_beyond_the_cache_move_at_the_speed_of_the_memory():
    op = Op("rows", 1, row_bytes=1000.0)
    e = OpEfficiency(cache_bytes=50e6, cache_ratio=4.0)
    small, large, larger = seconds(op, e, [5_000, 500_000, 600_000])
    assert small == pytest.approx(5e6 / 4e12, rel=0.1)
    assert seconds(op, e, 10)[0] == pytest.approx(1e4 / 4e12, rel=0.1)
    assert larger - large == pytest.approx(100e6 / 1e12)
    assert large == pytest.approx((450e6 + 50e6 / 4) / 1e12, rel=2e-3)


def test_kernel_factors_apply_by_bucket():
    factors = tuple(1.0 + 0.01 * i for i in range(len(ROW_EDGES)))
    rows = np.array([1, 2, 16, 17, 128, 129, 2048])
    np.testing.assert_allclose(kernel_factor(factors, rows, np), [1.0, 1.01, 1.01, 1.02, 1.04, 1.05, 1.20])
    # Beyond the table: the mean of the last octave, the eight buckets above 1024.
    np.testing.assert_allclose(kernel_factor(factors, np.array([2049, 9999]), np), np.exp(np.mean(np.log(factors[-8:]))))


def test_experts_are_read_once_each_and_share_the_pairs():
    model = load_model("qwen3-30b-a3b")
    op = next(op for op in step_ops(model) if op.name == "moe")
    e = OpEfficiency(overlap=50.0)
    fast = replace(DEVICE, peak_flops={"bfloat16": 1e19})
    read = op_seconds(op, e, fast, "bfloat16", np.array([64]), np, np.array([20.0]))
    assert read[0] == pytest.approx((op.weight_bytes + 20 * op.expert_bytes + 64 * op.row_bytes) / 1e12, rel=1e-6)
    expected = op_seconds(op, e, fast, "bfloat16", np.array([1]), np)
    assert expected[0] == pytest.approx((op.weight_bytes + 8 * op.expert_bytes + op.row_bytes) / 1e12, rel=1e-6)
    # 16 tokens on 8 experts are 16 pairs each, one tile of 16 rows; 17 tokens are two.
    slow = replace(DEVICE, memory_bandwidth_bytes_per_s=1e18)
    compute = op_seconds(op, e, slow, "bfloat16", np.array([16, 17]), np, np.array([8.0, 8.0]))
    assert compute[1] > compute[0]


@pytest.mark.parametrize("name", [f.name for f in fields(OpEfficiency)])
def test_gradients_equal_finite_differences(name):
    op = gemm(weight_bytes=60_000_000, row_bytes=53_000.0)
    base = OpEfficiency(2e-6, 0.9, 1.1, 20.0, 3.0, 1e6, 3.0, (1.0, 0.9, 1.1, 1.05, 1.2))
    rows = np.array([3, 40, 100, 300])

    def total(value, xp):
        return xp.sum(op_seconds(op, replace(base, **{name: value}), DEVICE, "bfloat16", rows, xp))

    value = np.array(getattr(base, name))
    with jax.enable_x64(True):
        assert total(value, jnp) == pytest.approx(float(total(value, np)), rel=1e-12)
        gradient = np.asarray(jax.grad(lambda x: total(x, jnp))(jnp.asarray(value)))
    for index in np.ndindex(value.shape):
        step = np.zeros_like(value)
        step[index] = 1e-6 * value[index]
        slope = (total(value + step, np) - total(value - step, np)) / (2 * step[index])
        assert gradient[index] == pytest.approx(slope, rel=1e-4)
