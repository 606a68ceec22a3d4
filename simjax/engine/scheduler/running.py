"""The scheduler's first part: the running requests get their tokens.

vLLM V1's rules say which requests are in the next step, and with how many tokens. Running requests come first (here), in admission order;
if blocks run out the tail is preempted (`preemption`). Then come waiting ones (`admission`), first come first served. All see only what
happened up to the turn's horizon: later arrivals are not there yet, and requests that finished later still hold their seat and blocks.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.groups.cadence import holds_prompts, shared_out, waits_for_release
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.scheduler.formation import Demand, Formation, capped
from simjax.engine.scheduler.waiting import is_alone
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def schedule_running(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give the running requests their tokens.

    Every running request is in every step: what one needs never grows while it runs, except for the last one admitted, whose first chunk
    may have been cut to what was left of the budget, or which is alone. So only the last can be short of tokens.
    """
    limits, rank, slots = turn.limits, turn.rank, turn.rank.slots
    position, finished = slots.position, slots.finished
    running = (position < rank.num_running) & ~finished
    leaving = (position < rank.num_running + rank.num_preempted) & finished
    holding = leaving & (slots.token_s > turn.horizon_s)
    alone = is_alone(shape, params, turn)
    need = capped(jnp.where(running, slots.num_tokens - slots.num_computed_tokens, 0), limits, alone)
    holds = holds_prompts(turn, running | holding) if shape.groups else jnp.zeros((), bool)
    if slots.decoding is not None:
        need = jnp.where(holds & waits_for_release(turn), 0, need)
    (total,), (last,), _ = reduce_slots([need], [jnp.where(running, position, 0)])
    short = jnp.maximum(total - limits.max_num_batched_tokens, 0)
    new = need - jnp.where(position == last, short, 0) if not shape.groups else shared_out(need, short, last, limits.max_num_batched_tokens)
    allocated = blocks_of(slots.num_computed_tokens + new, limits.block_size)
    blocks = jnp.where(running | holding, allocated - slots.held.hashed, 0)
    later = [jnp.where(running, blocks_of(slots.num_tokens, limits.block_size) - allocated, 0)] if shape.handovers or shape.kv_tiers else []
    (seats, num_holding, num_leaving, used, *reserved), _, _ = reduce_slots([running, holding, leaving, blocks, *later])
    formation = Formation.of_running(
        token_budget=limits.max_num_batched_tokens - (total - short),
        seats=seats + num_holding,
        blocks=used + turn.kv.num_held(turn.kv_row) + turn.state.handovers.blocks(turn.i) + turn.state.tiers.blocks(turn),
        reserved=reserved[0] if reserved else jnp.zeros((), jnp.int32),
        alone=alone,
        holding=num_holding > 0,
        leaving=num_leaving > 0,
        continues=turn.waits,
        shut=turn.before.passes.shut,
        holds_prompts=holds,
    )
    rank = dataclasses.replace(rank, slots=dataclasses.replace(slots, num_new_tokens=new))
    return dataclasses.replace(turn, rank=rank, formation=formation, demand=Demand(running, running | holding, blocks, last))
