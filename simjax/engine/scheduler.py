"""The scheduler: vLLM V1's rules for which requests are in the next step, and with how many tokens.

Running requests come first (here), in admission order; if blocks run out the tail is preempted. Then waiting ones (`admission`), first come
first served. Both see only what happened up to the `horizon`: later arrivals are not there yet, and requests that finished later still hold
their seat and blocks.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.blocks import blocks_of
from simjax.engine.params import InstanceParams
from simjax.engine.reduce import reduce_slots
from simjax.engine.seldom import seldom
from simjax.engine.state import NEVER, Instance

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Formation:
    """A step being formed; scalars.

    Attributes:
        budget: tokens left of `max_num_batched_tokens`.
        seats: requests that hold a seat.
        blocks: blocks allocated once the step runs.
        preempted: requests preempted in this formation.
        held: whether a finished request still holds its seat and blocks.
        leaving: whether a finished request is still in the slots, held or not.
        goes_on: the window is used up or no slot is free: the formation goes on in the next tick.
        refused: a waiting request is visible but stays out.
        hopeless: and it, and any arrival, will stay out at least until a request finishes.
        next_queued_s: when the next request, not visible yet, was or will be queued; infinity when none is known.
    """

    budget: Int32[Array, ""]
    seats: Int32[Array, ""]
    blocks: Int32[Array, ""]
    preempted: Int32[Array, ""]
    held: Bool[Array, ""]
    leaving: Bool[Array, ""]
    goes_on: Bool[Array, ""]
    refused: Bool[Array, ""]
    hopeless: Bool[Array, ""]
    next_queued_s: Float64[Array, ""]


def capped(need: Array, limits: InstanceParams) -> Array:
    """Tokens a request may compute in one step under `long_prefill_token_threshold`."""
    threshold = limits.long_prefill_token_threshold
    return jnp.where(threshold > 0, jnp.minimum(need, threshold), need)


def schedule_running(limits: InstanceParams, e: Instance, horizon_s: Array) -> tuple[Instance, Formation]:
    """Give the running requests their tokens, and preempt from the tail what the blocks cannot hold.

    Every running request is in every step: what one needs never grows while it runs, except for the last one admitted, whose first chunk
    may have been cut to what was left of the budget. So only the last can be short of tokens.
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
    blocks = jnp.where(running | held, blocks_of(s.computed + new, limits.block_size), 0)
    (seats, all_held, any_leaving, used), _, _ = reduce_slots([running, held, leaving, blocks])
    e = dataclasses.replace(e, slots=dataclasses.replace(s, new=new))
    formation = Formation(
        budget=limits.max_num_batched_tokens - (total - short),
        seats=seats + all_held,
        blocks=used,
        preempted=jnp.zeros((), jnp.int32),
        held=all_held > 0,
        leaving=any_leaving > 0,
        goes_on=jnp.zeros((), bool),
        refused=jnp.zeros((), bool),
        hopeless=jnp.zeros((), bool),
        next_queued_s=jnp.full((), NEVER, jnp.float64),
    )
    return preempt(limits, e, formation, running, blocks)


def preempt(limits: InstanceParams, e: Instance, f: Formation, running: Array, blocks: Array) -> tuple[Instance, Formation]:
    """Preempt from the tail what the KV cache cannot hold; `blocks` (int32[S+W]) are those of every request with a seat once the step runs.

    A victim frees only blocks of the tail, so the survivors are the longest prefix that fits. A request that finished unseen can be a
    victim like any other: its blocks are free for good, and the formation admits nobody, as after any preemption.
    """
    s = e.slots
    before = (s.computed, s.new, s.preemptions, e.n, e.parked, f.budget, f.seats, f.blocks, f.preempted)

    def evict(capacity: Array, running: Array, blocks: Array, *state: Array) -> tuple[Array, ...]:
        computed, new, preemptions, n, parked, budget, seats, _, _ = state
        position = jnp.arange(blocks.shape[0], dtype=jnp.int32)
        overflow = (blocks > 0) & (jnp.cumsum(blocks) > capacity)
        _, _, (stay,) = reduce_slots(minima=[jnp.where(overflow, position, n)])
        out = (blocks > 0) & (position >= stay)
        victim = running & out
        (gone, unspent, kept), _, _ = reduce_slots([out, jnp.where(victim, new, 0), jnp.where(out, 0, blocks)])
        computed, new = (jnp.where(victim, 0, x) for x in (computed, new))
        return computed, new, preemptions + victim, stay, parked + n - stay, budget + unspent, seats - gone, kept, gone

    nobody = lambda capacity, running, blocks, *state: state  # noqa: E731
    after = seldom(f.blocks > limits.num_blocks, evict, nobody, limits.num_blocks, running, blocks, *before)
    computed, new, preemptions, n, parked, budget, seats, held_blocks, gone = after
    f = dataclasses.replace(f, budget=budget, seats=seats, blocks=held_blocks, preempted=gone)
    slots = dataclasses.replace(s, computed=computed, new=new, preemptions=preemptions)
    return dataclasses.replace(e, slots=slots, n=n, parked=parked), f
