"""The head of a rank's queue: the next few waiting requests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import together
from simjax.engine.handover.legs import final_tokens, loads, routed_s
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Waiting:
    """The head of a rank's queue, arrays over the W entries of the window: preempted requests, then those never admitted.

    Attributes:
        slots: the slots from `num_running` on, where entry w is, or will be.
        resumed: the entry was preempted and is in its slot already.
        loads: its KV cache is loaded before it runs.
        passed: it finished nevertheless, with the step that it was in when it was preempted: only its slot is stepped over.
        exists, has_slot: there is such a request; there is a slot for it.
        queued_s: time at which it was, or will be, queued.
        request, num_tokens, final_tokens: its index, tokens to compute before its next output token, prompt plus output tokens.
    """

    slots: Slots
    resumed: Bool[Array, " W"]
    loads: Bool[Array, " W"]
    passed: Bool[Array, " W"]
    exists: Bool[Array, " W"]
    has_slot: Bool[Array, " W"]
    queued_s: Float64[Array, " W"]
    request: Int32[Array, " W"]
    num_tokens: Int32[Array, " W"]
    final_tokens: Int32[Array, " W"]


def seen_s(shape: EngineShape, turn: Turn) -> Float64[Array, ""]:
    """The formation sees requests that are queued up to this time: its horizon, or just before it where replies lead to requests."""
    replies = shape.clients > 0 or shape.fanout > 0
    return turn.before.passes.seen_s(turn.before.plan, turn.limits.async_scheduling) if replies else turn.horizon_s


def num_queued(shape: EngineShape, params: ClusterParams, turn: Turn) -> Int32[Array, ""]:
    """Requests never admitted that the formation sees in the rank's queue; 2 for more of them, int32[]."""
    place = turn.rank.head + jnp.arange(2, dtype=jnp.int32)
    listed = turn.state.routes[turn.i, place] if shape.has_routes else place
    at_s = queued_s(shape, params, turn, jnp.minimum(listed, shape.requests - 1))
    first, second = ((place < turn.rank.tail) & (at_s <= seen_s(shape, turn))).astype(jnp.int32)
    return first + second  # not a sum over them, which would be a kernel


def is_alone(shape: EngineShape, params: ClusterParams, turn: Turn) -> Bool[Array, ""]:
    """Whether `long_prefill_token_threshold` does not hold: by the release, and as the rank has one request at most, loads included."""
    rank = turn.rank
    admitted = rank.num_running + rank.num_preempted - turn.departed.left_behind
    requests = admitted + num_queued(shape, params, turn) + turn.state.handovers.num_waiting(turn.i)
    return turn.limits.long_prefill_alone & (requests <= 1)


def queued_s(shape: EngineShape, params: ClusterParams, turn: Turn, request: Int32[Array, " W"]) -> Float64[Array, " W"]:
    """Times at which requests of a list were, or will be, queued in the rank."""
    return routed_s(shape, params, turn, request, turn.state.arrivals.arrival_s(params, request)) + turn.limits.api_pre_s


def waiting_window(shape: EngineShape, params: ClusterParams, turn: Turn) -> Waiting:
    """The next W waiting requests of the rank."""
    state, rank = turn.state, turn.rank
    w = jnp.arange(shape.window, dtype=jnp.int32)
    slots = jax.tree.map(lambda x: jax.lax.dynamic_slice(x, (rank.num_running,), (shape.window,)), rank.slots)
    resumed = w < rank.num_preempted
    place = rank.head + jnp.maximum(w - rank.num_preempted, 0)
    listed = state.routes[turn.i, place] if shape.has_routes else place
    request = jnp.where(resumed, slots.request, jnp.minimum(listed, shape.requests - 1))
    known = jnp.minimum(request, shape.requests - 1)  # an unused slot holds no request's index
    prompt = params.request("prompt_tokens", known)
    at_s = queued_s(shape, params, turn, known)
    entries = together(
        Waiting(
            slots=None,  # pyright: ignore[reportArgumentType]
            resumed=resumed,
            loads=loads(shape, turn, known, resumed),
            passed=resumed & slots.finished,
            exists=resumed | (place < rank.tail),
            has_slot=rank.num_running + w < turn.limits.slots,
            queued_s=jnp.where(resumed, -NEVER, at_s),
            request=request,
            num_tokens=jnp.where(resumed, slots.num_tokens, state.progress.num_tokens(request, prompt)),
            final_tokens=final_tokens(shape, params, turn.i, prompt, params.request("output_tokens", known)),
        )
    )
    return dataclasses.replace(entries, slots=slots)
