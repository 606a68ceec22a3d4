"""A latency profile: how well one device runs one model (or any), and its compilation to what the engine reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simjax.errors import SimjaxError
from simjax.hardware import DeviceSpec, LinkSpec
from simjax.latency.attention.coefficients import AttentionCoefficients, scaled
from simjax.latency.attention.roofline import AttentionEfficiency, attention_coefficients
from simjax.latency.calibration import Calibration
from simjax.latency.fitting.efficiency import OpEfficiency, op_seconds
from simjax.latency.priors import CORRECTION_TOKENS
from simjax.latency.step_time import StepTime
from simjax.model import ModelSpec, same_architecture
from simjax.model.ops import Op, step_ops
from simjax.network.collectives import all_reduce_s

ANY_DEGREE = 0  # key of coefficients that hold for every tensor-parallel degree
ALL_REDUCES_PER_LAYER = 2  # after o_proj and after the MLP
EXPERTS_KERNELS = 5


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
        launch_s: seconds to launch one kernel. Counts in steps that no CUDA graph launches as a whole: they take as long as the device
            works or as the host launches, whichever is longer.
    """

    step_s: Any = 0.0
    layer_s: Any = 0.0
    sequence_s: Any = 0.0
    overlap: Any = 0.0
    api_pre_s: Any = 0.0
    api_post_s: Any = 0.0
    launch_s: Any = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CollectiveEfficiency:
    """How the collectives of an instance compare with those of the link's data sheet.

    Attributes:
        bandwidth_efficiency: fraction of the link's bandwidth.
        latency_ratio: latency of a hop over that of the link.
        hops: of an all-reduce, whatever the number of ranks (devices behind a switch); None for those of a ring.
    """

    bandwidth_efficiency: Any = 1.0
    latency_ratio: Any = 1.0
    hops: Any = None

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
        engines: host times of engines other than vLLM (`simjax.latency.priors.OTHER_ENGINES`), where they are known.
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
    engines: Mapping[str, HostOverheads] = field(default_factory=dict)

    def of_engine(self, name: str) -> LatencyProfile:
        """The profile with the host times of an engine, those of vLLM where they are not known."""
        return replace(self, host=self.engines.get(name, self.host))

    def own_ranks(self, model: ModelSpec) -> Mapping[int, RankCoefficients]:
        """The coefficients of a model that was measured on its own, by degree; empty for any other."""
        return next((ranks for name, ranks in self.models.items() if same_architecture(name, model)), {})

    def rank(self, tensor_parallel_size: int, model: ModelSpec | None = None) -> RankCoefficients:
        """The coefficients for a tensor-parallel degree: the model's own, where it was measured at that degree, before those of any model.

        Raises:
            SimjaxError: the profile was measured at other degrees only.
        """
        own = {} if model is None else self.own_ranks(model)
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
    launches: tuple[bool, bool] = (False, False),
) -> StepTime:
    """The `StepTime` (C = 1) of one instance.

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
        launches: whether the host launches the kernels one by one, of decode-only steps and of steps with a prompt.

    Raises:
        SimjaxError: the profile is for another model's operations or another degree, or the model cannot be divided so.
    """
    rank, host = profile.rank(tensor_parallel_size, model), profile.host
    ops = step_ops(model, tensor_parallel_size)
    # Float64 locally: importing or calling this must not change the user's global setting.
    with jax.enable_x64(True):
        timed = partial(total_s, rank=rank, source=profile.source, device=device, dtype=model.dtype, xp=xp)
        tokens_s = timed([op for op in ops if not op.per_sequence], rows=np.arange(1, max_tokens + 1))
        if tensor_parallel_size > 1:
            message_bytes = np.arange(1, max_tokens + 1) * float(model.hidden_size * model.dtype_bytes)
            link = profile.collectives.of(link or device.node.intra_link)
            memory, hops = device.memory_bandwidth_bytes_per_s, profile.collectives.hops
            one_s = all_reduce_s(message_bytes, tensor_parallel_size, link, memory, hops)
            tokens_s = tokens_s + ALL_REDUCES_PER_LAYER * model.num_hidden_layers * one_s
        tokens_s = tokens_s * step_correction(rank.correction, max_tokens, xp)
        sequences_s = timed([op for op in ops if op.per_sequence], rows=np.arange(1, max_sequences + 1))
        sequences_s = sequences_s + host.sequence_s * np.arange(1, max_sequences + 1)
        shown_s = host.step_s * (1.0 - host.overlap) if async_scheduling else host.step_s
        attention = stack_attention(rank, model, device, tensor_parallel_size, xp, kv_cache_dtype)
        return StepTime(
            tokens_s=_table(tokens_s),
            sequences_s=_table(sequences_s),
            host_s=jnp.asarray(shown_s + host.layer_s * model.num_hidden_layers, jnp.float64)[None],
            attention=jax.tree.map(lambda x: jnp.asarray(x, jnp.float64)[None], attention),
            launch_s=_launch_s(host, kernels(ops, model, tensor_parallel_size), shown_s, launches),
        )


def kernels(ops: Sequence[Op], model: ModelSpec, tensor_parallel_size: int) -> int:
    """Kernels of a step: its operations, writing to the KV cache and attention of each layer, and all-reduces between ranks.

    Matrix products in a data type other than the model's have their input converted first; experts are five kernels (router, sort, two
    grouped products, sum).
    """
    of_ops = sum(op.count * (EXPERTS_KERNELS if op.experts else 1 + (op.dtype is not None)) for op in ops)
    return of_ops + model.num_hidden_layers * (2 + (ALL_REDUCES_PER_LAYER if tensor_parallel_size > 1 else 0))


def _launch_s(host: HostOverheads, count: int, shown_s: Any, launches: tuple[bool, bool]) -> jax.Array | None:
    """`StepTime.launch_s`; None where nothing is launched one by one, or launching takes no time."""
    if not any(launches) or (isinstance(host.launch_s, float | int) and host.launch_s == 0):
        return None
    least_s = jnp.asarray(host.launch_s * count + shown_s, jnp.float64)
    return (least_s * jnp.asarray(launches, jnp.float64))[None]


def _table(seconds: Any) -> jax.Array:
    """Entry 0 is 0: a step of nothing takes no time."""
    return jnp.concatenate([jnp.zeros(1), jnp.asarray(seconds, jnp.float64)])[None]


def total_s(ops: Sequence[Op], rank: RankCoefficients, source: str, device: DeviceSpec, dtype: str, rows: np.ndarray, xp: Any) -> Any:
    """Seconds of all calls of some operations in a step with so many rows, f[N]; `source` is for messages."""
    return sum(op.count * op_seconds(op, op_efficiency(rank, op, source), device, dtype, rows, xp) for op in ops)


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


def stack_attention(
    rank: RankCoefficients, model: ModelSpec, device: DeviceSpec, tensor_parallel_size: int, xp: Any = np, kv_cache_dtype: str = "auto"
) -> AttentionCoefficients:
    """Attention of the whole stack; arguments as of `compile_profile`."""
    if isinstance(rank.attention, AttentionEfficiency):
        return attention_coefficients(rank.attention, model, device, tensor_parallel_size, xp, kv_cache_dtype)
    return scaled(rank.attention, model.num_hidden_layers)
