"""The two legs of a request: the end of the prefill, and the way to the other rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Reserve
from simjax.engine.accounting.totals import Overflow
from simjax.engine.handover.rows import row_mask, rules, table_of, with_row
from simjax.engine.handover.table import Phase, Role
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Rank, last_tokens_of
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def final_tokens(shape: EngineShape, params: ClusterParams, i: Array | int, prompt: Array, output: Array) -> Array:
    """Prompt plus output tokens that requests have in rank i: a prefill rank gives one token only."""
    if not shape.handovers:
        return prompt + output
    return prompt + jnp.where(rules(params).role[i] == Role.PREFILL, 1, output)


def routed_s(shape: EngineShape, params: ClusterParams, turn: Turn, request: Int32[Array, " W"], arrival_s: Float64[Array, " W"]) -> Array:
    """Times at which requests came to the router on their way to the rank whose turn it is, from those of their arrival, float64[W]."""
    if not shape.handovers:
        return arrival_s
    table, handover = table_of(turn.state), rules(params)
    early = handover.reserve == Reserve.BEFORE
    second = jnp.where(early, handover.role[turn.i] == Role.PREFILL, table.decode_of[request] == turn.i)
    return jnp.where(second & (handover.reserve != Reserve.WITH), table.second_s[request], arrival_s)


def loads(shape: EngineShape, turn: Turn, request: Int32[Array, " W"], resumed: Bool[Array, " W"]) -> Bool[Array, " W"]:
    """Waiting requests of the rank whose turn it is that have KV to load first."""
    if not shape.handovers:
        return jnp.zeros_like(resumed)
    table = table_of(turn.state)
    return ~resumed & (table.decode_of[request] == turn.i)


def end_prefill(shape: EngineShape, params: ClusterParams, turn: Turn, before: Rank, at: Int32[Array, ""]) -> Turn:
    """The turn once the departed request, which was in slot `at`, has a row if its second leg is still to come: its blocks stay.

    A request that was preempted with its token on the way has none. Further departures wait for the next tick, and the step waits for them.
    """
    if not shape.handovers:
        return turn
    state, handover, departed, slots = turn.state, rules(params), turn.departed, before.slots
    table = table_of(state)
    kept = departed.some & turn.due & (handover.role[turn.i] == Role.PREFILL)
    row, room = table.row_of(departed.request)
    mine, begun = row_mask(shape, row, kept), table.request[row] == departed.request
    finish_s, scheduled_s = slots.token_s[at], slots.scheduled_s[at]
    request = jnp.minimum(departed.request, shape.requests - 1)
    leg_s = finish_s + turn.limits.api_post_s + handover.handover_s
    own_blocks = slots.drafts.own_blocks(at, blocks_of(departed.num_computed_tokens, turn.limits.block_size)) - departed.held.hashed
    own_blocks = jnp.where(at < before.num_running, own_blocks, 0)
    changes = {
        "request": departed.request,
        "prefill": turn.i,
        "decode": jnp.where(begun, table.decode[row], jnp.maximum(table.decode_of[request], 0)),
        "phase": jnp.where(begun, table.phase[row], Phase.AWAITED.value),
        "leg_s": jnp.where(handover.reserve == Reserve.AFTER, leg_s, NEVER),
        "kept": True,
        "finish_s": finish_s,
        "scheduled_s": scheduled_s,
        "preemptions": slots.preemptions[at],
        "computed_tokens": departed.num_computed_tokens,
        "last_tokens": last_tokens_of(slots)[at],
        "prefill_blocks": own_blocks,
        "prefill_held": departed.held,
    }
    table = with_row(table, mine, changes)
    turn = turn.with_state(handovers=table, overflow=state.overflow | jnp.where(kept & ~room, Overflow.HANDOVERS.value, 0))
    departed = dataclasses.replace(departed, kept=kept)
    return dataclasses.replace(turn, departed=departed, waits=turn.waits | (departed.more & turn.due))
