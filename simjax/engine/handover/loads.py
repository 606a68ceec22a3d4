"""Loads: requests whose KV cache comes from a prefill rank. They reserve blocks first, and take a seat once all has landed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Reserve
from simjax.engine.accounting.totals import Overflow
from simjax.engine.columns import in_order
from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.handover.legs import prefill_cached_tokens, sized
from simjax.engine.handover.rows import row_mask, settled, with_row
from simjax.engine.handover.table import Handovers, Phase
from simjax.engine.handover.transfers import begin_transfer, rules
from simjax.engine.host.result import HandoverLog
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


def admit_loaded(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give a seat to a request whose KV cache has landed: the first of them, in the order in which they began to load.

    They come before all that wait in the queue, and before preempted requests. One joins in a tick; if there is another, or this one finds
    no block for its token, admission does not go on in this tick.
    """
    if not shape.handovers:
        return turn
    table, rank, limits, f, handover = turn.state.handovers, turn.rank, turn.limits, turn.formation, rules(params)
    assert isinstance(table, Handovers)
    ready = table.loading(turn.i) & (table.decode_told_s <= turn.horizon_s)
    order = jnp.where(ready, table.order, INT32_MAX)
    row = jnp.argmin(order).astype(jnp.int32)
    request = jnp.minimum(table.request[row], shape.requests - 1)
    prompt, output = params.request("prompt_tokens", request), params.request("output_tokens", request)
    carried = handover.carried.astype(jnp.int32)
    more_blocks = blocks_of(prompt + carried, limits.block_size) - blocks_of(prompt, limits.block_size)
    has_place = handover.instant | ((f.seats < limits.max_num_seqs) & (f.token_budget > 0))
    open_ = turn.due & ~turn.waits & ~f.shut & (f.preempted == 0) & has_place
    wanted = open_ & ready[row]
    done = wanted & (carried > 0) & (output == 1)  # its only token was carried: it needs no step
    joins = wanted & (done | (f.blocks + more_blocks <= limits.num_blocks))
    given_s = jnp.where(handover.instant, table.finish_s[row], turn.horizon_s)
    slots = _inserted(turn, table, row, joins, prompt, prompt + output, carried, done, given_s)
    rank = dataclasses.replace(
        rank,
        slots=slots,
        num_running=rank.num_running + joins.astype(jnp.int32),
        queued_tokens=rank.queued_tokens - jnp.where(joins, prompt, 0).astype(jnp.int64),
    )
    joined = joins.astype(jnp.int32)
    takes = (joins & ~done).astype(jnp.int32)
    formation = dataclasses.replace(
        f,
        seats=f.seats + takes,
        token_budget=f.token_budget - takes,
        blocks=f.blocks + jnp.where(takes > 0, more_blocks, 0),
        continues=f.continues | (joins & (jnp.sum(ready, dtype=jnp.int32) > joined)) | done,
        shut=f.shut | (wanted & ~joins),
        refused=jnp.any(ready) & ~joins,
        leaving=f.leaving | done,
    )
    outcome = _outcome(shape, table, row)
    kept_row = jnp.where(joins, request, shape.requests)
    mine = row_mask(shape, row, joins)
    table = dataclasses.replace(
        table,
        phase=jnp.where(mine, Phase.SEATED.value, table.phase),
        outcome=table.outcome.at[kept_row].set(outcome),
    )
    rank, formation = jax.lax.optimization_barrier((rank, formation))
    after = dataclasses.replace(turn, rank=rank, formation=formation).with_state(handovers=settled(table, mine))
    return turn.kv.after_loading(shape, params, after, turn, joins)


