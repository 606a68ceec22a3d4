"""Sizes of transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Stream
from simjax.engine.handover.rows import rules
from simjax.engine.handover.table import Handovers
from simjax.engine.params import ClusterParams
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32


def sizes(params: ClusterParams, table: Handovers, row: Int32[Array, ""]) -> tuple[Float64[Array, ""], Float64[Array, ""]]:
    """Bytes of a row's transfer, and those of them that are left when its prefill ends.

    What was sent while the prefill was under way is not left: layers go out one by one at the rate of the narrowest link, chunks as soon
    as they are computed; the last of them is left at least. That the links are shared meanwhile is not seen.
    """
    handover = rules(params)
    *pair, blocks, begin_s, end_s, last = table.read(row, "prefill", "decode", "moved_blocks", "scheduled_s", "finish_s", "last_tokens")
    pair = tuple(pair)
    bytes_of_token = handover.bytes_per_token[pair]
    whole = product((blocks * params.ranks.block_size[pair[1]]).astype(jnp.float64), bytes_of_token)
    sent = product(jnp.min(handover.capacity[handover.path[pair]]), end_s - begin_s)
    layers = jnp.maximum(whole / handover.layers[pair[0]], whole - sent)
    chunk = jnp.minimum(whole, product(last.astype(jnp.float64), bytes_of_token))
    streamed = jnp.where(handover.stream == Stream.LAYERS, layers, jnp.where(handover.stream == Stream.CHUNKS, chunk, whole))
    return whole, streamed
