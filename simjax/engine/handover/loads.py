"""Loads: requests whose KV cache comes from a prefill rank. They reserve blocks first, and take a seat once all has landed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Reserve
from simjax.engine.accounting.totals import Overflow
from simjax.engine.columns import in_order
from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.together import entry, together
from simjax.engine.handover.rows import row_mask, rules, settled, table_of, with_row
from simjax.engine.handover.table import Handovers, Phase
from simjax.engine.host.result import HandoverLog
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, WITH_ALL_TOKENS, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


def admit_loaded(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give a seat to a request whose KV cache has landed: the first of them, in the order in which they began to load.

    They come before all that wait in the queue, and before preempted requests. One joins in a tick; if there is another, admission does
    not go on in this tick.
    """
    if not shape.handovers:
        return turn
    table, rank, limits, f, handover = table_of(turn.state), turn.rank, turn.limits, turn.formation, rules(params)
    ready = table.loading(turn.i) & (table.decode_told_s <= turn.horizon_s)
    order = jnp.where(ready, table.order, INT32_MAX)
    row = jnp.argmin(order).astype(jnp.int32)
    one = _Loaded.of(table, ready, row)
    request = jnp.minimum(one.request, shape.requests - 1)
    prompt, output = params.request("prompt_tokens", request), params.request("output_tokens", request)
    carried = handover.carried.astype(jnp.int32)
    below = (f.seats > 0) & (f.blocks + limits.watermark_blocks > limits.num_blocks)
    all_blocks, more = one.blocks + one.held.hashed, jnp.zeros((), jnp.int32)
    if shape.speculation:  # the load had no lookahead
        asked = jnp.minimum(prompt + params.speculation.lookahead(turn.i), limits.max_model_len)
        more = jnp.maximum(blocks_of(asked, limits.block_size) - all_blocks, 0)
        below = f.blocks + more + jnp.where(f.seats > 0, limits.watermark_blocks, 0) > limits.num_blocks
    room = (f.seats < limits.max_num_seqs) & (f.token_budget > 0) & ~below
    room |= handover.at_once & (rank.num_running + rank.num_preempted < limits.slots)
    open_ = turn.due & ~turn.waits & ~f.shut & (f.preempted == 0) & room
    joins = open_ & one.ready
    done = joins & (carried > 0) & (output == 1)  # its only token was carried: it needs no step
    slots = _inserted(turn, one, joins, prompt, prompt + output, carried, done, handover.at_once, all_blocks + more)
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
        blocks=f.blocks + jnp.where(joins, more, 0),
        continues=f.continues | (joins & (jnp.sum(ready, dtype=jnp.int32) > joined)) | done,
        refused=jnp.any(ready) & ~joins,
        shut=f.shut | (ready[row] & ~joins & below),
        leaving=f.leaving | done,
    )
    outcome = jnp.stack(in_order(HandoverLog, shape, {name: x.astype(jnp.float64) for name, x in one.log_columns.items()}))
    kept_row = jnp.where(joins, request, shape.requests)
    mine = row_mask(shape, row, joins)
    table = dataclasses.replace(
        table,
        phase=jnp.where(mine, Phase.SEATED.value, table.phase),
        outcome=table.outcome.at[kept_row].set(outcome),
    )
    formation = together(formation)
    after = dataclasses.replace(turn, rank=rank, formation=formation).with_state(handovers=settled(table, mine))
    return turn.kv.after_loading(shape, params, after, turn, joins)


class _Loaded(NamedTuple):
    """The row of a request whose KV cache may have landed; scalars."""

    ready: Array
    request: Array
    finish_s: Array
    preemptions: Array
    held: HeldBlocks | NoHeldBlocks
    blocks: Array
    log_columns: dict[str, Array]

    @staticmethod
    def of(table: Handovers, ready: Bool[Array, " K"], row: Array) -> _Loaded:
        """One row of the table."""
        kept = table.finish_s, table.preemptions, table.decode_held, table.decode_blocks
        return entry(_Loaded(ready, table.request, *kept, table.log_columns()), row)


