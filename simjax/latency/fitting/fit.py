"""From a measured bundle of kernel times to a latency profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, load_device
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.fit import AttentionPoints, fit_attention, fit_decode_skew
from simjax.latency.attention.roofline import AttentionEfficiency, attention_efficiency
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.latency.fitting.fit_ops import (
    EXPERTS_START,
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
from simjax.latency.profiles.compile import op_efficiency
from simjax.latency.profiles.profile import ANY_DEGREE, HostOverheads, LatencyProfile, RankCoefficients
from simjax.latency.roofline import EXPERTS_FLOOR_S
from simjax.latency.tables.bundle import Bundle, read_bundle
from simjax.latency.tables.curves import valid_range
from simjax.model import ModelSpec, kv_bytes_per_token, load_model, weight_bytes
from simjax.model.ops import step_ops
from simjax.parallel.parallelism import Parallelism

# The profiler runs one layer over and over, so experts of fewer bytes than this stay in a large cache, which they never do in a model.
CACHED_EXPERT_BYTES = 128e6
# For the same reason the keys of one or two sequences are measured faster than the memory delivers them.
LEAST_DECODES = 4
GPU_MEMORY_UTILIZATION = 0.9  # vLLM's default
MOST_KV_TOKENS = 700e3


@dataclass(frozen=True)
class RankData:
    """Measurements of one rank at one tensor-parallel degree.

    Attributes:
        deployment: model, device and degree.
        bundle: the measured tables.
        kernels: times of the operations that `simjax.model.ops` knows, by name.
    """

    deployment: Deployment
    bundle: Bundle
    kernels: dict[str, Measured]

    @property
    def model(self) -> ModelSpec:
        """The model that was measured."""
        return self.deployment.model

    @property
    def device(self) -> DeviceSpec:
        """The device that it was measured on."""
        return self.deployment.device

    @property
    def degree(self) -> int:
        """Tensor-parallel degree."""
        return self.deployment.parallelism.tensor


def fit_bundle(bundle_dir: str | Path, model: ModelSpec | None = None, device: DeviceSpec | None = None) -> LatencyProfile:
    """Fit a bundle, all its tensor-parallel degrees.

    Args:
        bundle_dir: the folder that holds `meta.yaml`.
        model: measured model; looked up by the name in `meta.yaml` when None.
        device: measured device; likewise.

    Raises:
        SimjaxError: the folder is no bundle, or its device or model is unknown.
    """
    data = read_ranks(Path(bundle_dir), model, device)
    first = data[0]
    dtype = first.model.dtype
    gemm = solve([m for rank in data for m in _gemms(rank)], GEMM_START, SHARED + OWN, first.device, dtype)
    rows = solve([m for rank in data for m in _elementwise(rank)], ROWS_START, ROWS_SHARED + ROWS_OWN, first.device, dtype)
    ranks, errors = {}, {}
    for rank in data:
        ranks[rank.degree], errors[rank.degree] = _fit_rank(rank, gemm, rows)
    return LatencyProfile(
        device=first.device.name,
        model=first.model.name,
        dtype=dtype,
        ranks=ranks,
        host=HostOverheads(),
        valid=valid_range(first.bundle),
        provenance=_provenance([first], "fitted to measured kernel times of this model") | {"errors": errors},
        source=str(bundle_dir),
    )


def fit_generic(bundle_dirs: Sequence[str | Path]) -> LatencyProfile:
    """Coefficients for any model on the device of these bundles: one set of efficiencies per kind of operation, no kernel factors."""
    data = [rank for folder in bundle_dirs for rank in read_ranks(Path(folder))]
    device, dtype = data[0].device, data[0].model.dtype
    if any(rank.device != device for rank in data):
        raise SimjaxError(f"a generic profile needs bundles of one device, got {sorted({rank.device.name for rank in data})}")
    # What a mixture-of-experts layer holds besides its experts is small enough to stay in the cache while the profiler repeats the layer.
    dense = [rank for rank in data if not rank.model.is_moe] or data
    gemm = solve([m for rank in dense for m in _gemms(rank)], GEMM_START, SHARED + OWN, device, dtype)
    rows = [m for rank in data for m in _elementwise(rank)]
    ops = {
        "gemm": gemm,
        "lm_head": solve([rank.kernels["lm_head"] for rank in data], gemm, OWN, device, dtype),
        "elementwise": solve(rows, ROWS_START, ROWS_SHARED + ROWS_OWN, device, dtype),
        "sampler": solve([rank.kernels["sampler"] for rank in data], ROWS_START, ROWS_SHARED + ROWS_OWN, device, dtype),
    }
    experts = [_uncached(rank.kernels["moe"]) for rank in data if "moe" in rank.kernels and rank.degree == 1]
    # Without a measured mixture of experts its products are taken to be as efficient as the others.
    ops["experts"] = solve(experts, EXPERTS_START, SHARED + OWN, device, dtype) if experts else replace(gemm, floor_s=EXPERTS_FLOOR_S)
    efficiencies = [attention_efficiency(_fit_attention(rank)[0], rank.deployment) for rank in data]
    coefficients = RankCoefficients(ops=ops, attention=_mean_efficiency(efficiencies))
    errors = {f"{rank.model.name} tp{rank.degree}": _step_errors(rank, coefficients) for rank in data}
    return LatencyProfile(
        device=device.name,
        model=None,
        dtype=dtype,
        ranks={ANY_DEGREE: coefficients},
        host=HostOverheads(),
        valid=valid_range(data[0].bundle),
        provenance=_provenance([rank for rank in data if rank.degree == 1], "efficiencies fitted to measured kernel times of other models")
        | {"errors": errors},
        source="generic",
    )


def read_ranks(bundle_dir: Path, model: ModelSpec | None = None, device: DeviceSpec | None = None) -> list[RankData]:
    """Everything measured in a bundle, by rising tensor-parallel degree; arguments as of `fit_bundle`."""
    folders = sorted((p for p in bundle_dir.glob("tp*") if p.name[2:].isdecimal()), key=lambda p: int(p.name[2:]))
    if not folders:
        raise SimjaxError(f"{bundle_dir}: no tpN folder; give the folder of a bundle that holds meta.yaml")
    return [_read_rank(folder, model, device) for folder in folders]


def _read_rank(folder: Path, model: ModelSpec | None, device: DeviceSpec | None) -> RankData:
    bundle = read_bundle(folder)
    model = model or load_model(str(bundle.meta["model"]))
    device = device or load_device(str(bundle.meta["hardware"]))
    curves = bundle.dense | bundle.per_sequence
    kernels = {}
    for op in step_ops(model, bundle.tensor_parallel_size):
        if op.name in curves:
            kernels[op.name] = Measured(op, curves[op.name].size, curves[op.name].seconds)
    if bundle.moe is not None:
        # Measured on one rank only, whatever the degree.
        op = next(op for op in step_ops(model) if op.experts)
        kernels["moe"] = Measured(op, bundle.moe.tokens, bundle.moe.seconds, bundle.moe.activated)
    return RankData(Deployment(model, device, Parallelism(bundle.tensor_parallel_size)), bundle, kernels)


def _gemms(rank: RankData) -> list[Measured]:
    """Matrix products on two rows or more (one row takes another kernel), without experts and the output head."""
    chosen = [m for m in rank.kernels.values() if m.op.is_gemm and not m.op.experts and not m.op.per_sequence]
    return [m.select(m.rows > 1) for m in chosen]


def _elementwise(rank: RankData) -> list[Measured]:
    """Operations on rows that are single kernels over all of them: not the sampler, nor the gather of the embedding."""
    return [m for m in rank.kernels.values() if not m.op.is_gemm and m.op.name not in ("sampler", "embedding")]


def _uncached(m: Measured) -> Measured:
    assert m.distinct is not None
    return m.select(m.distinct * m.op.expert_bytes > CACHED_EXPERT_BYTES)


def _fit_rank(rank: RankData, gemm: OpEfficiency, rows: OpEfficiency) -> tuple[RankCoefficients, dict[str, Any]]:
    """Each operation's own coefficients, beginning from those that all operations of its kind share."""
    device, dtype = rank.device, rank.model.dtype
    ops, errors = {}, {}
    for name, m in rank.kernels.items():
        if m.op.experts:
            part = _uncached(m)
            ops[name] = solve([part], EXPERTS_START, SHARED + OWN, device, dtype)
            errors[name] = fit_errors(predict(part, ops[name], device, dtype), part.seconds)
            continue
        start, free = (gemm, OWN) if m.op.is_gemm else (rows, ROWS_OWN)
        if name == "sampler":  # many kernels with intermediate results of their own
            start, free = ROWS_START, ROWS_SHARED + ROWS_OWN
        base = solve([m.select(m.rows > 1)], start, free, device, dtype)
        ops[name] = with_kernel_factors(m, base, device, dtype)
        errors[name] = fit_errors(predict(m, ops[name], device, dtype), m.seconds)
    attention, errors["attention"] = _fit_attention(rank)
    coefficients = RankCoefficients(ops=ops, attention=attention)
    errors["step_without_attention"] = _step_errors(rank, coefficients)
    return coefficients, errors


