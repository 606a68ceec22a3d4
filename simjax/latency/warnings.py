"""Ways in which a simulation leaves the range that a profile was measured or calibrated on: one line each, for the user."""

from __future__ import annotations

from simjax.caveat import Estimate
from simjax.deployment import Deployment
from simjax.latency.profiles.profile import LatencyProfile, Seen, ValidRange
from simjax.model import ModelSpec, same_architecture
from simjax.model.precision import format_named


def profile_warnings(profile: LatencyProfile, deployment: Deployment, max_tokens: int, max_sequences: int) -> list[str]:
    """One line for each way in which a simulation would leave the range that the profile was measured on, or calibrated on.

    How far the steps of a simulation go beyond the runs of a calibration is known after it only: see `simjax.validity.left`.

    Args:
        profile: where the step times come from.
        deployment: the model that runs, and how.
        max_tokens: most tokens of a step (`max_num_batched_tokens`).
        max_sequences: most sequences of a step (`max_num_seqs`).
    """
    lines, model, tensor_parallel_size = [], deployment.model, deployment.parallelism.tensor
    own, assumed = profile.own_ranks(model), deployment.device.assumed
    if assumed:
        lines.append(Estimate(f"device {deployment.device.name}: assumed, as its file does not state them: {' and '.join(assumed)}"))
    if profile.calibration is not None:
        lines += _not_seen(profile, profile.calibration.seen, model, tensor_parallel_size)
    elif tensor_parallel_size in own:
        pass
    elif profile.model is None:
        lines.append(Estimate(f"{profile.source}: coefficients for any model on {profile.device}, not measured for {model.name}"))
    if tensor_parallel_size not in {*profile.ranks, *own} and tensor_parallel_size > 1 and profile.calibration is None:
        lines.append(
            Estimate(f"{profile.source}: tensor_parallel_size={tensor_parallel_size} is extrapolated from single-rank efficiencies")
        )
    if model.dtype_bytes != 2:
        lines.append(f"{profile.source}: measured in {profile.dtype}, the model is {model.dtype}")
    if model.quantization is not None and not _measured_keys(model) & set(profile.rank(tensor_parallel_size, model).ops):
        taken = f"{model.quantization} matrix products are taken to be as efficient as {profile.dtype} ones"
        unpacked = f"{model.quantization} weights are taken to be read as efficiently as {profile.dtype} ones, and unpacked in no time"
        lines.append(Estimate(f"{profile.source}: {taken if model.computed_in else unpacked}"))
    return lines + range_warnings(profile.source, profile.valid, max_tokens, max_sequences)


def _measured_keys(model: ModelSpec) -> set[str]:
    """Names that a quantised model's operations may have in a profile where they were measured."""
    found = format_named(model.quantization or "")
    return {f"{kind}_{x}" for kind in (("gemm", "experts") if model.is_moe else ("gemm",)) for x in (found.kernels, found.compute) if x}


def _not_seen(profile: LatencyProfile, seen: Seen, model: ModelSpec, tensor_parallel_size: int) -> list[str]:
    """One line each, where the model or the degree took no part in the calibration."""
    lines = []
    foreign = profile.model is not None and not same_architecture(profile.model, model)  # which has a line of its own
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
        Estimate(f"{source}: {name}={most} exceeds the measured {bounds[1]}; larger steps are extrapolated")
        for name, most, bounds in limits
        if most > bounds[1]
    ]