def _inserted(
    turn: Turn, one: _Loaded, joins: Array, prompt: Array, final: Array, carried: Array, done: Array, at_once: Array, blocks: Array
) -> Slots:
    """The slots with the loaded request behind the running ones; the preempted ones make room."""
    slots, at = turn.rank.slots, turn.rank.num_running
    given = carried > 0
    token_s = jnp.where(given, jnp.where(at_once, one.finish_s, turn.horizon_s), NEVER)
    new = dataclasses.replace(
        slots,
        request=one.request,
        num_computed_tokens=prompt - 1 + carried,
        num_tokens=prompt + carried,
        final_tokens=final,
        num_new_tokens=jnp.where(done, 0, 1),
        preemptions=one.preemptions,
        scheduled_s=jnp.where(done, NEVER, turn.now_s),
        first_token_s=token_s,
        token_s=token_s,
        held=one.held,
        last_tokens=jnp.where(done, WITH_ALL_TOKENS, 0),
        answered=jax.tree.map(lambda x: jnp.zeros((), bool), slots.answered),
        decoding=jax.tree.map(lambda x: jnp.zeros((), bool), slots.decoding),
        drafts=slots.drafts.loaded(blocks),
    )
    new = together(jax.tree.map(lambda x, value: jnp.asarray(value).astype(x.dtype), slots, new))
    at = jnp.where(joins, at, slots.position.shape[0])
    behind, here = slots.position > at, slots.position == at

    def put(x: Array, value: Array) -> Array:
        shifted = jax.lax.pad(x, jnp.zeros((), x.dtype), [(1, -1, 0)])
        return jnp.where(here, value, jnp.where(behind, shifted, x))

    return jax.tree.map(put, slots, new)


def begin_load(
    shape: EngineShape, params: ClusterParams, turn: Turn, request: Int32[Array, ""], found: Array | int, begins: Bool[Array, ""]
) -> Turn:
    """The turn once the request at the head of the queue, which found some blocks in the cache, has begun to load the others.

    Args:
        shape: of the cluster.
        params: of the cluster.
        turn: turn of its decode rank, once the formation counts its blocks.
        request: int32[].
        found: blocks of its prompt that the decode rank has cached, int32[].
        begins: whether there is such a request.
    """
    if not shape.handovers:
        return turn
    state, handover, size = turn.state, rules(params), turn.limits.block_size
    table = table_of(state)
    known = jnp.minimum(request, shape.requests - 1)
    row, room = table.row_of(known)
    begins = begins & turn.due
    mine = row_mask(shape, row, begins)
    prompt = params.request("prompt_tokens", known)
    own_blocks = blocks_of(prompt, size) - jnp.asarray(found)
    # A carried token gets its place as well: it would need a new block once it is there, when loads may have taken all of them.
    place = (handover.carried & (params.request("output_tokens", known) > 1)).astype(jnp.int32)
    early = handover.reserve == Reserve.BEFORE
    sent_s = jnp.where(handover.at_once, table.finish_s[row], NEVER)
    no_holds = jax.tree.map(lambda x: x[row], table.decode_held).emptied()
    changes = {
        "request": known,
        "decode": turn.i,
        "phase": Phase.LOADING.value,
        "order": table.begun,
        "leg_s": jnp.where(early, turn.horizon_s + handover.handover_s, NEVER),
        "decode_blocks": blocks_of(prompt + place, size) - jnp.asarray(found),
        # Sent within the steps of the prefill: it is there already.
        "start_s": sent_s,
        "landed_s": sent_s,
        "decode_told_s": jnp.where(handover.at_once, turn.horizon_s, NEVER),
        "decode_held": no_holds.first_admitted(jnp.ones((), bool), jnp.asarray(found) * size),
        "moved_blocks": own_blocks,
    }
    table = with_row(table, mine, changes)
    table = dataclasses.replace(table, begun=table.begun + begins.astype(jnp.int32))
    turn = turn.with_state(handovers=table, overflow=state.overflow | jnp.where(begins & ~room, Overflow.HANDOVERS.value, 0))
    return turn.kv.touch_hits(shape, params, turn, known, row, jnp.asarray(found), begins)
