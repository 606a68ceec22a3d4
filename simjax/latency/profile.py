"""A latency profile: how well one device runs one model (or any), and its compilation to what the engine reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, LinkSpec
from simjax.latency.attention import AttentionCoefficients, scaled
from simjax.latency.attention_roofline import AttentionEfficiency, attention_coefficients
from simjax.latency.calibration import Calibration, Seen
from simjax.latency.collectives import all_reduce_s
from simjax.latency.cost import StepCost
from simjax.latency.efficiency import OpEfficiency, op_seconds
from simjax.latency.priors import CORRECTION_TOKENS
from simjax.model import ModelSpec, same_architecture
from simjax.model.ops import Op, step_ops

ANY_DEGREE = 0  # key of coefficients that hold for every tensor-parallel degree
ALL_REDUCES_PER_LAYER = 2  # after o_proj and after the MLP


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankCoefficients:
    """Coefficients of one rank at one tensor-parallel degree.

    Attributes:
        ops: by name of the operation or, for profiles of any model, by kind (`gemm`, `elementwise`, `experts`); `gemm_fp8` holds for
            matrix products of quantised models.
        attention: of one layer when it was fitted for the model, efficiencies otherwise.
        correction: factors f[len(CORRECTION_TOKENS)] on all work of a step that depends on its number of scheduled tokens only; see
            `step_correction`. Empty for none.
    """

    ops: dict[str, OpEfficiency]
    attention: AttentionCoefficients | AttentionEfficiency
    correction: Any = ()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HostOverheads:
    """Time that no kernel takes.

    Attributes:
        step_s: seconds per step that the host takes to schedule, launch and collect.
        layer_s: seconds per layer and step between kernels (launch gaps).
        sequence_s: seconds per step and scheduled sequence (input preparation, sampling, detokenisation).
        overlap: share of `step_s` that the device's work hides when scheduling is asynchronous.
        api_pre_s: seconds from the client's request until the engine queues it (HTTP, tokenisation).
        api_post_s: seconds from a token's step until the client has it.
    """

    step_s: Any = 0.0
    layer_s: Any = 0.0
    sequence_s: Any = 0.0
    overlap: Any = 0.0
    api_pre_s: Any = 0.0
    api_post_s: Any = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CollectiveEfficiency:
    """How the collectives of an instance compare with those of the link's data sheet.

    Attributes:
        bandwidth_efficiency: fraction of the link's bandwidth.
        latency_ratio: latency of a hop over that of the link.
    """

    bandwidth_efficiency: Any = 1.0
    latency_ratio: Any = 1.0

    def of(self, link: LinkSpec) -> LinkSpec:
        """The link as collectives see it."""
        return replace(
            link,
            bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * self.bandwidth_efficiency,
            latency_s=link.latency_s * self.latency_ratio,
        )


@dataclass(frozen=True)
class ValidRange:
    """Where the profile was measured: least and most tokens and sequences of a step, and context of a request."""

    tokens: tuple[int, int]
    sequences: tuple[int, int]
    context: tuple[int, int]


@dataclass(frozen=True)
class LatencyProfile:
    """Fitted or assumed coefficients and where they come from.

    Attributes:
        device: short name of the device.
        model: Hugging Face id, or None when the coefficients hold for any model.
        dtype: data type of weights and activations.
        ranks: coefficients by tensor-parallel degree, or under `ANY_DEGREE`.
        host: time outside the kernels.
        valid: where the profile was measured.
        provenance: data, date, engine version, fit error by degree and operation.
        source: the file it was read from, for messages.
        models: ranks of models that were measured on their own, by Hugging Face id; they go before `ranks`.
        collectives: how well ranks talk to each other.
        calibration: what a calibration to measured runs found, None without one.
    """

    device: str
    model: str | None
    dtype: str
    ranks: Mapping[int, RankCoefficients]
    host: HostOverheads
    valid: ValidRange
    provenance: Mapping[str, Any] = field(default_factory=dict)
    source: str = "profile"
    models: Mapping[str, Mapping[int, RankCoefficients]] = field(default_factory=dict)
    collectives: CollectiveEfficiency = field(default_factory=CollectiveEfficiency)
    calibration: Calibration | None = None

    def rank(self, tensor_parallel_size: int, model: ModelSpec | None = None) -> RankCoefficients:
        """The coefficients for a tensor-parallel degree: the model's own, where it was measured at that degree, before those of any model.

        Raises:
            SimjaxError: the profile was measured at other degrees only.
        """
        if model is not None:
            own = next((ranks for name, ranks in self.models.items() if same_architecture(name, model)), {})
            if tensor_parallel_size in own:
                return own[tensor_parallel_size]
        found = self.ranks.get(tensor_parallel_size, self.ranks.get(ANY_DEGREE))
        if found is None:
            known = ", ".join(str(degree) for degree in self.ranks)
            raise SimjaxError(
                f"{self.source}: profile for another tensor-parallel degree: asked for tensor_parallel_size={tensor_parallel_size}, "
                f"measured {known}; use one of those or a generic profile"
            )
        return found


def compile_profile(
    profile: LatencyProfile,
    model: ModelSpec,
    device: DeviceSpec,
    tensor_parallel_size: int = 1,
    link: LinkSpec | None = None,
    max_tokens: int = 2048,
    max_sequences: int = 256,
    xp: Any = np,
    kv_cache_dtype: str = "auto",
    async_scheduling: bool = True,
) -> StepCost:
    """The `StepCost` (C = 1) of one instance.

    Args:
        profile: the coefficients.
        model: what runs.
        device: on what.
        tensor_parallel_size: ranks of the instance.
        link: between the ranks; the device's own link within a node when None.
        max_tokens: most tokens of a step (`max_num_batched_tokens`).
        max_sequences: most sequences of a step (`max_num_seqs`).
        xp: numpy, or jax.numpy to take gradients with respect to the profile's coefficients.
        kv_cache_dtype: data type of keys and values, "auto" for the model's; only efficiencies know of it, coefficients fitted for the
            model were measured with the model's own.
        async_scheduling: whether the device's work hides the overlapping share of the host's.

    Raises:
        SimjaxError: the profile is for another model's operations or another degree, or the model cannot be divided so.
    """
    rank, host = profile.rank(tensor_parallel_size, model), profile.host
    ops = step_ops(model, tensor_parallel_size)
    # Float64 locally: importing or calling this must not change the user's global setting.
    with jax.enable_x64(True):
        tokens_s = _total_s([op for op in ops if not op.per_sequence], rank, profile, device, model.dtype, max_tokens, xp)
        if tensor_parallel_size > 1:
            message_bytes = np.arange(1, max_tokens + 1) * float(model.hidden_size * model.dtype_bytes)
            link = profile.collectives.of(link or device.node.intra_link)
            one_s = all_reduce_s(message_bytes, tensor_parallel_size, link, device.memory_bandwidth_bytes_per_s)
            tokens_s = tokens_s + ALL_REDUCES_PER_LAYER * model.num_hidden_layers * one_s
        tokens_s = tokens_s * step_correction(rank.correction, max_tokens, xp)
        sequences_s = _total_s([op for op in ops if op.per_sequence], rank, profile, device, model.dtype, max_sequences, xp)
        sequences_s = sequences_s + host.sequence_s * np.arange(1, max_sequences + 1)
        shown_s = host.step_s * (1.0 - host.overlap) if async_scheduling else host.step_s
        attention = _attention(rank, model, device, tensor_parallel_size, xp, kv_cache_dtype)
        return StepCost(
            tokens_s=_table(tokens_s),
            sequences_s=_table(sequences_s),
            host_s=jnp.asarray(shown_s + host.layer_s * model.num_hidden_layers, jnp.float64)[None],
            attention=jax.tree.map(lambda x: jnp.asarray(x, jnp.float64)[None], attention),
        )


def _table(seconds: Any) -> jax.Array:
    """Entry 0 is 0: a step of nothing takes no time."""
    return jnp.concatenate([jnp.zeros(1), jnp.asarray(seconds, jnp.float64)])[None]


def _total_s(ops: list[Op], rank: RankCoefficients, profile: LatencyProfile, device: DeviceSpec, dtype: str, most: int, xp: Any) -> Any:
    rows = np.arange(1, most + 1)
    return sum(op.count * op_seconds(op, op_efficiency(rank, op, profile.source), device, dtype, rows, xp) for op in ops)


def step_correction(factors: Any, most: int, xp: Any = np) -> Any:
    """What steps of 1 to `most` scheduled tokens take more than their parts do alone, f[most]; 1 without factors.

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
    """The coefficients of an operation: of its kind in its data type if that is not the model's own, else by its name, else by its kind."""
    names = (*([f"{op_kind(op)}_{op.dtype}"] if op.dtype else []), op.name, op_kind(op))
    found = next((rank.ops[name] for name in names if name in rank.ops), None)
    if found is None:
        raise SimjaxError(
            f"{source}: no coefficients for {op.name} (it has {', '.join(rank.ops)}); is the profile for another kind of model?"
        )
    return found


