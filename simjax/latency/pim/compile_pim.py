"""Decode attention of one deployment on memory that computes."""

from __future__ import annotations

import math

from simjax.deployment import Deployment
from simjax.latency.pim.times import PimTimes
from simjax.latency.tables.lookups import row_of
from simjax.model.dtypes import dtype_bytes
from simjax.model.mixers import Attention
from simjax.placement.pim import QUERY_WIDTH


def queries_per_kv_head(deployment: Deployment) -> float:
    """Queries of a rank that read each KV head."""
    mixer, tensor = _mixer(deployment), deployment.parallelism.tensor
    return mixer.heads / tensor / mixer.kv_heads_of(tensor)


def pim_times(deployment: Deployment) -> PimTimes | None:
    """The times of a deployment (C = 1), None where attention is on the device. Call it inside `jax.enable_x64(True)`.

    A layer reads `kv bytes of a token x queries per KV head` at the internal bandwidth of the channels among which its KV heads are
    divided; its constant part goes with the width of its queries.
    """
    pim, layers = deployment.pim, deployment.part.num_hidden_layers
    if pim is None:
        return None
    mixer, tensor = _mixer(deployment), deployment.parallelism.tensor
    kv_heads, heads = mixer.kv_heads_of(tensor), mixer.heads // tensor
    element = dtype_bytes(deployment.kv_cache_dtype)
    pieces = min(pim.channels, kv_heads)
    read = mixer.cache_bytes(tensor, element) * queries_per_kv_head(deployment)
    width = heads * mixer.head_dim
    sent = (width + heads * mixer.values + kv_heads * (mixer.head_dim + mixer.values)) * deployment.model.dtype_bytes
    return PimTimes(
        on=row_of(True, bool),
        pieces=row_of(pieces),
        channels=row_of(pim.channels),
        token_s=row_of(layers * read / pim.device.internal_bandwidth_bytes_per_s / pieces),
        sequence_s=row_of(layers * pim.device.sequence_s * width / QUERY_WIDTH / pieces),
        send_s=row_of(0.0 if math.isinf(pim.link_bandwidth_bytes_per_s) else layers * sent / pim.link_bandwidth_bytes_per_s),
        interleaved=row_of(pim.interleaved, bool),
        prompts_only=row_of(True, bool) if pim.prompts_only else None,
    )


def bound(deployment: Deployment) -> str:
    """What bounds the gain of memory that computes, for every result that has some."""
    pim = deployment.pim
    assert pim is not None
    device, queries = pim.device, queries_per_kv_head(deployment)
    inside, outside = device.internal_bandwidth_bytes_per_s, device.bandwidth_bytes_per_s
    return (
        f"{device.name}: {inside / 1e9:.3g} GB/s inside a channel / {outside / 1e9:.3g} GB/s outside / {queries:g} query heads per KV "
        f"head = {device.gain(queries):.2g}, the most that decode attention gains over reading as many channels from outside"
    )


def _mixer(deployment: Deployment) -> Attention:
    (mixer, _), *_ = deployment.model.groups
    assert isinstance(mixer, Attention)
    return mixer
