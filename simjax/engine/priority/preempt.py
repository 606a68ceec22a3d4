"""Preemption by priority: the least urgent of the running requests leaves, wherever it is, and goes back into the queue.

vLLM gives the running requests their tokens in the order of their admission. One for which there is no block preempts the least urgent of
all, also one that has its tokens of the step already, which go back to the budget; until there is a block, or it was the victim itself.

With a prefix cache a victim frees what it holds, also blocks that it has taken and named in this very scan, before the next request asks.

Releases differ in what follows. After a request has preempted itself, 0.33 goes on with the next, others give nobody tokens any more. And
where a victim was passed over before (it had its last token in flight, or was left out likewise), releases before 0.28 forget that the
list has become shorter, and the request after the one that preempted it is left out.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import INT32_MAX, reduce_slots
from simjax.engine.control.while_any import while_any
from simjax.engine.kv.victims import Victim
from simjax.engine.params import ClusterParams
from simjax.engine.priority.order import keys_of, last_of
from simjax.engine.priority.progress import Progress, kept_rows
from simjax.engine.priority.scan import (
    Lookahead,
    NoLookahead,
    Scan,
    ScannedRank,
    blocks_asked,
    blocks_before,
    first_short,
    used_before,
    used_blocks,
)
from simjax.engine.rank import Slots
from simjax.engine.scheduler.formation import capped
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import Drafts
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool


def preempt_by_priority(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Preempt the least urgent requests until the KV cache holds the step. One that has finished unseen can be a victim like any other."""
    rank, slots, limits, f, state = turn.rank, turn.rank.slots, turn.limits, turn.formation, turn.state
    assert isinstance(state.progress, Progress) and rank.requeued is not None
    need = capped(slots.num_tokens - slots.num_computed_tokens, limits, f.alone)
    computed, lookahead = slots.num_computed_tokens, NoLookahead()
    if shape.speculation:
        assert turn.demand.computed is not None
        computed, had = turn.demand.computed, turn.demand.had.own(slots, limits.block_size) + slots.held.hashed
        lookahead = Lookahead(had, jnp.asarray(params.speculation.lookahead(turn.i)), limits.max_model_len)
    fixed = ScannedRank(
        computed=computed,
        lookahead=lookahead,
        ended=slots.finished,
        last=turn.demand.last,
        last_need=need[turn.demand.last],
        rows=kept_rows(slots),
        keys=keys_of(params, state.arrivals, limits, jnp.minimum(slots.request, shape.requests - 1)),
        i=jnp.asarray(turn.i, jnp.int32),
        head=rank.head,
        capacity=jnp.where(turn.waits, INT32_MAX, limits.num_blocks),
        max_num_batched_tokens=limits.max_num_batched_tokens,
        block_size=limits.block_size,
        goes_on=jnp.asarray(limits.goes_on),
        leaves_out=jnp.asarray(limits.leaves_out),
        row=jnp.asarray(turn.kv_row, jnp.int32),
        scanned=turn.kv.scanned(params, turn),
    )
    zero = jnp.zeros((), jnp.int32)
    lists = turn.demand.need, state.routes, state.progress.table, state.kv, slots.held
    scan = Scan(turn.demand.seated, slots.num_new_tokens, zero - 1, zero, zero, *lists)
    scan = while_any(_more, _next, scan, fixed)
    out = turn.demand.seated & ~scan.stays
    slots = dataclasses.replace(slots, held=scan.held)
    has = blocks_asked(fixed, scan.new)
    if isinstance(slots.drafts, Drafts):
        drafts = dataclasses.replace(slots.drafts, blocks=jnp.where(scan.stays & ~turn.waits, has, slots.drafts.blocks))
        slots = dataclasses.replace(slots, drafts=drafts)
    blocks = jnp.where(scan.stays, has - slots.held.hashed, 0)
    (num_out, unseen, given, kept), _, _ = reduce_slots([out, out & slots.finished, scan.new, blocks])
    vain = (out & slots.finished).astype(jnp.int32)  # those that go back into the queue are counted in their `Progress`
    slots = dataclasses.replace(slots, num_new_tokens=scan.new, preemptions=slots.preemptions + vain)
    slots = cond_any(num_out > 0, _close_gaps, lambda slots, stays, unseen: slots, slots, scan.stays, out & slots.finished)
    tokens = jnp.sum(jnp.where(out & ~fixed.ended, fixed.rows[:, 0], 0.0)).astype(jnp.int64)
    rank = dataclasses.replace(
        rank,
        slots=slots,
        num_running=rank.num_running - num_out,
        num_preempted=rank.num_preempted + unseen,
        head=rank.head - scan.requeued,
        requeued=rank.requeued + scan.requeued,
        queued_tokens=rank.queued_tokens + tokens,
    )
    formation = dataclasses.replace(
        f,
        token_budget=jnp.where(turn.waits, f.token_budget, limits.max_num_batched_tokens - given),
        seats=f.seats - num_out,
        blocks=kept + scan.kv.num_held(turn.kv_row),
        preempted=num_out,
        leaving=f.leaving | (num_out > 0),  # if nobody has tokens, the rank forms a step anew and does not wait for an arrival
    )
    # Those that stay are the first ones again.
    demand = dataclasses.replace(turn.demand, seated=slots.position < rank.num_running) if shape.prefix_nodes else turn.demand
    turn = turn.with_state(routes=scan.routes, progress=Progress(scan.table), kv=scan.kv)
    turn = dataclasses.replace(turn, rank=rank, formation=formation, demand=demand)
    return turn.kv.after_preemption(shape, params, turn)


