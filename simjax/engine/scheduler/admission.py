"""Admission: waiting requests join the running ones, first come first served."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.handover.headroom import headroom_for
from simjax.engine.handover.loads import begin_load
from simjax.engine.handover.rows import rules
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.no_prefix_cache import Hits
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Rank
from simjax.engine.scheduler.formation import Formation, capped
from simjax.engine.scheduler.waiting import Waiting, seen_s, waiting_window
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


class _Admitted(NamedTuple):
    """Entries of the window that join, `entries` of them (int32[]); those `taken` (bool[W]) compute a first `chunk` on `cached` tokens and
    come to have so many `blocks`; some are `padded` with drafts.

    If the first one `loads` its KV cache instead, it is the only one.
    """

    entries: Array
    taken: Array
    chunk: Array
    cached: Array
    blocks: Array
    padded: Array
    loads: Array


def admit_waiting(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take in waiting requests while tokens, seats and blocks last; none overtakes, and none is preempted for them.

    With prefix caching only the first of the window: what the next finds depends on it. Those after it have their turn in the next tick.
    """
    waiting = waiting_window(shape, params, turn)
    hits = turn.kv.get_computed_blocks(shape, params, turn, waiting)
    formation, admitted = _choose(shape, params, turn, waiting, hits)
    rank = _seated(turn, waiting, admitted)
    after = turn.kv.after_admission(shape, params, dataclasses.replace(turn, rank=rank, formation=formation), turn, hits, admitted.loads)
    return begin_load(shape, params, after, waiting.request[0], hits.found, admitted.loads)


def _choose(shape: EngineShape, params: ClusterParams, turn: Turn, waiting: Waiting, hits: Hits) -> tuple[Formation, _Admitted]:
    """The formation with the waiting requests that join, and which they are."""
    limits, f, first_only = turn.limits, turn.formation, turn.kv.window_only_first or shape.priorities
    w = jnp.arange(waiting.request.shape[0], dtype=jnp.int32)
    visible = waiting.exists & (waiting.queued_s <= seen_s(shape, turn))
    cached = jnp.where(w == 0, hits.found * limits.block_size, 0)
    shared = jnp.where(w == 0, hits.shared, 0)
    need = jnp.where(waiting.passed, 0, capped(waiting.num_tokens - cached, limits, f.alone))
    padded = jnp.zeros_like(waiting.passed)
    if shape.speculation:
        need, padded = _padded(params, turn, waiting, cached, need)
    chunk = jnp.clip(f.token_budget - _before(need), 0, need)
    tokens = cached + chunk
    if shape.speculation:
        ahead = jnp.where(waiting.passed, 0, params.speculation.lookahead(turn.i))
        tokens = jnp.minimum(tokens + ahead, limits.max_model_len)
    blocks = blocks_of(tokens, limits.block_size) - shared
    at_once = jnp.zeros_like(waiting.loads)
    if shape.handovers:  # a load asks for all its blocks, and for no token
        rule = rules(params)
        at_once = rule.at_once & waiting.loads
        held = waiting.num_tokens + (rule.carried & (waiting.final_tokens > waiting.num_tokens + 1)).astype(jnp.int32)
        blocks = jnp.where(waiting.loads, blocks_of(held, limits.block_size) - shared, blocks)
    asked = jnp.where(limits.reserve_full_isl, blocks_of(waiting.num_tokens, limits.block_size) - shared, blocks)
    if shape.handovers:
        asked = jnp.where(waiting.loads, blocks + jnp.where(limits.reserve_kv_loads, f.reserved, 0), asked)
    if shape.speculation:  # the lookahead may ask for more than the whole sequence
        asked = jnp.maximum(asked, blocks)
    seats = f.seats + _before((~waiting.passed).astype(jnp.int32))
    asked += jnp.where(seats > 0, limits.watermark_blocks, 0)
    fits = f.blocks + _before(blocks) + asked <= limits.num_blocks
    lasts = jnp.ones_like(fits)
    if shape.headroom:
        enough, lasts = headroom_for(params, turn, waiting)
        fits &= enough
    has_seat = seats < limits.max_num_seqs
    has_budget = (chunk > 0) & (waiting.loads | (limits.enable_chunked_prefill & ~padded) | (chunk == need))
    has_budget &= ~(f.holds_prompts & (waiting.num_tokens - cached > 1)) | waiting.loads
    joins = visible & (waiting.passed | (((has_budget & has_seat) | at_once) & fits)) & waiting.has_slot & (f.preempted == 0) & ~turn.waits
    if first_only:
        joins &= w == 0
    if shape.handovers:
        joins &= ~f.shut & ~f.continues & ((w == 0) | ~(waiting.loads[0] | waiting.loads))
    joins = jnp.cumsum(~joins) == 0

    taken = joins & ~waiting.passed & ~waiting.loads
    entries = jnp.sum(joins, dtype=jnp.int32)
    seats = f.seats + jnp.sum(taken, dtype=jnp.int32)
    first_out = w == entries
    too_big = jnp.any(first_out & visible & ~fits & (limits.reserve_full_isl | (chunk > 0)))
    continues = f.continues | jnp.all(joins) | jnp.any(first_out & ~waiting.has_slot)
    if first_only:
        continues |= joins[0] & visible[1]
    if shape.handovers:  # a load begins in a tick of its own
        continues |= joins[0] & (jnp.any(first_out & visible & (waiting.loads | waiting.loads[0])) | at_once[0])
    unseen = waiting.exists & ~visible
    # One that comes next to a lone prefill limits its tokens, for which there may be blocks beside those that are held.
    next_out = unseen & (first_out | f.alone) if shape.handovers else unseen & first_out
    # Seats and blocks are only given back by finishing requests; a preemption or a held seat changes the picture a step later.
    stays = ((seats >= limits.max_num_seqs) | too_big) & (f.preempted == 0) & ~f.holding
    if shape.headroom:
        stays &= ~jnp.any(first_out & visible & ~lasts)
    formation = dataclasses.replace(
        f,
        seats=seats,
        token_budget=f.token_budget - jnp.sum(jnp.where(taken, chunk, 0), dtype=jnp.int32),
        blocks=f.blocks + jnp.sum(jnp.where(joins & ~waiting.passed, blocks, 0), dtype=jnp.int32),
        continues=continues,
        refused=f.refused | jnp.any(first_out & visible),
        stays=stays,
        blocked=stays,
        next_queued_s=jnp.min(jnp.where(next_out, waiting.queued_s, NEVER)),
    )
    return formation, _Admitted(entries, taken, chunk, cached, blocks + shared, padded, joins[0] & waiting.loads[0])


