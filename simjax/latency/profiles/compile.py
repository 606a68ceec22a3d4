"""Compile a latency profile for one deployment into a `StepTime`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np

from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec
from simjax.latency.attention.coefficients import AttentionCoefficients, scaled
from simjax.latency.attention.roofline import AttentionEfficiency, attention_coefficients, attention_of_windows
from simjax.latency.experts.load import ExpertLoad
from simjax.latency.experts.skew import skewed_load
from simjax.latency.fitting.efficiency import OpEfficiency, op_seconds
from simjax.latency.groups.union import UnionTerms, exchange_terms, knots, nothing, shares
from simjax.latency.priors import CORRECTION_TOKENS
from simjax.latency.profiles.profile import LatencyProfile, RankCoefficients
from simjax.latency.speculation.drafts import rows_of_head, with_drafts
from simjax.latency.step_time import StepTime
from simjax.latency.terms import ALL_REDUCES_PER_LAYER, StepTerms, assemble, layer_collectives_s
from simjax.model.ops import Op, on_union, step_ops
from simjax.placement.weights import EMBEDDING, NORM

EXPERTS_KERNELS = 5


def compile_profile(
    profile: LatencyProfile, deployment: Deployment, max_tokens: int = 2048, max_sequences: int = 256, xp: Any = np
) -> StepTime:
    """The `StepTime` (C = 1) of one deployment, or of one of its pp stages.

    Coefficients that were fitted for a model were measured with the model's own type of keys and values; only efficiencies take the
    deployment's `kv_cache_dtype` into account.

    Args:
        profile: the coefficients.
        deployment: model, device and how they are run.
        max_tokens: most tokens of a step (`max_num_batched_tokens`).
        max_sequences: most sequences of a step (`max_num_seqs`).
        xp: numpy, or jax.numpy to take gradients with respect to the profile's coefficients.

    Raises:
        SimjaxError: the profile is for another model's operations or another degree, the model cannot be divided so, or the deployment's
            parallelism is not simulated.
    """
    deployment.parallelism.require_simulated()
    model, degree = deployment.model, deployment.parallelism.tensor
    rank = profile.rank(degree, model)
    head_rows = rows_of_head(deployment, max_sequences)
    parallelism = deployment.parallelism
    ops = step_ops(deployment.part, degree, parallelism.expert, deployment.has_embedding, deployment.has_head, parallelism.data)
    of_tokens = [op for op in ops if not (op.per_sequence or (op.experts and deployment.exchanges))]
    # Float64 locally: importing or calling this must not change the user's global setting.
    with jax.enable_x64(True):
        load = skewed_load(deployment, np.arange(1, max_tokens + 1), profile.parallel.expert_skew)
        timed = partial(total_s, rank=rank, source=profile.source, device=deployment.device, dtype=model.dtype, xp=xp)
        terms = StepTerms(
            dense_s=timed(of_tokens, rows=np.arange(1, max_tokens + 1), load=load),
            layer_s=0.0,
            collectives_s=layer_collectives_s(deployment, max_tokens, profile.collectives),
            sequences_s=timed([op for op in ops if op.per_sequence], rows=head_rows) + np.zeros(max_sequences),
            attention=all_layers_attention(rank, deployment, xp),
            windows=attention_of_windows(rank.attention, deployment, xp) if isinstance(rank.attention, AttentionEfficiency) else None,
            host=profile.host,
            correction=step_correction(rank.correction, max_tokens, xp),
            kernels=kernels(ops, deployment),
            until_kv_s=timed(_until_kv(ops), rows=np.arange(1, max_tokens + 1)) if deployment.kv_stream else 0.0,
            union=_union(ops, deployment, timed, max_tokens, profile, xp),
            ends_s=_ends_s(of_tokens, timed, max_tokens) if deployment.weights is not None else (0.0, 0.0),
        )
        return assemble(with_drafts(terms, deployment, timed, partial(all_layers_attention, rank, xp=xp)), deployment)


def _union(
    ops: Sequence[Op], deployment: Deployment, timed: Callable[..., Any], max_tokens: int, profile: LatencyProfile, xp: Any = np
) -> UnionTerms | None:
    """The experts and the exchanges of a deployment whose ranks exchange tokens; None where they do nothing together."""
    if not deployment.exchanges:
        return nothing(deployment, max_tokens) if deployment.grouped else None
    tokens = knots(deployment.parallelism.data, max_tokens)
    experts = [on_union(op, deployment.model, *shares(deployment)) for op in ops if op.experts]
    experts_s = timed(experts, rows=tokens, load=skewed_load(deployment, tokens, profile.parallel.expert_skew))
    return UnionTerms(experts_s, *exchange_terms(deployment, max_tokens, profile.collectives, profile.parallel, xp))


def kernels(ops: Sequence[Op], deployment: Deployment) -> int:
    """Number of kernels in a step: its operations, writing to the KV cache and attention of each layer, and all-reduces between ranks.

    Matrix products in a data type other than the model's have their input converted first; experts are five kernels (router, sort, two
    grouped products, sum). Ranks that exchange tokens launch a dispatch and a combine in each of their layers.
    """
    of_ops = sum(op.count * (EXPERTS_KERNELS if op.experts else 1 + (op.dtype is not None)) for op in ops)
    all_reduces = ALL_REDUCES_PER_LAYER if deployment.parallelism.tensor > 1 else 0
    exchanges = 2 * deployment.part.num_moe_layers if deployment.exchanges else 0
    return of_ops + deployment.part.num_hidden_layers * (2 + all_reduces) + exchanges


def _ends_s(ops: Sequence[Op], timed: Callable[..., Any], max_tokens: int) -> tuple[Any, Any]:
    """Seconds of the embedding and of the last norm, f[max_tokens]; 0 of those that a pp stage does not have."""
    rows = np.arange(1, max_tokens + 1)
    first, last = (timed([op for op in ops if op.name == name], rows=rows) for name in (EMBEDDING, NORM))
    return first, last


def _until_kv(ops: Sequence[Op]) -> list[Op]:
    """The operations of a step up to the first layer's keys and values, its first matrix product, each once."""
    first = next(i for i, op in enumerate(ops) if op.is_gemm)
    return [replace(op, count=1) for op in ops[: 1 + first]]


