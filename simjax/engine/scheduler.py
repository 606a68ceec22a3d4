"""The scheduler: vLLM V1's rules for which requests are in the next step, and with how many tokens.

Running requests come first, in admission order; if blocks run out the tail is preempted. Then waiting ones, first come first served. Both see
only what happened up to the `horizon`: later arrivals are not there yet, and requests that finished later still hold their seat and blocks.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.blocks import blocks_of
from simjax.engine.params import InstanceParams
from simjax.engine.reduce import reduce_slots
from simjax.engine.state import NEVER, Instance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Formation:
    """A step being formed; scalars.

    Attributes:
        budget: int32, tokens left of `max_num_batched_tokens`.
        seats: int32, requests that hold a seat.
        blocks: int32, blocks allocated once the step runs.
        preempted: int32, requests preempted in this formation.
        held: bool, whether a finished request still holds its seat and blocks.
        leaving: bool, whether a finished request is still in the slots, held or not.
        admitted: int32, waiting requests taken in.
        unfinished: bool, the window is used up or no slot is free: the formation goes on in the next tick.
        refused: bool, a waiting request is visible but stays out.
        hopeless: bool, and it, and any arrival, will stay out at least until a request finishes.
        next_queued_s: float64, when the next request, not visible yet, was or will be queued; infinity when none is known.
    """

    budget: Array
    seats: Array
    blocks: Array
    preempted: Array
    held: Array
    leaving: Array
    admitted: Array
    unfinished: Array
    refused: Array
    hopeless: Array
    next_queued_s: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """Never-admitted requests at the head of the queue, arrays over the W entries of the window.

    Attributes: request int32 (index), exists bool, queued_s float64, prompt and final int32 tokens.
    """

    request: Array
    exists: Array
    queued_s: Array
    prompt: Array
    final: Array


def capped(need: Array, limits: InstanceParams) -> Array:
    """Tokens a request may compute in one step under `long_prefill_token_threshold`."""
    threshold = limits.long_prefill_token_threshold
    return jnp.where(threshold > 0, jnp.minimum(need, threshold), need)


def schedule_running(limits: InstanceParams, e: Instance, horizon_s: Array) -> tuple[Instance, Formation]:
    """Give the running requests their tokens, and preempt from the tail what the blocks cannot hold.

    Every running request is in every step: what one needs never grows while it runs, except for the last one admitted, whose first chunk may
    have been cut to what was left of the budget. So only the last can be short of tokens.
    """
    s = e.slots
    position = jnp.arange(s.request.shape[0], dtype=jnp.int32)
    unfinished = s.target < s.final
    running = (position < e.n) & unfinished
    leaving = (position < e.n + e.parked) & ~unfinished
    held = leaving & (s.token_s > horizon_s)
    need = capped(jnp.where(running, s.target - s.computed, 0), limits)
    (total,), (last,), _ = reduce_slots([need], [jnp.where(running, position, 0)])
    short = jnp.maximum(total - limits.max_num_batched_tokens, 0)
    new = need - jnp.where(position == last, short, 0)
    blocks = jnp.where(running, blocks_of(s.computed + new, limits.block_size), 0)
    held_blocks = jnp.where(held, blocks_of(s.computed, limits.block_size), 0)
    (seats, all_held, any_leaving, used, used_held), _, _ = reduce_slots([running, held, leaving, blocks, held_blocks])
    e = dataclasses.replace(e, slots=dataclasses.replace(s, new=new))
    formation = Formation(
        budget=limits.max_num_batched_tokens - (total - short),
        seats=seats + all_held,
        blocks=used + used_held,
        preempted=jnp.zeros((), jnp.int32),
        held=all_held > 0,
        leaving=any_leaving > 0,
        admitted=jnp.zeros((), jnp.int32),
        unfinished=jnp.zeros((), bool),
        refused=jnp.zeros((), bool),
        hopeless=jnp.zeros((), bool),
        next_queued_s=jnp.full((), NEVER, jnp.float64),
    )
    return jax.lax.cond(formation.blocks > limits.num_blocks, preempt, lambda limits, e, f, *_: (e, f), limits, e, formation, running, blocks)


def preempt(limits: InstanceParams, e: Instance, f: Formation, running: Array, blocks: Array) -> tuple[Instance, Formation]:
    """Preempt from the tail until the others fit; `blocks` (int32[S+W]) are those of the running requests once the step runs.

    A victim frees only blocks of the tail, so the survivors are the longest prefix that fits beside the blocks of held requests.
    """
    s = e.slots
    position = jnp.arange(s.request.shape[0], dtype=jnp.int32)
    held_blocks = f.blocks - jnp.sum(blocks, dtype=jnp.int32)
    overflow = running & (jnp.cumsum(blocks) > limits.num_blocks - held_blocks)
    _, _, (n,) = reduce_slots(minima=[jnp.where(overflow, position, e.n)])
    victim = running & (position >= n)
    new = jnp.where(victim, 0, s.new)
    slots = dataclasses.replace(s, computed=jnp.where(victim, 0, s.computed), preemptions=s.preemptions + victim, new=new)
    (victims, freed, unspent), _, _ = reduce_slots([victim, jnp.where(victim, blocks, 0), jnp.where(victim, s.new, 0)])
    f = dataclasses.replace(f, budget=f.budget + unspent, seats=f.seats - victims, blocks=f.blocks - freed, preempted=victims)
    return dataclasses.replace(e, slots=slots, n=n, parked=e.parked + e.n - n), f


def admit_waiting(
    limits: InstanceParams, e: Instance, f: Formation, queue: Candidates, now_s: Array, horizon_s: Array, slots_free_to: int
) -> tuple[Instance, Formation]:
    """Take in waiting requests, preempted ones first, while tokens, seats and blocks last; nobody overtakes, nobody is preempted for them.

    `queue` lists never-admitted requests as if none were preempted: entry w - parked stands behind the preempted ones.
    """
    W = queue.request.shape[0]
    w = jnp.arange(W)
    window = jax.tree.map(lambda x: jax.lax.dynamic_slice(x, (e.n,), (W,)), e.slots)
    resumed = w < e.parked
    behind = lambda x: jnp.take(x, jnp.clip(w - e.parked, 0, W - 1))  # noqa: E731
    exists = resumed | behind(queue.exists)
    queued_s = jnp.where(resumed, -NEVER, behind(queue.queued_s))
    visible = exists & (queued_s <= horizon_s)
    length = jnp.where(resumed, window.target, behind(queue.prompt))
    final = jnp.where(resumed, window.final, behind(queue.final))
    passed = resumed & (window.target >= window.final)  # finished among the preempted: takes no seat, only its slot is passed by

    before = lambda x: jnp.cumsum(x) - x  # noqa: E731
    need = jnp.where(passed, 0, capped(length, limits))
    chunk = jnp.clip(f.budget - before(need), 0, need)
    chunk_blocks = blocks_of(chunk, limits.block_size)
    asked = jnp.where(limits.reserve_full_isl, blocks_of(length, limits.block_size), chunk_blocks)
    fits = f.blocks + before(chunk_blocks) + asked <= limits.num_blocks
    has_seat = f.seats + before((~passed).astype(jnp.int32)) < limits.max_num_seqs
    has_budget = (chunk > 0) & (limits.enable_chunked_prefill | (chunk == need))
    has_slot = e.n + w < slots_free_to
    ok = visible & (passed | (has_budget & has_seat & fits)) & has_slot & (f.preempted == 0)
    ok = jnp.cumsum(~ok) == 0

    taken = ok & ~passed
    n_ok = jnp.sum(ok, dtype=jnp.int32)
    from_parked = jnp.minimum(e.parked, n_ok)
    fresh = taken & ~resumed
    pick = lambda mask, new, old: jnp.where(mask, new, old).astype(old.dtype)  # noqa: E731
    written = dataclasses.replace(
        window,
        request=pick(fresh, behind(queue.request), window.request),
        computed=pick(taken, 0, window.computed),
        target=pick(fresh, length, window.target),
        final=pick(fresh, final, window.final),
        new=pick(taken, chunk, window.new),
        preemptions=pick(fresh, 0, window.preemptions),
        scheduled_s=pick(fresh, now_s, window.scheduled_s),
        first_token_s=pick(fresh, NEVER, window.first_token_s),
        token_s=pick(fresh, NEVER, window.token_s),
    )
    slots = jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice(x, part, (e.n,)), e.slots, written)

    seats = f.seats + jnp.sum(taken, dtype=jnp.int32)
    first_out = w == n_ok
    too_big = jnp.any(first_out & visible & ~fits & (limits.reserve_full_isl | (chunk > 0)))
    formation = dataclasses.replace(
        f,
        budget=f.budget - jnp.sum(jnp.where(taken, chunk, 0), dtype=jnp.int32),
        seats=seats,
        blocks=f.blocks + jnp.sum(jnp.where(taken, chunk_blocks, 0), dtype=jnp.int32),
        admitted=n_ok,
        unfinished=(n_ok == W) | (e.n + n_ok >= slots_free_to),
        refused=jnp.any(first_out & visible),
        # Seats and blocks are only given back by finishing requests; a preemption or a held seat changes the picture a step later.
        hopeless=((seats >= limits.max_num_seqs) | too_big) & (f.preempted == 0) & ~f.held,
        next_queued_s=jnp.min(jnp.where(first_out & exists & ~visible, queued_s, NEVER)),
    )
    e = dataclasses.replace(
        e,
        slots=slots,
        n=e.n + n_ok,
        parked=e.parked - from_parked,
        head=e.head + n_ok - from_parked,
        queued_tokens=e.queued_tokens - jnp.sum(jnp.where(fresh, length, 0), dtype=jnp.int64),
    )
    return e, formation
