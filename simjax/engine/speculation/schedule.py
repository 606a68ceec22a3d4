"""The scheduler where requests have drafts: a decode asks for 1 + K tokens, and for blocks as if all of them were accepted."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.groups.cadence import holds_prompts, waits_for_release
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
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
    assert isinstance(drafts, Drafts) and own is not None
    unseen = (drafts.emitted > 0) & (slots.token_s > turn.horizon_s)
    computed = slots.num_computed_tokens + jnp.where(unseen, drafts.rejected, 0)
    running = (position < rank.num_running) & ~finished
    leaving = (position < rank.num_running + rank.num_preempted) & finished
    holding = leaving & unseen
    sure = unseen & (slots.num_tokens - drafts.emitted + 1 >= slots.final_tokens)
    alone = is_alone(shape, params, turn)
    need = jnp.where(drafts.decoding, 1 + own.num_speculative_tokens[turn.i], slots.num_tokens - slots.num_computed_tokens)
    need = jnp.minimum(capped(need, limits, alone), limits.max_model_len - 1 - computed)
    need = jnp.where((running | (holding & (position < rank.num_running))) & ~sure, need, 0)
    holds = holds_prompts(turn, running | holding) if shape.groups else jnp.zeros((), bool)
    if slots.decoding is not None:
        need = jnp.where(holds & waits_for_release(turn), 0, need)
    (asked_for,), _, _ = reduce_slots([need])
    new = cond_any(asked_for > limits.max_num_batched_tokens, _while_it_lasts, _all, need, limits.max_num_batched_tokens)
    asked = jnp.minimum(computed + new + own.num_lookahead_tokens[turn.i], limits.max_model_len)
    blocks = jnp.where(new > 0, jnp.maximum(blocks_of(asked, limits.block_size), drafts.blocks), drafts.blocks)
    kept = jnp.where(running | leaving, blocks, 0)  # one that has yet to leave, with its blocks if they are to be read first
    blocks = jnp.where(running | holding, blocks, 0)
    later = [jnp.where(running, jnp.maximum(blocks_of(slots.num_tokens, limits.block_size) - blocks, 0), 0)] if shape.handovers else []
    (total, seats, num_holding, num_leaving, used, *reserved), (last,), _ = reduce_slots(
        [new, running, holding, leaving, blocks, *later], [jnp.where(running, position, 0)]
    )
    formation = Formation.of_running(
        token_budget=limits.max_num_batched_tokens - total,
        seats=seats + num_holding,
        blocks=used + turn.state.handovers.blocks(turn.i),
        reserved=reserved[0] if reserved else jnp.zeros((), jnp.int32),
        alone=alone,
        holding=num_holding > 0,
        leaving=num_leaving > 0,
        continues=turn.waits,
        shut=turn.before.passes.shut,
        holds_prompts=holds,
    )
    slots = dataclasses.replace(slots, num_new_tokens=new, drafts=dataclasses.replace(drafts, blocks=kept))
    rank = dataclasses.replace(rank, slots=slots)
    return dataclasses.replace(turn, rank=rank, formation=formation, demand=Demand(running, running | holding, blocks, last))


def _while_it_lasts(need: Array, budget: Array) -> Array:
    """Tokens of each request, in order."""
    return jnp.clip(budget - (jnp.cumsum(need) - need), 0, need)


def _all(need: Array, budget: Array) -> Array:
    return need


def preempt_drafts(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Preempt what the KV cache cannot hold; its drafts and blocks are gone, and so is the step of one that has ended unseen."""
    after = preempt(shape, params, turn)
    slots = after.rank.slots
    assert isinstance(slots.drafts, Drafts)
    out = slots.position >= after.rank.num_running
    slots = dataclasses.replace(slots, num_new_tokens=jnp.where(out, 0, slots.num_new_tokens), drafts=slots.drafts.without(out))
    return dataclasses.replace(after, rank=dataclasses.replace(after.rank, slots=slots))
