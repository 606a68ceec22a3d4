"""The scheduler where requests have drafts: a decode asks for 1 + K tokens, and for blocks as if all of them were accepted."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.groups.cadence import holds_prompts, waits_for_release
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.engine.priority.preempt import preempt_by_priority
from simjax.engine.scheduler.admission import admit_waiting
from simjax.engine.scheduler.formation import Demand, Formation, capped
from simjax.engine.scheduler.preemption import preempt
from simjax.engine.scheduler.waiting import is_alone
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import Drafts
from simjax.engine.turn import Turn


def schedule_drafts(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give the running requests their tokens, in order, while the budget lasts; it may cut the drafts of one.

    What the turn's horizon hides, the outcome of the step before, counts as its worst case: all drafts accepted, and one token got. A
    request is left out only if that surely was its last.
    """
    limits, rank, slots, own = turn.limits, turn.rank, turn.rank.slots, params.speculation
    drafts, position, finished = slots.drafts, slots.position, slots.finished
    assert isinstance(drafts, Drafts) and isinstance(own, SpeculationParams)
    unseen, known = slots.flight.unseen(slots, turn.horizon_s)
    computed = slots.num_computed_tokens + jnp.where(unseen, drafts.rejected, 0)
    running = (position < rank.num_running) & ~finished
    leaving = (position < rank.num_running + rank.num_preempted) & finished
    holding = leaving & unseen
    sure = (unseen & (known + 1 >= slots.final_tokens)) | slots.flight.early(limits, rank.pipeline)
    alone = is_alone(shape, params, turn)
    most = 1 + own.num_speculative_tokens[turn.i]
    need = jnp.where(drafts.decoding, most, slots.num_tokens - slots.num_computed_tokens)
    need = jnp.where(drafts.padded, most, capped(need, limits, alone))  # admitted in an earlier tick of the formation
    need = jnp.minimum(need, limits.max_model_len - 1 - computed)
    need = jnp.where((running | (holding & (position < rank.num_running))) & ~sure, need, 0)
    holds = holds_prompts(turn, running | holding) if shape.groups else jnp.zeros((), bool)
    if slots.decoding is not None:
        need = jnp.where(holds & waits_for_release(turn), 0, need)
    (asked_for,), _, _ = reduce_slots([need])
    new = cond_any(asked_for > limits.max_num_batched_tokens, _while_it_lasts, _all, need, limits.max_num_batched_tokens)
    asked = jnp.minimum(computed + new + own.num_lookahead_tokens[turn.i], limits.max_model_len)
    blocks = jnp.where(new > 0, jnp.maximum(blocks_of(asked, limits.block_size), drafts.blocks), drafts.blocks)
    kept = jnp.where(running | leaving, blocks, 0)  # one that has yet to leave, with its blocks if they are to be read first
    blocks = jnp.where(running | holding, blocks - slots.held.hashed, 0)
    had = jnp.where(running | holding, drafts.blocks - slots.held.hashed, 0)
    given = (new > 0) & ~drafts.joined
    later = [jnp.where(running, jnp.maximum(blocks_of(slots.num_tokens, limits.block_size) - kept, 0), 0)] if shape.handovers else []
    (total, seats, num_holding, num_leaving, used, num_given, num_prompts, *reserved), (last,), _ = reduce_slots(
        [new, running, holding, leaving, blocks, given, given & ~drafts.decoding, *later], [jnp.where(running, position, 0)]
    )
    formation = Formation.of_running(
        token_budget=limits.max_num_batched_tokens - total,
        seats=seats + num_holding,
        blocks=used + turn.kv.num_held(turn.kv_row) + turn.state.handovers.blocks(turn.i),
        reserved=reserved[0] if reserved else jnp.zeros((), jnp.int32),
        alone=alone,
        holding=num_holding > 0,
        leaving=num_leaving > 0,
        continues=turn.waits,
        shut=turn.before.passes.shut,
        holds_prompts=holds,
        some_run=num_given > 0,
        some_prompts=num_prompts > 0,
    )
    kept = jnp.where(turn.waits, drafts.blocks, kept)  # none are taken before the departures that the formation waits for
    slots = dataclasses.replace(slots, num_new_tokens=new, drafts=dataclasses.replace(drafts, blocks=kept))
    rank = dataclasses.replace(rank, slots=slots)
    demand = Demand(running, running | holding, blocks, last, had if shape.prefix_nodes or shape.priorities else None)
    if shape.priorities:
        demand = dataclasses.replace(demand, need=need, computed=computed)
    return dataclasses.replace(turn, rank=rank, formation=formation, demand=demand)


def _while_it_lasts(need: Array, budget: Array) -> Array:
    """Tokens of each request, in order."""
    return jnp.clip(budget - (jnp.cumsum(need) - need), 0, need)


def _all(need: Array, budget: Array) -> Array:
    return need


def preempt_drafts(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Preempt what the KV cache cannot hold; its drafts and blocks are gone, and so is the step of one that has ended unseen."""
    after = (preempt_by_priority if shape.priorities else preempt)(shape, params, turn)
    slots = after.rank.slots
    assert isinstance(slots.drafts, Drafts)
    out = slots.position >= after.rank.num_running
    slots = dataclasses.replace(
        slots, num_new_tokens=jnp.where(out, 0, slots.num_new_tokens), drafts=slots.drafts.without(out, slots.flight.flying())
    )
    return dataclasses.replace(after, rank=dataclasses.replace(after.rank, slots=slots))


def admit_drafts(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take in waiting requests; with a prefix cache the step before names its blocks once they have looked for theirs."""
    after = admit_waiting(shape, params, turn)
    return after.kv.name_verified(shape, params, after)
