"""The scheduler: vLLM V1's rules for which requests are in the next step, and with how many tokens.

Running requests come first (here), in admission order; if blocks run out the tail is preempted. Then waiting ones (`admission`), first come
first served. Both see only what happened up to the `horizon`: later arrivals are not there yet, and requests that finished later still hold
their seat and blocks.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.prefix_slots import Caching, give_back_victims, grow, nothing, paid_blocks
from simjax.engine.params import RankParams
from simjax.engine.rank import NEVER, Instance, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.state import PrefixCache

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
        waits: finished requests must be let go, or answered, one a tick before the step can be formed.
        goes_on: it waits, the window is used up or no slot is free: the formation goes on in the next tick.
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
    waits: Bool[Array, ""] | None
    goes_on: Bool[Array, ""]
    refused: Bool[Array, ""]
    hopeless: Bool[Array, ""]
    next_queued_s: Float64[Array, ""]


def capped(need: Array, limits: RankParams) -> Array:
    """Tokens a request may compute in one step under `long_prefill_token_threshold`."""
    threshold = limits.long_prefill_token_threshold
    return jnp.where(threshold > 0, jnp.minimum(need, threshold), need)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Demand:
    """What the requests with a seat ask for; arrays over the slots.

    Attributes:
        running, seated: who runs; and who has a seat, the finished included whose finish has not been heard of.
        blocks: of each that is seated, once the step runs; with prefix caching without those in the tree of contents.
        last: slot of the last that runs, the only one that may be in the middle of its prompt.
    """

    running: Bool[Array, " A"]
    seated: Bool[Array, " A"]
    blocks: Int32[Array, " A"]
    last: Int32[Array, ""]


def schedule_running(
    limits: RankParams, e: Instance, horizon_s: Array, waits: Array | None = None, tree_blocks: Array | int = 0
) -> tuple[Instance, Formation, Demand]:
    """Give the running requests their tokens.

    Every running request is in every step: what one needs never grows while it runs, except for the last one admitted, whose first chunk
    may have been cut to what was left of the budget. So only the last can be short of tokens.

    Args:
        limits: of the engine.
        e: the engine.
        horizon_s: what the formation sees.
        waits: see `Formation`; None when it never does.
        tree_blocks: held blocks of the prefix cache's tree.
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
    blocks = blocks_of(s.computed + new, limits.block_size)
    if s.holding is not None:
        blocks -= s.holding.named
    blocks = jnp.where(running | held, blocks, 0)
    (seats, all_held, any_leaving, used), _, _ = reduce_slots([running, held, leaving, blocks])
    e = dataclasses.replace(e, slots=dataclasses.replace(s, new=new))
    formation = Formation(
        budget=limits.max_num_batched_tokens - (total - short),
        seats=seats + all_held,
        blocks=used + tree_blocks,
        preempted=jnp.zeros((), jnp.int32),
        held=all_held > 0,
        leaving=any_leaving > 0,
        waits=waits,
        goes_on=jnp.zeros((), bool) if waits is None else waits,
        refused=jnp.zeros((), bool),
        hopeless=jnp.zeros((), bool),
        next_queued_s=jnp.full((), NEVER, jnp.float64),
    )
    return e, formation, Demand(running, running | held, blocks, last)


def preempt(limits: RankParams, e: Instance, f: Formation, demand: Demand) -> tuple[Instance, Formation]:
    """Preempt from the tail what the KV cache cannot hold.

    A victim frees only blocks of the tail, so the survivors are the longest prefix that fits. A request that finished unseen can be a
    victim like any other: its blocks are free for good, and the formation admits nobody, as after any preemption.
    """
    nobody = lambda capacity, running, blocks, *state: state  # noqa: E731
    evict = lambda capacity, running, blocks, *state: _evict(capacity, running, blocks > 0, blocks, *state)  # noqa: E731
    state = cond_any(f.blocks > limits.num_blocks, evict, nobody, limits.num_blocks, demand.running, demand.blocks, *_before(e, f))
    return _after(e, f, state)


def preempt_caching(
    shape: EngineShape, limits: RankParams, e: Instance, f: Formation, demand: Demand, caching: Caching, cache: PrefixCache
) -> tuple[Instance, Formation, PrefixCache]:
    """The same with a prefix cache: what requests share comes free with the last of them, and what a victim held stays cached for now."""

    def evict(capacity: Array, running: Array, seated: Array, caching: Caching, cache: PrefixCache, slots: Slots, *state: Array) -> Any:
        return _evict(capacity, running, seated, paid_blocks(shape, caching, cache, slots, seated), *state)

    waits = jnp.zeros((), bool) if f.waits is None else f.waits
    nobody = lambda capacity, running, seated, caching, cache, slots, *state: state  # noqa: E731
    needed = (f.blocks > limits.num_blocks) & ~waits
    operands = (limits.num_blocks, demand.running, demand.seated, caching, cache, e.slots, *_before(e, f))
    state = cond_any(needed, evict, nobody, *operands)
    e_after, f = _after(e, f, state)
    cache = give_back_victims(shape, caching, cache, e.slots, demand.seated, e_after.n, e.n)
    slots, holding = e_after.slots, e.slots.holding
    assert holding is not None
    gone = jnp.arange(demand.seated.shape[0], dtype=jnp.int32) >= e_after.n
    empty = jax.tree.map(lambda x, none: jnp.where(gone, none, x), holding, nothing(holding))
    slots = dataclasses.replace(slots, computed=jnp.where(gone, 0, slots.computed), holding=empty)
    running = demand.running[demand.last] & ~waits
    cache, slots = grow(shape, caching, cache, slots, demand.last, jnp.zeros((), jnp.int32), running)
    return dataclasses.replace(e_after, slots=slots), f, cache


def _before(e: Instance, f: Formation) -> tuple[Array, ...]:
    """What a preemption changes."""
    return (e.slots.computed, e.slots.new, e.slots.preemptions, e.n, e.parked, f.budget, f.seats, f.blocks, f.preempted)


def _after(e: Instance, f: Formation, state: tuple[Array, ...]) -> tuple[Instance, Formation]:
    computed, new, preemptions, n, parked, budget, seats, blocks, gone = state
    f = dataclasses.replace(f, budget=budget, seats=seats, blocks=blocks, preempted=gone)
    slots = dataclasses.replace(e.slots, computed=computed, new=new, preemptions=preemptions)
    return dataclasses.replace(e, slots=slots, n=n, parked=parked), f


def _evict(capacity: Array, running: Array, seated: Array, blocks: Array, *state: Array) -> tuple[Array, ...]:
    """`_before` once those in the tail have left that do not fit; `blocks` (int32[S+W]) come free with each of them."""
    computed, new, preemptions, n, parked, budget, seats, _, _ = state
    position = jnp.arange(blocks.shape[0], dtype=jnp.int32)
    overflow = seated & (jnp.cumsum(blocks) > capacity)
    _, _, (stay,) = reduce_slots(minima=[jnp.where(overflow, position, n)])
    out = seated & (position >= stay)
    victim = running & out
    (gone, unspent, kept), _, _ = reduce_slots([out, jnp.where(victim, new, 0), jnp.where(out, 0, blocks)])
    computed, new = (jnp.where(victim, 0, x) for x in (computed, new))
    return computed, new, preemptions + victim, stay, parked + n - stay, budget + unspent, seats - gone, kept, gone