def _inserted(
    turn: Turn, table: Handovers, row: Array, joins: Array, prompt: Array, final: Array, carried: Array, done: Array, given_s: Array
) -> Slots:
    """The slots with the request of a row behind the running ones; the preempted ones make room. A token is carried at given_s."""
    slots, at = turn.rank.slots, turn.rank.num_running
    held: HeldBlocks | NoHeldBlocks = jax.tree.map(lambda x: x[row], table.decode_held)
    given = carried > 0
    token_s = jnp.where(given, given_s, NEVER)
    new = dataclasses.replace(
        slots,
        request=table.request[row],
        num_computed_tokens=prompt - 1 + carried,
        num_tokens=prompt + carried,
        final_tokens=final,
        num_new_tokens=jnp.where(done, 0, 1),
        preemptions=table.preemptions[row],
        scheduled_s=jnp.where(done, NEVER, turn.now_s),
        first_token_s=token_s,
        token_s=token_s,
        held=held,
        last_tokens=jnp.zeros((), jnp.int32),
        answered=jax.tree.map(lambda x: jnp.zeros((), bool), slots.answered),
    )
    behind, here = joins & (slots.position > at), joins & (slots.position == at)

    def put(x: Array, value: Array) -> Array:
        shifted = jax.lax.pad(x, jnp.zeros((), x.dtype), [(1, -1, 0)])
        return jnp.where(here, jnp.asarray(value).astype(x.dtype), jnp.where(behind, shifted, x))

    return jax.tree.map(put, slots, new)


def _outcome(shape: EngineShape, table: Handovers, row: Array) -> Array:
    """The row of `HandoverLog` of a load that has landed."""
    columns = {
        "prefill_instance": table.prefill[row],
        "prefill_scheduled_s": table.scheduled_s[row],
        "prefill_finish_s": table.finish_s[row],
        "transfer_start_s": table.start_s[row],
        "transfer_end_s": table.landed_s[row],
        "transfer_bytes": table.moved_bytes[row],
        "prefill_cached_tokens": prefill_cached_tokens(table)[row],
    }
    return jnp.stack([jnp.asarray(x).astype(jnp.float64) for x in in_order(HandoverLog, shape, columns)])


def begin_load(
    shape: EngineShape, params: ClusterParams, turn: Turn, request: Int32[Array, ""], found: Array | int, begins: Bool[Array, ""]
) -> Turn:
    """The turn once the request at the head of the queue, which found some blocks in the cache, has begun to load the others.

    Args:
        shape, params: of the cluster.
        turn: turn of its decode rank, once the formation counts its blocks.
        request: int32[].
        found: blocks of its prompt that the decode rank has cached, int32[].
        begins: whether there is such a request.
    """
    if not shape.handovers:
        return turn
    state, handover, size = turn.state, rules(params), turn.limits.block_size
    table = state.handovers
    assert isinstance(table, Handovers)
    known = jnp.minimum(request, shape.requests - 1)
    row, room = table.row_of(known)
    begins = begins & turn.due
    mine, prefilled = row_mask(shape, row, begins), table.request[row] == known
    prompt = params.request("prompt_tokens", known)
    own_blocks = blocks_of(prompt, size) - jnp.asarray(found)
    early = handover.reserve == Reserve.BEFORE
    no_holds = jax.tree.map(lambda x: x[row], table.decode_held).emptied()
    changes = {
        "request": known,
        "decode": turn.i,
        "phase": Phase.LOADING.value,
        "order": table.begun,
        "leg_s": jnp.where(early, turn.horizon_s + handover.handover_s, NEVER),
        "decode_blocks": own_blocks,
        "decode_held": no_holds.first_admitted(jnp.ones((), bool), jnp.asarray(found) * size),
        "moved_blocks": own_blocks,
    }
    table = with_row(table, mine, changes)
    table, left_bytes = sized(params, table, row, mine)
    table = dataclasses.replace(table, begun=table.begun + begins.astype(jnp.int32))
    changed = begin_transfer(shape, params, state, table, row, left_bytes, turn.horizon_s, begins & prefilled & ~handover.instant)
    table = changed["handovers"]
    assert isinstance(table, Handovers)
    there = mine & handover.instant  # all was sent within the prefill's steps: it can run in this step
    table = dataclasses.replace(
        table,
        start_s=jnp.where(there, table.finish_s, table.start_s),
        landed_s=jnp.where(there, table.finish_s, table.landed_s),
        decode_told_s=jnp.where(there, turn.horizon_s, table.decode_told_s),
    )
    formation = dataclasses.replace(turn.formation, continues=turn.formation.continues | (begins & handover.instant))
    overflow = state.overflow | jnp.where(begins & ~room, Overflow.HANDOVERS.value, 0)
    turn = dataclasses.replace(turn, formation=formation).with_state(ranks=changed["ranks"], handovers=table, overflow=overflow)
    return turn.kv.touch(shape, params, turn, known, row, jnp.asarray(found), begins)
