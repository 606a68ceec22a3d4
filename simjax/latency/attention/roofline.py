"""Attention coefficients of any model on a device, from a few efficiencies that hardly depend on the model.

Coefficients fitted one by one to seven profiles of three models on two devices differ by up to 10 times between models of one device;
expressed as below they agree within a tenth or two (RTX PRO 6000: decodes reach 0.83 to 0.90 of the bandwidth, prefill 0.68 to 0.75 of the
peak, the start of a tile takes 220 to 330 keys, one key of a decode 1.08 to 1.14 keys of a tile).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from simjax.deployment import Deployment
from simjax.latency.attention.coefficients import TILE, AttentionCoefficients
from simjax.model import kv_bytes_per_token, shard
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


def attention_coefficients(e: AttentionEfficiency, deployment: Deployment, xp: Any = np) -> AttentionCoefficients:
    """Coefficients of all layers on one rank, scalars; xp is jax.numpy when the efficiencies are traced.

    Keys and values are read as they are stored (the deployment's `kv_cache_dtype`) and multiplied in the model's type.
    """
    model, device, degree = deployment.part, deployment.device, deployment.parallelism.tensor
    layers = model.num_hidden_layers
    token_bytes = kv_bytes_per_token(model, degree, deployment.kv_cache_dtype)
    read_s = token_bytes / (device.memory_bandwidth_bytes_per_s * e.decode_bandwidth_efficiency)
    tile_key_s = TILE * attention_flops(model, degree) / (device.peak(model.dtype) * e.prefill_compute_efficiency)
    heads = shard(model, degree).heads
    return AttentionCoefficients(
        decode_floor_s=layers * e.decode_floor_s,
        decode_sequence_s=layers * e.decode_sequence_s,
        decode_kv_s=read_s,
        decode_skew=e.decode_skew,
        mixed_floor_s=layers * e.mixed_floor_s,
        mixed_sequence_s=e.sequence_keys * tile_key_s,
        mixed_kv_s=xp.maximum(e.mixed_decode_share * tile_key_s, read_s),
        chunk_tile_s=e.tile_keys * tile_key_s,
        chunk_kv_s=tile_key_s,
        empty_tile_s=e.empty_keys * tile_key_s,
        longest_s=e.longest_share * device.multiprocessors / heads * tile_key_s,
        spill_s=e.spill_share * tile_key_s,
        spill_tokens=e.spill_tokens,
        spill_sequences=e.spill_sequences,
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