def total_s(
    ops: Sequence[Op],
    rank: RankCoefficients,
    source: str,
    device: DeviceSpec,
    dtype: str,
    rows: np.ndarray,
    xp: Any,
    load: ExpertLoad | None = None,
) -> Any:
    """Seconds of all calls of some operations in steps with `rows` rows, f[N]; `source` is for messages, `load` that of the same rows."""

    def of(op: Op) -> Any:
        experts = {"distinct": load.distinct, "pairs": load.pairs} if op.experts and load is not None else {}
        return op_seconds(op, op_efficiency(rank, op, source), device, dtype, rows, xp, **experts)

    return sum(op.count * of(op) for op in ops)


def step_correction(factors: Any, most: int, xp: Any = np) -> Any:
    """Factor by which steps of 1 to `most` scheduled tokens take longer than the sum of their parts, f[most]; 1 without factors.

    The logarithm of the factor is linear in the logarithm of the tokens between those of `CORRECTION_TOKENS`, and stays as it is outside.
    """
    if len(factors) == 0:
        return 1.0
    known = np.log(CORRECTION_TOKENS)
    at = np.interp(np.log(np.arange(1, most + 1)), known, np.arange(len(known)))
    weights = np.maximum(1.0 - np.abs(at[:, None] - np.arange(len(known))), 0.0)
    return xp.exp(weights @ xp.log(xp.asarray(factors, dtype=float)))


def op_kind(op: Op) -> str:
    """The kind under which coefficients for any model are kept."""
    return "experts" if op.experts else "gemm" if op.is_gemm else "elementwise"


def op_efficiency(rank: RankCoefficients, op: Op, source: str) -> OpEfficiency:
    """The coefficients of an operation: of its kind with the kernels of its format, or in its data type if that is not the model's own,
    else by its name, else by its kind.
    """
    names = (*(f"{op_kind(op)}_{x}" for x in (op.kernels, op.dtype) if x), op.name, op_kind(op))
    found = next((rank.ops[name] for name in names if name in rank.ops), None)
    if found is None:
        raise SimjaxError(
            f"{source}: no coefficients for {op.name} (it has {', '.join(rank.ops)}); is the profile for another kind of model?"
        )
    return found


def all_layers_attention(rank: RankCoefficients, deployment: Deployment, xp: Any = np) -> AttentionCoefficients:
    """Coefficients of the attention of all layers, scalars; xp is jax.numpy when the rank's coefficients are traced."""
    if isinstance(rank.attention, AttentionEfficiency):
        return attention_coefficients(rank.attention, deployment, xp)
    return scaled(rank.attention, deployment.part.num_hidden_layers)
