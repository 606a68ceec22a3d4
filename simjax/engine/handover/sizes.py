"""Sizes of transfers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Stream
from simjax.engine.handover.rows import rules
from simjax.engine.handover.table import Handovers
from simjax.engine.params import ClusterParams
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32


class Size(NamedTuple):
    """A transfer: its prefill and decode rank, its bytes, and those of them that are left when its prefill ends; scalars."""

    pair: tuple[Int32[Array, ""], Int32[Array, ""]]
    whole_bytes: Float64[Array, ""]
    left_bytes: Float64[Array, ""]


def size_of(params: ClusterParams, table: Handovers, row: Int32[Array, ""]) -> Size:
    """The size of a row's transfer.

    What was sent while the prefill was under way is not left: layers go out one by one at the rate of the narrowest link, chunks as soon
    as they are computed; the last of them is left at least. That the links are shared meanwhile is not seen.
    """
    handover = rules(params)
    names = ("prefill", "decode", "moved_blocks", "scheduled_s", "finish_s", "last_tokens")
    prefill, decode, blocks, begin_s, end_s, last = table.read(row, *names)
    pair = prefill, decode
    bytes_of_token = handover.bytes_per_token[pair]
    whole = product((blocks * params.ranks.block_size[decode]).astype(jnp.float64), bytes_of_token)
    sent = product(jnp.min(handover.capacity[handover.path[pair]]), end_s - begin_s)
    layers = jnp.maximum(whole / handover.layers[prefill], whole - sent)
    chunk = jnp.minimum(whole, product(last.astype(jnp.float64), bytes_of_token))
    streamed = jnp.where(handover.stream == Stream.LAYERS, layers, jnp.where(handover.stream == Stream.CHUNKS, chunk, whole))
    return Size(pair, whole, streamed)