def _more(scan: Scan, fixed: ScannedRank) -> Bool[Array, ""]:
    return (first_short(scan, fixed) < scan.new.shape[0]) | (scan.short > 0)


def _next(scan: Scan, fixed: ScannedRank) -> Scan:
    """The scan after one more victim, or once those are left out that the cursor jumps over."""
    size, first = scan.new.shape[0], first_short(scan, fixed)
    position = jnp.arange(size, dtype=jnp.int32)
    jumps = (scan.short > 0) & (first > scan.at)  # there is a block for the request at `at`: the cursor moves on
    behind = scan.stays & (position > scan.at)
    jumped = jumps & behind & (jnp.cumsum(behind, dtype=jnp.int32) <= scan.short)
    evicts = ~jumps & (first < size)
    victim = last_of(fixed.keys, scan.stays) & evicts
    of = jnp.min(jnp.where(victim, position, size))
    passed = evicts & (of < first) & (jnp.sum(jnp.where(victim, scan.new, 0)) == 0)
    ends = evicts & (of == first) & ~fixed.goes_on
    stays = scan.stays & ~victim
    new = jnp.where(victim | jumped | (ends & (position >= first)), 0, scan.new)
    need = scan.need
    if need is not None:
        at = jnp.where(evicts, first, scan.at)
        need = jnp.where(victim | jumped | (ends & (position >= first)), 0, need)
        new = jnp.where((evicts | jumps) & (position > at), _shared_out(need, new, at, fixed.max_num_batched_tokens), new)
    # The last running request may have been short of tokens, which victims before it give back; not once it has asked for blocks.
    others = jnp.sum(jnp.where(position == fixed.last, 0, new), dtype=jnp.int32)
    may_grow = (evicts & (first < fixed.last) & ~ends) | (jumps & (scan.at < fixed.last))
    may_grow &= (stays & ~jumped & (scan.new > 0))[fixed.last] & (need is None)
    more = jnp.minimum(fixed.last_need, jnp.maximum(fixed.max_num_batched_tokens - others, 0))
    new = jnp.where(may_grow & (position == fixed.last), more, new)
    requeued = evicts & ~jnp.any(victim & fixed.ended)
    count = scan.requeued + requeued.astype(jnp.int32)
    slot, spare = jnp.minimum(of, size - 1), jnp.asarray(scan.routes.shape[1] - 1, jnp.int32)
    request = jnp.where(requeued, fixed.keys.request[slot], scan.table.shape[0] - 1)
    before = scan.stays & (position < first) & (scan.new > 0)
    used = jnp.max(jnp.where(before, used_blocks(scan, fixed), used_before(scan, fixed)))
    blocks = jnp.where(before, blocks_asked(fixed, scan.new), blocks_before(fixed))
    kv, held = scan.kv.without_victim(fixed.scanned, scan.held, Victim(slot, before, scan.new, blocks, used, evicts))
    return Scan(
        stays=stays,
        new=new,
        at=jnp.where(evicts, first, scan.at),
        short=jnp.where(jumps, 0, scan.short + (passed & fixed.leaves_out).astype(jnp.int32)),
        requeued=count,
        need=need,
        routes=scan.routes.at[fixed.i, jnp.where(requeued, fixed.head - count, spare)].set(request),
        table=scan.table.at[request].set(fixed.rows[slot]),
        kv=kv,
        held=held,
    )


def _shared_out(need: Array, new: Array, at: Array, budget: Array) -> Array:
    """Tokens of the requests behind a slot, in order, of what those up to it have left of the budget, int32[A]."""
    position = jnp.arange(need.shape[0], dtype=jnp.int32)
    later = jnp.where(position > at, need, 0)
    left = budget - jnp.sum(jnp.where(position > at, 0, new), dtype=jnp.int32)
    return jnp.clip(left - (jnp.cumsum(later) - later), 0, later).astype(new.dtype)


def _close_gaps(slots: Slots, stays: Array, unseen: Array) -> Any:
    """The slots with those that stay at first, then those that have finished unseen, which leave before the next step is formed."""
    size = stays.shape[0]
    group = jnp.where(stays, 0, jnp.where(unseen, 1, 2)).astype(jnp.int32)
    order = jnp.argsort(jnp.arange(size, dtype=jnp.int32) + size * group)
    return jax.tree.map(lambda x: x[order], slots)