def _padded(params: ClusterParams, turn: Turn, waiting: Waiting, cached: Array, need: Array) -> tuple[Array, Array]:
    """Tokens that the entries of the window need, and which of them are padded with drafts to 1 + K tokens, bool[W].

    vLLM does that for one that needs a single token, to keep the steps of a graph alike, unless a prompt is in the step.
    """
    drafts, f = params.speculation.drafts(turn.i), turn.formation
    alike = params.speculation.padded(turn.i) & (drafts > 0) & ~f.some_prompts & (f.some_run | (cached > 0))
    padded = alike & (waiting.num_tokens - cached == 1) & (cached + 1 + drafts < turn.limits.max_model_len) & ~waiting.passed
    return jnp.where(padded, 1 + drafts, need), padded


def _before(x: Array) -> Array:
    """Sum of the entries before each."""
    return jnp.cumsum(x) - x


def _seated(turn: Turn, waiting: Waiting, admitted: _Admitted) -> Rank:
    """The rank with the admitted entries of the window among the running."""
    rank, old, taken = turn.rank, waiting.slots, admitted.taken
    fresh = taken & ~waiting.resumed
    window = dataclasses.replace(
        old,
        request=jnp.where(fresh, waiting.request, old.request),
        num_computed_tokens=jnp.where(taken, admitted.cached, old.num_computed_tokens),
        num_tokens=jnp.where(fresh, waiting.num_tokens, old.num_tokens),
        final_tokens=jnp.where(fresh, waiting.final_tokens, old.final_tokens),
        num_new_tokens=jnp.where(taken, admitted.chunk, old.num_new_tokens),
        preemptions=jnp.where(fresh, 0, old.preemptions),
        scheduled_s=jnp.where(fresh, turn.now_s, old.scheduled_s),
        first_token_s=jnp.where(fresh, NEVER, old.first_token_s),
        token_s=jnp.where(fresh, NEVER, old.token_s),
        held=select(taken, old.held.emptied(), old.held).first_admitted(fresh, admitted.cached),
        flight=old.flight.admitted(fresh),
        drafts=old.drafts.admitted(taken, admitted.blocks, admitted.padded),
        last_tokens=old.last_tokens,
        answered=jax.tree.map(lambda x: x & ~fresh, old.answered),
        decoding=jax.tree.map(lambda x: x & ~taken, old.decoding),
    )
    from_preempted = jnp.minimum(rank.num_preempted, admitted.entries)
    return dataclasses.replace(
        rank,
        slots=jax.tree.map(lambda x, part: jax.lax.dynamic_update_slice(x, part, (rank.num_running,)), rank.slots, window),
        num_running=rank.num_running + admitted.entries - admitted.loads.astype(jnp.int32),
        num_preempted=rank.num_preempted - from_preempted,
        head=rank.head + admitted.entries - from_preempted,
        queued_tokens=rank.queued_tokens - jnp.sum(jnp.where(fresh, waiting.num_tokens, 0), dtype=jnp.int64),
    )
