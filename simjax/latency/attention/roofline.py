"""Attention coefficients of any model on a device, from a few efficiencies that hardly depend on the model.

Coefficients fitted one by one to seven profiles of three models on two devices differ by up to 10 times between models of one device;
expressed as below they agree within a tenth or two (RTX PRO 6000: decodes reach 0.83 to 0.90 of the bandwidth, prefill 0.68 to 0.75 of the
peak, the start of a tile takes 220 to 330 keys, one key of a decode 1.08 to 1.14 keys of a tile).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from simjax.deployment import Deployment
from simjax.hardware import DeviceSpec
from simjax.latency.attention.coefficients import TILE, AttentionCoefficients
from simjax.latency.attention.windows import WindowedAttention
from simjax.model import ModelSpec, dtype_bytes, kv_bytes_per_token, shard, state_bytes_per_sequence
from simjax.model.mixers import Recurrent
from simjax.model.ops import attention_flops


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionEfficiency:
    """Efficiencies of attention on a device. "Keys" are multiples of the time a tile of queries needs for one key.

    Attributes:
        decode_floor_s: seconds per layer of a decode-only step.
        decode_sequence_s: seconds per layer and sequence.
        decode_bandwidth_efficiency: fraction of the memory bandwidth at which decodes read keys and values.
        decode_skew: see `AttentionCoefficients`.
        mixed_floor_s: seconds per layer of a step with a chunk.
        prefill_compute_efficiency: fraction of the peak FLOP/s of a tile that walks many keys.
        tile_keys: time to start a tile of queries, in keys.
        sequence_keys: time to start a decode in a mixed step, in keys.
        empty_keys: time of an empty block, in keys.
        mixed_decode_share: time of one key of a decode in a mixed step, in keys: about 1 where a decode fills a tile alone
            (FlashAttention 2), 0 where it only has to read its keys (kernels that split and pack decodes).
        longest_share: time of a lone block per key over that of an evenly loaded device with as many blocks as multiprocessors.
        spill_share: extra time of a key once the keys outgrow the cache, in keys.
        spill_tokens, spill_sequences: see `AttentionCoefficients`.
    """

    decode_floor_s: Any
    decode_sequence_s: Any
    decode_bandwidth_efficiency: Any
    decode_skew: Any
    mixed_floor_s: Any
    prefill_compute_efficiency: Any
    tile_keys: Any
    sequence_keys: Any
    empty_keys: Any
    mixed_decode_share: Any
    longest_share: Any
    spill_share: Any
    spill_tokens: Any
    spill_sequences: Any


def _windows(model: ModelSpec, degree: int) -> list[int]:
    """Windows of the layers that have one, those of sparse attention included."""
    return [x.window for mixer, _ in model.groups for x in mixer.readings(degree, 1) if x.window is not None]


class _Work(NamedTuple):
    """Attention of all layers of a kind on one rank: bytes of a KV token, seconds of a tile for a key, and of a decode for a key."""

    token_bytes: int
    tile_key_s: Any
    decode_key_s: Any


def _work(e: AttentionEfficiency, deployment: Deployment, windowed: bool) -> _Work:
    """Work in the layers that have a window, or in those that see all."""
    model, device, degree = deployment.part, deployment.device, deployment.parallelism.tensor
    element = dtype_bytes(deployment.kv_cache_dtype)
    readings = [
        (x, layers) for mixer, layers in model.groups for x in mixer.readings(degree, element) if (x.window is not None) == windowed
    ]
    peak = device.peak(model.dtype) * e.prefill_compute_efficiency
    return _Work(
        token_bytes=sum(layers * x.bytes for x, layers in readings),
        tile_key_s=TILE * sum(layers * x.prefill_flops for x, layers in readings) / peak,
        decode_key_s=sum(layers * x.decode_flops for x, layers in readings) / peak,
    )


def _read_s(e: AttentionEfficiency, work: _Work, device: DeviceSpec, xp: Any) -> Any:
    """Seconds in which a decode reads a key, or works on it if that takes longer: latent attention shares a latent among all heads."""
    read_s = work.token_bytes / (device.memory_bandwidth_bytes_per_s * e.decode_bandwidth_efficiency)
    return read_s if isinstance(work.decode_key_s, float | int) and not work.decode_key_s else xp.maximum(read_s, work.decode_key_s)


def attention_coefficients(e: AttentionEfficiency, deployment: Deployment, xp: Any = np) -> AttentionCoefficients:
    """Coefficients of all layers on one rank, scalars; xp is jax.numpy when the efficiencies are traced.

    Keys and values are read as they are stored (the deployment's `kv_cache_dtype`) and multiplied in the model's type. Of layers with a
    window the reading of keys is in `attention_of_windows`; layers with a state read and write it with every decode.
    """
    model, device, degree = deployment.part, deployment.device, deployment.parallelism.tensor
    layers, work = model.num_hidden_layers, _work(e, deployment, windowed=False)
    read_s, tile_key_s = _read_s(e, work, device, xp), work.tile_key_s
    start_s = tile_key_s + _work(e, deployment, windowed=True).tile_key_s if _windows(model, degree) else tile_key_s
    heads = shard(model, degree).heads
    found = AttentionCoefficients(
        decode_floor_s=layers * e.decode_floor_s,
        decode_sequence_s=layers * e.decode_sequence_s,
        decode_kv_s=read_s,
        decode_skew=e.decode_skew,
        mixed_floor_s=layers * e.mixed_floor_s,
        mixed_sequence_s=e.sequence_keys * start_s,
        mixed_kv_s=xp.maximum(e.mixed_decode_share * tile_key_s, read_s),
        chunk_tile_s=e.tile_keys * start_s,
        chunk_kv_s=tile_key_s,
        empty_tile_s=e.empty_keys * start_s,
        longest_s=e.longest_share * device.multiprocessors / heads * tile_key_s,
        spill_s=e.spill_share * tile_key_s,
        spill_tokens=e.spill_tokens,
        spill_sequences=e.spill_sequences,
    )
    return found if (state := state_bytes_per_sequence(model, degree)) == 0 else _with_states(found, state, e, deployment)


def _with_states(a: AttentionCoefficients, state_bytes: int, e: AttentionEfficiency, deployment: Deployment) -> AttentionCoefficients:
    """Coefficients with the recurrence: a decode reads and writes its state, a chunk works on it token by token."""
    model, device, degree = deployment.part, deployment.device, deployment.parallelism.tensor
    moved_s = 2 * state_bytes / (device.memory_bandwidth_bytes_per_s * e.decode_bandwidth_efficiency)
    flops = sum(layers * mixer.token_flops(degree) for mixer, layers in model.groups if isinstance(mixer, Recurrent))
    tile_s = TILE * flops / (device.peak(model.dtype) * e.prefill_compute_efficiency)
    return replace(
        a,
        decode_sequence_s=a.decode_sequence_s + moved_s,
        mixed_sequence_s=a.mixed_sequence_s + moved_s,
        chunk_tile_s=a.chunk_tile_s + tile_s,
    )


def attention_of_windows(e: AttentionEfficiency, deployment: Deployment, xp: Any = np) -> WindowedAttention | None:
    """Reading of keys in the layers that see a part of the context, all on one rank, scalars; None where there are none.

    Where their windows differ, all have the longest one.
    """
    model, device, degree = deployment.part, deployment.device, deployment.parallelism.tensor
    windows = _windows(model, degree)
    if not windows:
        return None
    work = _work(e, deployment, windowed=True)
    read_s = _read_s(e, work, device, xp)
    return WindowedAttention(
        window=float(max(windows)),
        decode_kv_s=read_s,
        mixed_kv_s=xp.maximum(e.mixed_decode_share * work.tile_key_s, read_s),
        chunk_kv_s=work.tile_key_s,
        longest_s=e.longest_share * device.multiprocessors / shard(model, degree).heads * work.tile_key_s,
    )


def attention_efficiency(a: AttentionCoefficients, deployment: Deployment) -> AttentionEfficiency:
    """The efficiencies that would give these coefficients of one layer: the inverse of `attention_coefficients`."""
    model, device, degree = deployment.model, deployment.device, deployment.parallelism.tensor
    layers = model.num_hidden_layers
    read_s = kv_bytes_per_token(model, degree) / layers / device.memory_bandwidth_bytes_per_s
    tile_key_s = TILE * attention_flops(model, degree) / layers / device.peak(model.dtype)
    lone = device.multiprocessors / shard(model, degree).heads * a.chunk_kv_s
    return AttentionEfficiency(
        decode_floor_s=a.decode_floor_s,
        decode_sequence_s=a.decode_sequence_s,
        decode_bandwidth_efficiency=read_s / a.decode_kv_s,
        decode_skew=a.decode_skew,
        mixed_floor_s=a.mixed_floor_s,
        prefill_compute_efficiency=tile_key_s / a.chunk_kv_s,
        tile_keys=a.chunk_tile_s / a.chunk_kv_s,
        sequence_keys=a.mixed_sequence_s / a.chunk_kv_s,
        empty_keys=a.empty_tile_s / a.chunk_kv_s,
        mixed_decode_share=a.mixed_kv_s / a.chunk_kv_s,
        longest_share=a.longest_s / lone,
        spill_share=a.spill_s / a.chunk_kv_s,
        spill_tokens=a.spill_tokens,
        spill_sequences=a.spill_sequences,
    )