def _attention(
    rank: RankCoefficients, model: ModelSpec, device: DeviceSpec, tensor_parallel_size: int, xp: Any, kv_cache_dtype: str
) -> AttentionCoefficients:
    if isinstance(rank.attention, AttentionEfficiency):
        return attention_coefficients(rank.attention, model, device, tensor_parallel_size, xp, kv_cache_dtype)
    return scaled(rank.attention, model.num_hidden_layers)


def profile_warnings(
    profile: LatencyProfile, model: ModelSpec, tensor_parallel_size: int, max_tokens: int, max_sequences: int
) -> list[str]:
    """One line for each way in which a simulation would leave what the profile was measured on, or calibrated on.

    How far beyond the runs of a calibration the steps of a simulation go is known after it only: see `simjax.calibrate.domain`.
    """
    lines = []
    own = next((ranks for name, ranks in profile.models.items() if same_architecture(name, model)), {})
    if profile.calibration is not None:
        lines += _not_seen(profile, profile.calibration.seen, model, tensor_parallel_size)
    elif tensor_parallel_size in own:
        pass
    elif profile.model is None:
        lines.append(f"{profile.source}: coefficients for any model on {profile.device}, not measured for {model.name}")
    if tensor_parallel_size not in {*profile.ranks, *own} and tensor_parallel_size > 1 and profile.calibration is None:
        lines.append(f"{profile.source}: tensor_parallel_size={tensor_parallel_size} is extrapolated from single-rank efficiencies")
    if model.dtype_bytes != 2:
        lines.append(f"{profile.source}: measured in {profile.dtype}, the model is {model.dtype}")
    if model.quantization is not None and f"gemm_{model.quantization}" not in profile.rank(tensor_parallel_size, model).ops:
        lines.append(f"{profile.source}: {model.quantization} matrix products are taken to be as efficient as {profile.dtype} ones")
    return lines + range_warnings(profile.source, profile.valid, max_tokens, max_sequences)


