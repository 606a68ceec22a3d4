"""Effects of the parameters by which a profile is calibrated, whatever coefficients it holds; see `simjax.latency.priors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from simjax.deployment import Deployment
from simjax.errors import SimjaxError, closest
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.latency.priors import BACKEND_TIMES, STEP_CORRECTIONS, VLLM, parameter, split_name
from simjax.latency.profiles.profile import HostOverheads, LatencyProfile, ParallelEffects, RankCoefficients
from simjax.parallel.experts import LLMSERVINGSIM

# Operations that are no matrix products, and the kind that stands for them.
ROW_OPERATIONS = ("elementwise", "embedding", "layernorm", "qk_norm", "rotary_emb", "act_fn", "final_layernorm", "sampler")
_HOST = ("step_s", "layer_s", "sequence_s", "overlap", "api_pre_s", "api_post_s", "launch_s")
PARALLEL = tuple(field.name for field in fields(ParallelEffects))
"""Parameters of what several ranks, experts and drafts bring, which matter where a cluster has them: see `parallel_effects`."""
# Attention times that change with the factor, by kind of step.
_DECODE_S = ("decode_sequence_s", "decode_kv_s")
_MIXED_S = ("mixed_sequence_s", "mixed_kv_s", "chunk_tile_s", "chunk_kv_s", "empty_tile_s", "longest_s", "spill_s")
_FLOORS_S = ("decode_floor_s", "mixed_floor_s")


def present_value(profile: LatencyProfile, name: str) -> float:
    """The value of a parameter in a profile, 1 for a factor; 0 where the profile leaves it out."""
    plain, backend = split_name(name)
    if plain in _HOST:
        return float(getattr(profile.for_backend(backend or VLLM).host, plain))
    if name == "decode_skew":
        skews = [float(rank.attention.decode_skew) for rank in _all_ranks(profile)]
        return math.exp(sum(math.log(max(x, 1e-6)) for x in skews) / len(skews))
    return 1.0


def matters(profile: LatencyProfile, name: str) -> bool:
    """Whether a parameter can change any time of a profile: `launch_s` needs a host that takes time, `fp8_compute` fp8 products."""
    if name == "launch_s":
        return present_value(profile, name) > 0
    return name != "fp8_compute" or any(op.endswith("_fp8") for rank in _all_ranks(profile) for op in rank.ops)


def parallel_effects(deployment: Deployment) -> tuple[str, ...]:
    """The parameters of `PARALLEL` that can change a run of a deployment."""
    experts = deployment.parallelism.experts
    exchanging = deployment.exchanges and experts.all2all_backend != LLMSERVINGSIM
    uneven = deployment.model.is_moe and experts.popularity.varies and experts.all2all_backend != LLMSERVINGSIM
    there = {
        "exchange_bandwidth": exchanging,
        "exchange_latency": exchanging,
        "expert_skew": uneven,
        "draft_acceptance": deployment.speculation is not None,
    }
    return tuple(name for name in PARALLEL if there[name])


FP8_KERNELS = ("_fp8", "_fp8_block")


def with_parameters(profile: LatencyProfile, values: Mapping[str, Any]) -> LatencyProfile:
    """The profile with these parameters, floats or traced scalars: factors multiply what it has, other numbers replace it.

    Raises:
        SimjaxError: there is no such parameter, or a correction is for a model of which the profile has no ranks.
    """
    own = _own_corrections(profile, values)
    host = replace(profile.host, **{name: values[name] for name in _HOST if name in values})
    collectives = replace(
        profile.collectives,
        bandwidth_efficiency=profile.collectives.bandwidth_efficiency * values.get("collective_bandwidth", 1.0),
        latency_ratio=profile.collectives.latency_ratio * values.get("collective_latency", 1.0),
    )

    parallel = replace(profile.parallel, **{x: getattr(profile.parallel, x) * values[x] for x in PARALLEL if x in values})

    def changed(ranks: Mapping[int, RankCoefficients], model: str | None = None) -> dict[int, RankCoefficients]:
        return {degree: _corrected(_rank(rank, values), values, own.get(model, {})) for degree, rank in ranks.items()}

    return replace(
        profile,
        ranks=changed(profile.ranks),
        models={name: changed(ranks, name) for name, ranks in profile.models.items()},
        backend_ranks={name: changed(ranks) for name, ranks in profile.backend_ranks.items()},
        host=host,
        collectives=collectives,
        parallel=parallel,
        backends=_backends(profile, host, values),
    )


def _backends(profile: LatencyProfile, host: HostOverheads, values: Mapping[str, Any]) -> dict[str, HostOverheads]:
    """The host times of other backends, with the values of parameters that are theirs alone."""
    backends = dict(profile.backends)
    for name, value in values.items():
        plain, backend = split_name(name)
        if backend is not None and plain in BACKEND_TIMES:
            backends[backend] = replace(backends.get(backend, host), **{plain: value})
    return backends


def _own_corrections(profile: LatencyProfile, values: Mapping[str, Any]) -> dict[str | None, dict[str, Any]]:
    """The step corrections that models have for themselves, by model."""
    own: dict[str | None, dict[str, Any]] = {}
    for name, value in values.items():
        parameter(name)
        plain, model = split_name(name)
        if model is None or plain in BACKEND_TIMES:
            continue
        if model not in profile.models:
            known = closest(model, list(profile.models)) if profile.models else "it has coefficients for any model only"
            raise SimjaxError(f"{name}: {profile.source} has no coefficients of {model} for itself; {known}")
        own.setdefault(model, {})[plain] = value
    return own


def _corrected(rank: RankCoefficients, values: Mapping[str, Any], own: Mapping[str, Any]) -> RankCoefficients:
    if not any(name in values or name in own for name in STEP_CORRECTIONS):
        return rank
    known = rank.correction if len(rank.correction) else (1.0,) * len(STEP_CORRECTIONS)
    factors = [x * values.get(name, 1.0) * own.get(name, 1.0) for x, name in zip(known, STEP_CORRECTIONS, strict=True)]
    return replace(rank, correction=tuple(factors))


def _all_ranks(profile: LatencyProfile) -> list[RankCoefficients]:
    return [rank for ranks in (profile.ranks, *profile.models.values()) for rank in ranks.values()]


def _rank(rank: RankCoefficients, values: Mapping[str, Any]) -> RankCoefficients:
    get = lambda name: values.get(name, 1.0)
    ops = {name: _op(op, name in ROW_OPERATIONS, name.endswith(FP8_KERNELS), get) for name, op in rank.ops.items()}
    a = rank.attention
    floors = {name: getattr(a, name) * get("kernel_floor") for name in _FLOORS_S}
    skew = {"decode_skew": values["decode_skew"]} if "decode_skew" in values else {}
    if isinstance(a, AttentionEfficiency):
        attention = replace(
            a,
            decode_sequence_s=a.decode_sequence_s / get("decode_attention"),
            decode_bandwidth_efficiency=a.decode_bandwidth_efficiency * get("decode_attention"),
            prefill_compute_efficiency=a.prefill_compute_efficiency * get("prefill_attention"),
            **floors,
            **skew,
        )
        return replace(rank, ops=ops, attention=attention)
    assert isinstance(a, AttentionCoefficients)
    times = {name: getattr(a, name) / get("decode_attention") for name in _DECODE_S}
    times |= {name: getattr(a, name) / get("prefill_attention") for name in _MIXED_S}
    return replace(rank, ops=ops, attention=replace(a, **times, **floors, **skew))


def _op(op: OpEfficiency, moves_rows: bool, fp8: bool, get: Any) -> OpEfficiency:
    if moves_rows:
        return replace(
            op, bandwidth_efficiency=op.bandwidth_efficiency * get("elementwise_bandwidth"), floor_s=op.floor_s * get("kernel_floor")
        )
    return replace(
        op,
        bandwidth_efficiency=op.bandwidth_efficiency * get("gemm_bandwidth"),
        compute_efficiency=op.compute_efficiency * get("gemm_compute") * (get("fp8_compute") if fp8 else 1.0),
        tile_penalty=op.tile_penalty * get("gemm_tile"),
        floor_s=op.floor_s * get("kernel_floor"),
    )
