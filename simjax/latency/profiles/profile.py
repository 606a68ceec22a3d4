"""The records of a latency profile: how well one device runs one model, or any model, and where that is known from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from simjax.errors import SimjaxError
from simjax.hardware import LinkSpec
from simjax.latency.attention.coefficients import AttentionCoefficients
from simjax.latency.attention.roofline import AttentionEfficiency
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.model import ModelSpec, same_architecture

Bounds = tuple[int, int]
ANY_DEGREE = 0  # key of coefficients that hold for every tensor-parallel degree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankCoefficients:
    """Coefficients of one rank at one tensor-parallel degree.

    Attributes:
        ops: efficiencies by name of the operation or, for profiles of any model, by kind (`gemm`, `elementwise`, `experts`); `gemm_fp8`
            holds for matrix products of quantised models.
        attention: coefficients of one layer when they were fitted for the model, efficiencies otherwise.
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
        api_pre_s: seconds from the client's request until the instance queues it (HTTP, tokenisation).
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
    """The collectives of an instance compared with the link's data sheet.

    Attributes:
        bandwidth_efficiency: fraction of the link's bandwidth.
        latency_ratio: latency of a hop over that of the link.
        hops: link latencies of an all-reduce, whatever the number of ranks (devices behind a switch); None for those of a ring.
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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ParallelEffects:
    """What several ranks, experts and drafts bring, compared with what the cluster and data sheets state; 1 as they state it.

    Attributes:
        exchange_bandwidth: bandwidth at which ranks exchange the tokens of their experts.
        exchange_latency: time of such an exchange whatever its size.
        expert_skew: power of the popularity of experts.
        draft_acceptance: length of runs of accepted drafts, see `accepted`.
    """

    exchange_bandwidth: Any = 1.0
    exchange_latency: Any = 1.0
    expert_skew: Any = 1.0
    draft_acceptance: Any = 1.0


def accepted(rates: Any, draft_acceptance: Any) -> Any:
    """Marginal acceptance rates of drafts where runs of accepted ones are so many times as long: they stay in [0, 1] and never rise.

    Where each draft is accepted with the same probability p, a run of them has -1/log p drafts, nearly; so p**(1/f) makes it f times as
    long, and the product of several of these is the product of their rates to the same power.
    """
    return rates ** (1.0 / draft_acceptance)


@dataclass(frozen=True)
class ValidRange:
    """The range that the profile was measured on: least and most tokens and sequences of a step, and context of a request."""

    tokens: Bounds
    sequences: Bounds
    context: Bounds


@dataclass(frozen=True)
class Seen:
    """The domain of a calibration: the least and the most that its runs held, their models and their degrees.

    Attributes:
        tokens, sequences: numbers scheduled in a step.
        context: tokens of a request, prompt and output.
        models: Hugging Face ids.
        tensor_parallel_sizes: tensor-parallel degrees.
    """

    tokens: Bounds
    sequences: Bounds
    context: Bounds
    models: tuple[str, ...]
    tensor_parallel_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Calibration:
    """The posterior of a profile's parameters around the values that the profile has.

    Attributes:
        parameters: names of `simjax.latency.parameters.PARAMETERS`.
        covariance: covariance of the transformed parameters (see `Parameter.transform`), in the same order.
        discrepancy: standard deviation of the logarithm of a step's time that no value of the parameters explains.
        seen: the domain of validity.
    """

    parameters: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    discrepancy: float
    seen: Seen


@dataclass(frozen=True)
class LatencyProfile:
    """Fitted or assumed coefficients and where they come from.

    Attributes:
        device: short name of the device.
        model: Hugging Face id, or None when the coefficients hold for any model.
        dtype: data type of weights and activations.
        ranks: coefficients by tensor-parallel degree, or under `ANY_DEGREE`.
        host: time outside the kernels.
        valid: range that it was measured on.
        provenance: data, date, vLLM version, fit error by degree and operation.
        source: the file it was read from, for messages.
        models: ranks of models that were measured on their own, by Hugging Face id; they go before `ranks`.
        collectives: efficiency of the communication between ranks.
        calibration: what a calibration to measured runs found, None without one.
        parallel: what several ranks, experts and drafts bring.
        backends: host times of backends other than vLLM (`simjax.latency.priors.OTHER_BACKENDS`), where they are known.
        backend_ranks: coefficients with the kernels of those backends, where they are known; `ranks` are those of vLLM.
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
    parallel: ParallelEffects = field(default_factory=ParallelEffects)
    backends: Mapping[str, HostOverheads] = field(default_factory=dict)
    backend_ranks: Mapping[str, Mapping[int, RankCoefficients]] = field(default_factory=dict)

    def for_backend(self, name: str) -> LatencyProfile:
        """The profile with the host times and the kernels of a backend, those of vLLM where they are not known."""
        return replace(self, host=self.backends.get(name, self.host), ranks=self.backend_ranks.get(name, self.ranks))

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
