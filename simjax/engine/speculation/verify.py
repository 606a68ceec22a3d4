"""The end of a step that has verified drafts: requests get what was accepted, and a token more."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.control.together import together
from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.engine.scheduler.commit import Emitted, with_arrived
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import Drafts
from simjax.engine.speculation.draws import accepted, uniform
from simjax.engine.turn import Turn


def verify(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Carry out the plan: those that catch up with their tokens get one more, and the drafts before it that are accepted.

    Rejected drafts are not computed any more. No request gets more tokens than it has asked for. All tokens of a step come at its end, so
    `Emitted` counts one gap between tokens for a request and step, however many there are.
    """
    rank, slots, plan = turn.rank, turn.rank.slots, turn.rank.plan
    drafts, own = slots.drafts, params.speculation
    assert isinstance(drafts, Drafts) and isinstance(own, SpeculationParams)
    running = (slots.position < rank.num_running) & ~slots.finished
    in_step = running & (slots.num_new_tokens > 0) & (plan.steps > 0)
    beyond = slots.num_computed_tokens + slots.num_new_tokens - slots.num_tokens
    token = in_step & (beyond >= 0)
    verified = jnp.where(token, beyond, 0)
    # Drawn once: XLA would repeat the hash in each array that comes from it.
    right = jnp.where(drafts.padded, 0, verified)
    (taken,) = together([accepted(uniform(own.seed, slots.request, slots.num_tokens), own.rates[turn.i], right)])
    emitted = jnp.where(token, jnp.minimum(1 + taken, slots.final_tokens - slots.num_tokens), 0)
    num_tokens = slots.num_tokens + emitted
    computed = slots.num_computed_tokens + jnp.where(in_step, slots.num_new_tokens, 0)
    kept = jnp.where(token, num_tokens - 1, computed)
    fresh = token & ~jnp.isfinite(slots.first_token_s)
    decode = token & (slots.token_s == plan.start_s)  # the step before, which ended at this very time, gave it a token too
    resumed = token & ~fresh & ~decode
    after = dataclasses.replace(
        slots,
        num_computed_tokens=kept,
        num_tokens=num_tokens,
        first_token_s=jnp.where(fresh, plan.end_s, slots.first_token_s),
        token_s=jnp.where(token, plan.end_s, slots.token_s),
        drafts=drafts.after(in_step, emitted, computed - kept),
        last_tokens=jax.tree.map(lambda x: jnp.where(in_step, slots.num_new_tokens, x), slots.last_tokens),
    )
    after, finished = with_arrived(rank, after, token & after.finished)
    prompt = jnp.where(in_step & ~drafts.decoding, slots.num_new_tokens, 0)
    blocks = jnp.where(running, drafts.blocks - slots.held.hashed, 0)
    (tokens, decodes, others, prompt, blocks, checked, proposed, right), _, _ = reduce_slots(
        [emitted, decode, resumed, prompt, blocks, verified > 0, verified, taken]
    )
    none = jnp.zeros((), jnp.int32)
    found = Emitted(
        finished=finished,
        prompt_tokens=prompt,
        first_outputs=tokens,
        decodes=decodes,
        resumed=others,
        outputs=none,
        resumed_gap_s=jnp.sum(jnp.where(resumed, plan.end_s - slots.token_s, 0.0)),
        blocks_last=blocks + turn.kv.num_held(turn.kv_row) + turn.state.handovers.blocks(turn.i),
        drafts=jnp.stack([checked, proposed, right]),
    )
    return dataclasses.replace(turn, rank=dataclasses.replace(rank, slots=after), emitted=found)