def _not_seen(profile: LatencyProfile, seen: Seen, model: ModelSpec, tensor_parallel_size: int) -> list[str]:
    """One line each, where the model or the degree took no part in the calibration."""
    lines = []
    foreign = profile.model is not None and not same_architecture(profile.model, model)  # which is said anyway
    if not foreign and not any(same_architecture(name, model) for name in seen.models):
        lines.append(f"{profile.source}: calibrated on {', '.join(seen.models)}, used for {model.name}; intervals are widened")
    if tensor_parallel_size not in seen.tensor_parallel_sizes:
        known = ", ".join(map(str, seen.tensor_parallel_sizes))
        lines.append(
            f"{profile.source}: calibrated on tensor_parallel_size={known}, used for {tensor_parallel_size}; intervals are widened"
        )
    return lines


def range_warnings(source: str, valid: ValidRange, max_tokens: int, max_sequences: int) -> list[str]:
    """One line for each limit of a step that exceeds what was measured."""
    limits = (("max_num_batched_tokens", max_tokens, valid.tokens), ("max_num_seqs", max_sequences, valid.sequences))
    return [
        f"{source}: {name}={most} exceeds the measured {bounds[1]}; larger steps are extrapolated"
        for name, most, bounds in limits
        if most > bounds[1]
    ]
