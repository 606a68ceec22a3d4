"""Admission: which waiting requests join the running ones, first come first served."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.prefix_slots import Caching, Hits, grow, hits, nothing
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.rank import NEVER, Instance, Slots
from simjax.engine.routing.router import arrival_of
from simjax.engine.scheduler.running import Formation, capped
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, PrefixCache

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
    shape: EngineShape, params: ClusterParams, limits: RankParams, state: ClusterState, i: Array | int, e: Instance
) -> Waiting:
    """The next W waiting requests of instance i with its limits, whose engine is e."""
    w = jnp.arange(shape.window, dtype=jnp.int32)
    slots = jax.tree.map(lambda x: jax.lax.dynamic_slice(x, (e.n,), (shape.window,)), e.slots)
    resumed = w < e.parked
    place = e.head + jnp.maximum(w - e.parked, 0)
    listed = state.routes[i, place] if shape.listed else place
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
    limits: RankParams, e: Instance, f: Formation, waiting: Waiting, now_s: Array, horizon_s: Array, hits: Hits | None = None
) -> tuple[Instance, Formation]:
    """Take in waiting requests while tokens, seats and blocks last; nobody overtakes, and nobody is preempted for them.

    With prefix caching, when `hits` tells what the first of them finds, only that one: what the next finds depends on it.
    """
    W = waiting.request.shape[0]
    before = lambda x: jnp.cumsum(x) - x  # noqa: E731
    visible = waiting.exists & (waiting.queued_s <= horizon_s)
    cached = 0 if hits is None else jnp.where(jnp.arange(W) == 0, hits.found * limits.block_size, 0)
    shared = 0 if hits is None else jnp.where(jnp.arange(W) == 0, hits.shared, 0)
    need = jnp.where(waiting.passed, 0, capped(waiting.length - cached, limits))
    chunk = jnp.clip(f.budget - before(need), 0, need)
    blocks = blocks_of(cached + chunk, limits.block_size) - shared
    asked = jnp.where(limits.reserve_full_isl, blocks_of(waiting.length, limits.block_size) - shared, blocks)
    fits = f.blocks + before(blocks) + asked <= limits.num_blocks
    has_seat = f.seats + before((~waiting.passed).astype(jnp.int32)) < limits.max_num_seqs
    has_budget = (chunk > 0) & (limits.enable_chunked_prefill | (chunk == need))
    ok = visible & (waiting.passed | (has_budget & has_seat & fits)) & waiting.has_slot & (f.preempted == 0)
    if hits is not None:
        ok &= jnp.arange(W) == 0
    if f.waits is not None:
        ok &= ~f.waits
    ok = jnp.cumsum(~ok) == 0

    taken = ok & ~waiting.passed
    admitted = jnp.sum(ok, dtype=jnp.int32)
    seats = f.seats + jnp.sum(taken, dtype=jnp.int32)
    first_out = jnp.arange(W) == admitted
    too_big = jnp.any(first_out & visible & ~fits & (limits.reserve_full_isl | (chunk > 0)))
    goes_on = f.goes_on | jnp.all(ok) | jnp.any(first_out & ~waiting.has_slot)
    if hits is not None:
        goes_on |= ok[0] & visible[1]
    formation = dataclasses.replace(
        f,
        seats=seats,
        budget=f.budget - jnp.sum(jnp.where(taken, chunk, 0), dtype=jnp.int32),
        blocks=f.blocks + jnp.sum(jnp.where(taken, blocks, 0), dtype=jnp.int32),
        goes_on=goes_on,
        refused=jnp.any(first_out & visible),
        # Seats and blocks are only given back by finishing requests; a preemption or a held seat changes the picture a step later.
        hopeless=((seats >= limits.max_num_seqs) | too_big) & (f.preempted == 0) & ~f.held,
        next_queued_s=jnp.min(jnp.where(first_out & waiting.exists & ~visible, waiting.queued_s, NEVER)),
    )
    return _seated(e, waiting, taken, chunk, admitted, now_s, cached), formation


def admit_caching(
    shape: EngineShape,
    limits: RankParams,
    e: Instance,
    f: Formation,
    waiting: Waiting,
    now_s: Array,
    horizon_s: Array,
    caching: Caching,
    cache: PrefixCache,
) -> tuple[Instance, Formation, PrefixCache]:
    """The same for an engine with a prefix cache: the request that is taken in holds what it found there, and what it will compute."""
    wanted = waiting.exists[0] & ~waiting.passed[0]
    found = hits(shape, dataclasses.replace(caching, enabled=caching.enabled & wanted), cache, waiting.request[0], waiting.length[0])
    at, seats = e.n, f.seats
    # Materialised once: XLA would repeat the admission inside every array that is computed from it.
    e, f = jax.lax.optimization_barrier(admit_waiting(limits, e, f, waiting, now_s, horizon_s, found))
    cache, slots = grow(shape, caching, cache, e.slots, at, found.found, f.seats > seats)
    return dataclasses.replace(e, slots=slots), f, cache


def _seated(e: Instance, waiting: Waiting, taken: Array, chunk: Array, admitted: Array, now_s: Array, cached: Array | int) -> Instance:
    """The instance with the first `admitted` entries of the window among the running; those `taken` compute their first chunk."""
    old, fresh = waiting.slots, taken & ~waiting.resumed
    pick = lambda mask, new, before: jnp.where(mask, new, before).astype(before.dtype)  # noqa: E731
    holding = old.holding
    if holding is not None:
        empty = jax.tree.map(lambda new, before: pick(taken, new, before), nothing(holding), holding)
        holding = dataclasses.replace(empty, cached_tokens=pick(fresh, cached, holding.cached_tokens))
    window = Slots(
        request=pick(fresh, waiting.request, old.request),
        computed=pick(taken, cached, old.computed),
        target=pick(fresh, waiting.length, old.target),
        final=pick(fresh, waiting.final, old.final),
        new=pick(taken, chunk, old.new),
        preemptions=pick(fresh, 0, old.preemptions),
        scheduled_s=pick(fresh, now_s, old.scheduled_s),
        first_token_s=pick(fresh, NEVER, old.first_token_s),
        token_s=pick(fresh, NEVER, old.token_s),
        holding=holding,
        answered=None if old.answered is None else pick(fresh, False, old.answered),
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
