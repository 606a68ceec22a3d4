"""Warnings about a simulated cluster: step times used outside the range that they were measured on, flags that vLLM would refuse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isclose

from simjax.cluster.spec import InstanceLimits, InstanceSpec
from simjax.deployment import Deployment
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.profile import LatencyProfile
from simjax.model import dtype_bytes, same_architecture


def foreign(profile: LatencyProfile, deployment: Deployment) -> list[str]:
    """One line each, where a profile that the user chose was measured on another device or another model."""
    lines, model, device = [], deployment.model, deployment.device
    if profile.device not in (device.name, *device.aliases):
        lines.append(f"{profile.source}: measured on {profile.device}, used for {device.name}")
    if profile.model is not None and not same_architecture(profile.model, model):
        lines.append(f"{profile.source}: measured for {profile.model}, used for {model.name}")
    return lines


def as_measured(source: str, subject: str, deployment: Deployment) -> list[str]:
    """One line for each property of a deployment that measured times do not follow.

    Args:
        source: where the times come from.
        subject: the part of a step whose times are in seconds, rather than fractions of what the device can do, with its verb.
        deployment: its device may differ from the shipped one of the same name, as cluster files state their own memory.
    """
    lines, model, device = [], deployment.model, deployment.device
    if dtype_bytes(deployment.kv_cache_dtype) != model.dtype_bytes:
        stored = f"kv_cache_dtype={deployment.kv_cache_dtype} changes the capacity of the KV cache only"
        lines.append(f"{source}: {stored}; its reads are timed as measured ({8 * model.dtype_bytes}-bit)")
    try:
        known = load_device(device.name).memory_bandwidth_bytes_per_s
    except SimjaxError:
        return lines
    given = device.memory_bandwidth_bytes_per_s
    if not isclose(given, known, rel_tol=1e-6):
        instead = f"{given / 1e9:g} GB/s of memory bandwidth instead of {device.name}'s {known / 1e9:g} GB/s"
        lines.append(f"{source}: {subject} timed as measured, whatever the {instead}")
    return lines


def beyond_context(measured: Iterable[tuple[str, int]], longest_tokens: int) -> list[str]:
    """One line for each source, given as (name, longest measured context), that the longest request of the workload exceeds."""
    return [
        f"{source}: the longest request has {longest_tokens} tokens, the longest measured context {context}; beyond it is extrapolated"
        for source, context in dict.fromkeys(measured)
        if longest_tokens > context
    ]


def refused_by_vllm(instances: Sequence[InstanceSpec]) -> list[str]:
    """One line for each combination of flags with which vLLM would not start, though it can be simulated.

    Limits left at their defaults cause no line: vLLM lowers its default `max_num_seqs` to the token budget by itself.
    """
    lines = []
    for one in {id(one): one for one in instances}.values():
        limits = one.limits
        if limits.max_model_len is not None:
            needed = -(-limits.max_model_len // limits.block_size)
            if needed > one.num_gpu_blocks:
                lines.append(
                    f"vLLM would not start: max_model_len={limits.max_model_len} needs {needed} KV blocks, {one.model.name} on "
                    f"{one.device.name} has {one.num_gpu_blocks}"
                )
        if limits.max_num_batched_tokens < limits.max_num_seqs != InstanceLimits.max_num_seqs:
            lines.append(
                f"vLLM would not start: max_num_batched_tokens={limits.max_num_batched_tokens} is less than "
                f"max_num_seqs={limits.max_num_seqs}"
            )
    return list(dict.fromkeys(lines))
