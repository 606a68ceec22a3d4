"""Hand-overs from prefill to decode ranks. Legend: N ranks, L links, H links of a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

from simjax.engine.params.router import RouterParams

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadroomParams:
    """SGLang's admission to a decode rank; scalars.

    Attributes:
        tokens: tokens kept free for a prompt and for each active request; -1 (`NO_HEADROOM`) for a connector without that rule.
        most_new_tokens: tokens that a request is expected to generate at most.
    """

    tokens: Int32[Array, ""]
    most_new_tokens: Int32[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HandoverParams:
    """Hand-overs from prefill to decode ranks; pairs are [prefill rank, decode rank].

    Attributes:
        role: of each rank: 0 both phases, 1 prefill, 2 decode (`ROLES`).
        bytes_per_token: KV cache of a token on the way from one rank to another.
        setup_s, per_block_s: time of a transfer in addition to that of its bytes, and for each block.
        path: links between the ranks of a pair; the last link, of infinite capacity, fills the table.
        capacity: bytes per second that the transfers on a link get together.
        handover_s: time from the prefill's answer at the proxy to the request on its way to the decode rank.
        empty_pass_s: sleep of a rank that has requests and can run none.
        fifo: whether transfers have a link one after the other, not all at once in equal parts.
        decode_first: whether the decode rank is picked when the request arrives.
        local_prefill_tokens, local_prefill_ratio: bounds below which a prompt is prefilled by its decode rank.
        reserve, stream, carried: rule of the connector, see `simjax.cluster.disaggregation`.
        at_once: whether a request runs on its decode rank as soon as its prefill has ended, whatever seats and tokens are left there.
        layers: layers of each rank's model, which are sent one by one when `stream` says so.
        decode_router: rule by which decode ranks are picked.
        headroom: what decode ranks keep free beside what they reserve; None where no design has such a rule.
    """

    role: Int32[Array, " N"]
    bytes_per_token: Float64[Array, "N N"]
    setup_s: Float64[Array, "N N"]
    per_block_s: Float64[Array, "N N"]
    path: Int32[Array, "N N H"]
    capacity: Float64[Array, " L"]
    handover_s: Float64[Array, ""]
    empty_pass_s: Float64[Array, ""]
    fifo: Bool[Array, ""]
    decode_first: Bool[Array, ""]
    local_prefill_tokens: Float64[Array, ""]
    local_prefill_ratio: Float64[Array, ""]
    reserve: Int32[Array, ""]
    stream: Int32[Array, ""]
    carried: Bool[Array, ""]
    at_once: Bool[Array, ""]
    layers: Float64[Array, " N"]
    decode_router: RouterParams
    headroom: HeadroomParams | None = None
