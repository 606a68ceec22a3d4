"""Admission: which waiting requests join the running ones, first come first served."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.blocks import blocks_of
from simjax.engine.params import ClusterParams, InstanceParams
from simjax.engine.router import arrival_of
from simjax.engine.scheduler import Formation, capped
from simjax.engine.shape import EngineShape
from simjax.engine.state import NEVER, ClusterState, Instance, Slots

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Waiting:
    """The head of an instance's queue, arrays over the W entries of the window: preempted requests, then never-admitted ones.

    Attributes:
        slots: the slots from n on, where entry w is, or will be.
        resumed: the entry was preempted and is in its slot already.
        passed: it finished all the same, with the step it was in when it was preempted: only its slot is stepped over.
        exists, has_slot: there is such a request; there is a slot for it.
        queued_s: when it was, or will be, queued.
        request, length, final: its index, tokens to compute before its next output token, prompt plus output tokens.
    """

    slots: Slots
    resumed: Bool[Array, " W"]
    passed: Bool[Array, " W"]
    exists: Bool[Array, " W"]
    has_slot: Bool[Array, " W"]
    queued_s: Float64[Array, " W"]
    request: Int32[Array, " W"]
    length: Int32[Array, " W"]
    final: Int32[Array, " W"]


def waiting_window(
    shape: EngineShape, params: ClusterParams, limits: InstanceParams, state: ClusterState, i: Array | int, e: Instance
) -> Waiting:
    """The next W waiting requests of instance i with its limits, whose engine is e."""
    w = jnp.arange(shape.window, dtype=jnp.int32)
    slots = jax.tree.map(lambda x: jax.lax.dynamic_slice(x, (e.n,), (shape.window,)), e.slots)
    resumed = w < e.parked
    place = e.head + jnp.maximum(w - e.parked, 0)
    listed = state.routes[i, place] if shape.instances > 1 else place
    request = jnp.where(resumed, slots.request, jnp.minimum(listed, shape.requests - 1))
    known = jnp.minimum(request, shape.requests - 1)  # an unused slot holds no request's index
    prompt = params.request("prompt_tokens", known)
    queued_s = arrival_of(params, state, known) + limits.api_pre_s
    # Materialised once, not in each of its many readers.
    return jax.lax.optimization_barrier(
        Waiting(
            slots=slots,
            resumed=resumed,
            passed=resumed & (slots.target >= slots.final),
            exists=resumed | (place < e.tail),
            has_slot=e.n + w < limits.slots,
            queued_s=jnp.where(resumed, -NEVER, queued_s),
            request=request,
            length=jnp.where(resumed, slots.target, prompt),
            final=prompt + params.request("output_tokens", known),
        )
    )


def admit_waiting(
    limits: InstanceParams, e: Instance, f: Formation, waiting: Waiting, now_s: Array, horizon_s: Array
) -> tuple[Instance, Formation]:
    """Take in waiting requests while tokens, seats and blocks last; nobody overtakes, and nobody is preempted for them."""
    before = lambda x: jnp.cumsum(x) - x  # noqa: E731
    visible = waiting.exists & (waiting.queued_s <= horizon_s)
    need = jnp.where(waiting.passed, 0, capped(waiting.length, limits))
    chunk = jnp.clip(f.budget - before(need), 0, need)
    blocks = blocks_of(chunk, limits.block_size)
    asked = jnp.where(limits.reserve_full_isl, blocks_of(waiting.length, limits.block_size), blocks)
    fits = f.blocks + before(blocks) + asked <= limits.num_blocks
    has_seat = f.seats + before((~waiting.passed).astype(jnp.int32)) < limits.max_num_seqs
    has_budget = (chunk > 0) & (limits.enable_chunked_prefill | (chunk == need))
    ok = visible & (waiting.passed | (has_budget & has_seat & fits)) & waiting.has_slot & (f.preempted == 0)
    ok = jnp.cumsum(~ok) == 0

    taken = ok & ~waiting.passed
    admitted = jnp.sum(ok, dtype=jnp.int32)
    seats = f.seats + jnp.sum(taken, dtype=jnp.int32)
    first_out = jnp.arange(ok.shape[0]) == admitted
    too_big = jnp.any(first_out & visible & ~fits & (limits.reserve_full_isl | (chunk > 0)))
    formation = dataclasses.replace(
        f,
        seats=seats,
        budget=f.budget - jnp.sum(jnp.where(taken, chunk, 0), dtype=jnp.int32),
        blocks=f.blocks + jnp.sum(jnp.where(taken, blocks, 0), dtype=jnp.int32),
        goes_on=jnp.all(ok) | jnp.any(first_out & ~waiting.has_slot),
        refused=jnp.any(first_out & visible),
        # Seats and blocks are only given back by finishing requests; a preemption or a held seat changes the picture a step later.
        hopeless=((seats >= limits.max_num_seqs) | too_big) & (f.preempted == 0) & ~f.held,
        next_queued_s=jnp.min(jnp.where(first_out & waiting.exists & ~visible, waiting.queued_s, NEVER)),
    )
    return _seated(e, waiting, taken, chunk, admitted, now_s), formation


def _seated(e: Instance, waiting: Waiting, taken: Array, chunk: Array, admitted: Array, now_s: Array) -> Instance:
    """The instance with the first `admitted` entries of the window among the running; those `taken` compute their first chunk."""
    old, fresh = waiting.slots, taken & ~waiting.resumed
    pick = lambda mask, new, before: jnp.where(mask, new, before).astype(before.dtype)  # noqa: E731
    window = Slots(
        request=pick(fresh, waiting.request, old.request),
        computed=pick(taken, 0, old.computed),
        target=pick(fresh, waiting.length, old.target),
        final=pick(fresh, waiting.final, old.final),
        new=pick(taken, chunk, old.new),
        preemptions=pick(fresh, 0, old.preemptions),
        scheduled_s=pick(fresh, now_s, old.scheduled_s),
        first_token_s=pick(fresh, NEVER, old.first_token_s),
        token_s=pick(fresh, NEVER, old.token_s),
    )
    from_parked = jnp.minimum(e.parked, admitted)
    return dataclasses.replace(
        e,
        slots=jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice(x, part, (e.n,)), e.slots, window),
        n=e.n + admitted,
        parked=e.parked - from_parked,
        head=e.head + admitted - from_parked,
        queued_tokens=e.queued_tokens - jnp.sum(jnp.where(fresh, waiting.length, 0), dtype=jnp.int64),
    )