def _fit_attention(rank: RankData) -> tuple[AttentionCoefficients, dict[str, Any]]:
    """Attention as servers use it: on contexts that the device holds in addition to the model, decoding a few sequences or more."""
    points, skew = rank.bundle.attention, rank.bundle.skew
    kept = (points.chunk > 0) | (points.decodes >= LEAST_DECODES)
    coefficients, errors = fit_attention(AttentionPoints(*(x[kept] for x in points)), kv_tokens(rank))
    if skew is not None:
        alone = skew.chunk == 0
        share = fit_decode_skew(skew.mean_s[alone], skew.longest_s[alone], skew.skewed_s[alone])
        coefficients = replace(coefficients, decode_skew=share)
    table = {
        f"{kind}_{name}_pct": round(100.0 * getattr(e, key), 2)
        for kind, e in errors.items()
        for name, key in (("median", "p50"), ("p90", "p90"))
    }
    return coefficients, table


def kv_tokens(rank: RankData) -> float:
    """Tokens of KV cache that fit in addition to the weights; a rank that does not fit at all was profiled for its shapes only."""
    free = GPU_MEMORY_UTILIZATION * rank.device.memory_bytes - weight_bytes(rank.model, rank.degree)
    tokens = free / kv_bytes_per_token(rank.model, rank.degree)
    return tokens if tokens > 0 else MOST_KV_TOKENS


