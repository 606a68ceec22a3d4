"""Operators imported from a database: what is read of its tables, how well they are fitted, and the profile that has them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.hub.aiconfigurator import tables
from simjax.hub.fit import fit_table
from simjax.hub.job import import_operators
from simjax.latency.fitting.efficiency import OpEfficiency, op_seconds
from simjax.latency.fitting.fit_ops import Measured
from simjax.latency.fitting.shape_factors import PRODUCT, ROWS, SIZE, shape_factor, shape_weights
from simjax.latency.profiles.compile import op_efficiency
from simjax.latency.profiles.file import generic_profile, load_profile, save_profile
from simjax.model.ops import matrix_product

B200 = load_device("b200")
TRUE = OpEfficiency(floor_s=4e-6, bandwidth_efficiency=0.8, compute_efficiency=1.2, tile_penalty=30.0, overlap=2.5)
SIDES = (512, 1024, 2048, 4096, 8192, 16384)
ROWS_MEASURED = (1, 16, 128, 1024, 8192)


def factors() -> np.ndarray:
    """Between 0.7 and 1.4, different at every knot."""
    return np.exp(0.35 * np.sin(1.7 * np.arange(SIZE)))


def seconds(format, k, n, rows, e=TRUE):
    return op_seconds(matrix_product("gemm", k, n, format), e, B200, "bfloat16", np.array(rows), np)


def written(folder, family, backend, name, frame):
    path = folder / "data" / "b200_sxm" / family / backend / "1.0"
    path.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path / f"{name}_perf.parquet")


@pytest.fixture
def systems(tmp_path):
    """A database of two backends: vLLM's products in fp8 and in blocks of it, which are noise, TensorRT-LLM's with their quantisation."""
    (tmp_path / "query_versions.yaml").write_text('defaults: {vllm: {current: "1.0"}, trtllm: {current: "1.0"}}\n')
    shapes = [(k, n, m) for k in SIDES for n in SIDES for m in ROWS_MEASURED]
    frame = pd.DataFrame(shapes, columns=["k", "n", "m"])
    ms = lambda format: [1e3 * seconds(format, k, n, [m])[0] for k, n, m in shapes]
    vllm = [("bfloat16", ms(None)), ("fp8", [1.5 * x for x in ms("fp8")]), ("fp8_block", [1e-2] * len(shapes))]
    written(tmp_path, "gemm", "vllm", "gemm", pd.concat([frame.assign(gemm_dtype=dtype, latency=x) for dtype, x in vllm]))
    trtllm = frame.assign(gemm_dtype="fp8", latency=[x + 0.010 for x in ms("fp8")])
    written(tmp_path, "gemm", "trtllm", "gemm", trtllm)
    for name, latency in (("computescale", 0.008), ("scale_matrix", 0.002)):
        quantize = pd.DataFrame([(m, k, latency) for m in (1, 8192) for k in (512, 16384)], columns=["m", "k", "latency"])
        written(tmp_path, "quantize", "trtllm", name, quantize)
    columns = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "num_tokens"]
    experts = pd.DataFrame([(2048, 768, 8, 128, tp, ep, m) for tp, ep in ((1, 1), (2, 1), (1, 4)) for m in (1, 64)], columns=columns)
    rows = [
        experts.assign(distribution=d, moe_dtype=t, latency=x)
        for d, x in (("balanced", 9.0), ("power_law_1.01", 0.1))
        for t in ("fp8", "fp8_block", "odd")
    ]
    written(tmp_path, "moe", "vllm", "moe", pd.concat(rows))
    return tmp_path


def test_what_is_read(systems):
    found = {(x.key, x.backend): x for x in tables(systems, ("b200", "b200_sxm"))}
    assert set(found) == {("gemm", None), ("gemm_fp8", None), ("experts_fp8", "vllm"), ("experts_fp8_block", "vllm")}
    # fp8: TensorRT-LLM's, without 10 us of quantisation, are faster than vLLM's; those of blocks are noise
    for m in found["gemm_fp8", None].measured:
        np.testing.assert_allclose(m.seconds, seconds("fp8", m.op.k, m.op.n, ROWS_MEASURED), rtol=1e-6)
    assert len(found["gemm", None].measured) == len(SIDES) ** 2
    shapes = {(m.op.experts, m.op.n) for m in found["experts_fp8", "vllm"].measured}
    assert shapes == {(128, 3 * 768), (128, 3 * 384), (32, 3 * 768)}
    assert all(m.seconds.tolist() == [1e-4, 1e-4] for m in found["experts_fp8", "vllm"].measured)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: None, "aiconfigurator-core has no operators of h100"),
        (lambda folder: (folder / "data/b200_sxm").rename(folder / "data/h100_sxm") and _without(folder, "m"), "column 'm' is missing"),
    ],
)
def test_other_devices_and_files(systems, change, message):
    change(systems)
    with pytest.raises(SimjaxError, match=message) as error:
        list(tables(systems, ("h100",)))
    assert "\n" not in str(error.value)


def _without(folder, column):
    path = next((folder / "data/h100_sxm/gemm/vllm").rglob("*.parquet"))
    pd.read_parquet(path).drop(columns=column).to_parquet(path)


def test_a_fit_finds_efficiencies_and_factors():
    true = replace(TRUE, shape_factors=tuple(factors()))
    sides = np.unique(np.round(2.0 ** np.arange(9, 15.1, 0.5)).astype(int))
    rows = np.unique(np.round(2.0 ** np.arange(0, 14.1, 0.5)).astype(int))
    measured = [Measured(matrix_product("gemm", k, n), rows, seconds(None, k, n, rows, true)) for k in sides for n in sides]
    found = fit_table(measured, B200, experts=False)
    assert found.roofline_percent > 10.0  # efficiencies alone leave the factors
    assert found.median_percent < 2.5 and found.p90_percent < 8.0
    for m in measured[::17]:
        again = op_seconds(m.op, found.efficiency, B200, "bfloat16", m.rows, np)
        assert np.median(np.abs(again / m.seconds - 1.0)) < 0.05


def test_errors_are_those_of_shapes_left_out():
    """Where every shape has a factor of its own, the fit knows nothing of those that it has not seen."""
    rng = np.random.default_rng(0)
    rows = np.array(ROWS_MEASURED)
    measured = [
        Measured(matrix_product("gemm", k, n), rows, seconds(None, k, n, rows) * np.exp(rng.choice([-0.4, 0.4])))
        for k in SIDES
        for n in SIDES
    ]
    assert fit_table(measured, B200, experts=False).median_percent > 20.0


def test_factors_at_knots_between_and_outside():
    given, op = factors(), matrix_product("gemm", 2**9, 2**11)
    grid = given.reshape(len(ROWS), len(PRODUCT[0]), len(PRODUCT[1]))
    at = shape_factor(given, op, np.array([1, 2, 4, 2**14, 2**16]), np)
    np.testing.assert_allclose(at, [grid[0, 0, 1], np.sqrt(grid[0, 0, 1] * grid[1, 0, 1]), grid[1, 0, 1], grid[-1, 0, 1], grid[-1, 0, 1]])
    np.testing.assert_allclose(shape_weights(matrix_product("gemm", 3000, 5000), np.arange(1, 99, 7)).sum(axis=1), 1.0)
    assert shape_factor((), op, np.array([1]), np) == 1.0


def test_the_profile_has_them_by_backend_and_keeps_the_rest(systems, tmp_path):
    base = generic_profile(B200)
    profile, _ = import_operators(base, B200, systems, only=["gemm_fp8"])
    own, other = profile.ranks[0].ops, profile.for_backend("trtllm").ranks[0].ops
    assert own["gemm_fp8"] is other["gemm_fp8"] and own["gemm_fp8"] != base.ranks[0].ops["gemm_fp8"]
    assert all(own[key] == e for key, e in base.ranks[0].ops.items() if key != "gemm_fp8")
    assert len(other["gemm_fp8"].shape_factors) == SIZE and other["elementwise"] == own["elementwise"]
    assert "experts_fp8" not in set(other) - set(base.ranks[0].ops)
    op = matrix_product("o_proj", 8192, 8192, "fp8")
    assert op_efficiency(profile.for_backend("trtllm").ranks[0], op, "") is other["gemm_fp8"]
    assert any(line.startswith("gemm_fp8: aiconfigurator-core") for line in profile.provenance["operators"])
    path = tmp_path / "profile.yaml"
    save_profile(profile, path)
    again = load_profile(path)
    for name in ("trtllm", "sglang"):
        for key, e in profile.for_backend(name).ranks[0].ops.items():
            np.testing.assert_allclose(again.for_backend(name).ranks[0].ops[key].shape_factors, e.shape_factors, atol=5.1e-4)
    with pytest.raises(SimjaxError, match=r"^only: the tables of b200 have no gemm_fp7; did you mean gemm_fp8"):
        import_operators(base, B200, systems, only=["gemm_fp7"])
