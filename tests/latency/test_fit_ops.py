"""Fits of operations to synthetic times of known coefficients."""

from dataclasses import replace

import numpy as np
import pytest

from simjax.hardware import load_device
from simjax.latency.fitting.efficiency import ROW_EDGES, OpEfficiency
from simjax.latency.fitting.fit_ops import (
    GEMM_START,
    OWN,
    ROWS_OWN,
    ROWS_SHARED,
    ROWS_START,
    SHARED,
    Measured,
    fit_errors,
    predict,
    solve,
    with_kernel_factors,
)
from simjax.model import load_model
from simjax.model.ops import step_ops

DEVICE = load_device("rtx_pro_6000")
ROWS_MEASURED = np.array([*range(2, 16), *range(16, 64, 4), *range(64, 2049, 16)], float)
OPS = {op.name: op for op in step_ops(load_model("llama-3.1-8b"))}


def synthetic(name, truth, noise=0.0):
    m = Measured(OPS[name], ROWS_MEASURED, np.ones(len(ROWS_MEASURED)))
    scatter = np.exp(noise * np.random.default_rng(3).standard_normal(len(ROWS_MEASURED)))
    return replace(m, seconds=predict(m, truth, DEVICE, "bfloat16") * scatter)


def test_shared_coefficients_of_matrix_products_are_recovered():
    truth = OpEfficiency(4e-6, 0.85, 1.05, 35.0, 4.0)
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    found = solve([synthetic(name, truth, noise=0.01) for name in names], GEMM_START, SHARED + OWN, DEVICE, "bfloat16")
    assert found.bandwidth_efficiency == pytest.approx(0.85, rel=0.01)
    assert found.compute_efficiency == pytest.approx(1.05, rel=0.02)
    assert found.tile_penalty == pytest.approx(35.0, rel=0.1)
    assert found.overlap == pytest.approx(4.0, rel=0.1)


def test_rows_coefficients_are_recovered():
    truth = OpEfficiency(2.5e-6, 0.9, cache_bytes=60e6, cache_ratio=3.0)
    found = solve([synthetic("act_fn", truth)], ROWS_START, ROWS_SHARED + ROWS_OWN, DEVICE, "bfloat16")
    for name in ROWS_SHARED + ROWS_OWN:
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=1e-2), name


def test_kernel_factors_take_up_what_the_form_leaves():
    truth = replace(GEMM_START, kernel_factors=tuple(np.linspace(0.8, 1.2, len(ROW_EDGES))))
    m = synthetic("o_proj", truth)
    found = with_kernel_factors(m, GEMM_START, DEVICE, "bfloat16")
    assert len(found.kernel_factors) == len(ROW_EDGES)
    # One row was not measured: its bucket keeps 1.
    np.testing.assert_allclose(found.kernel_factors[1:], truth.kernel_factors[1:], rtol=1e-9)
    assert found.kernel_factors[0] == 1.0


def test_buckets_beyond_the_last_measured_row_are_absent():
    m = synthetic("o_proj", GEMM_START).select(ROWS_MEASURED <= 256)
    assert len(with_kernel_factors(m, GEMM_START, DEVICE, "bfloat16").kernel_factors) == 7


def test_an_octave_counts_the_same_however_densely_it_was_measured():
    truth, other = OpEfficiency(4e-6, 0.85, 1.05, 35.0, 4.0), OpEfficiency(4e-6, 0.60, 1.05, 35.0, 4.0)
    m = synthetic("o_proj", truth)
    seconds = np.where(m.rows == 600, predict(m, other, DEVICE, "bfloat16"), m.seconds)
    crowded = Measured(m.op, np.append(m.rows, np.full(500, 600.0)), np.append(seconds, np.full(500, 2 * seconds[m.rows == 608][0])))
    found = solve([crowded], truth, OWN, DEVICE, "bfloat16")
    # 500 wrong repeats of one size weigh as much as that size once.
    assert found.bandwidth_efficiency == pytest.approx(0.85, rel=0.01)


def test_fit_errors():
    assert fit_errors(np.array([1.01, 0.99, 1.02]), np.ones(3)) == {"median_pct": 1.0, "p90_pct": 1.8, "mean_pct": 0.67}