def _step_errors(rank: RankData, coefficients: RankCoefficients) -> dict[str, float]:
    """Errors of the sum over a step of all operations that depend on the number of tokens only, experts and attention excepted."""
    parts = [m for m in rank.kernels.values() if not m.op.per_sequence and not m.op.experts]
    rows = parts[0].rows
    parts = [m for m in parts if len(m.rows) == len(rows) and np.all(m.rows == rows)]
    predicted = sum(m.op.count * predict(m, op_efficiency(coefficients, m.op, "fit"), rank.device, rank.model.dtype) for m in parts)
    return fit_errors(np.asarray(predicted), np.asarray(sum(m.op.count * m.seconds for m in parts)))


def _mean_efficiency(efficiencies: list[AttentionEfficiency]) -> AttentionEfficiency:
    """The geometric mean of each field."""
    values = {f.name: np.array([getattr(e, f.name) for e in efficiencies]) for f in fields(AttentionEfficiency)}
    return AttentionEfficiency(**{name: float(np.exp(np.mean(np.log(np.maximum(x, 1e-12))))) for name, x in values.items()})


def _provenance(data: list[RankData], kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "data": [
            f"{rank.bundle.meta['hardware']}/{rank.model.name}/{rank.bundle.meta['variant']} (LLMServingSim profile bundle)"
            for rank in data
        ],
        "measured": str(data[0].bundle.meta.get("profiled_at", "unknown"))[:10],
        "vllm_version": str(data[0].bundle.meta.get("vllm_version", "unknown")),
        "fitted": date.today().isoformat(),
    }
