"""The end of a plan: its steps are carried out, requests get tokens and finish."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.rank import WITH_ALL_TOKENS, Rank, Slots, last_tokens_of
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Emitted:
    """Tokens of a committed plan.

    Attributes:
        finished: requests that got their last token; the mask goes with the slots as `commit` leaves them.
        prompt_tokens, first_outputs, decodes, resumed, outputs: tokens as in `LeapLog`.
        resumed_gap_s: sum of the gaps of the resumed ones.
        blocks_last: KV blocks allocated in the last step.
        drafts: with speculative decoding, requests whose drafts were verified, these drafts, and those accepted; None without.
    """

    finished: Bool[Array, " A"]
    prompt_tokens: Int32[Array, ""]
    first_outputs: Int32[Array, ""]
    decodes: Int32[Array, ""]
    resumed: Int32[Array, ""]
    outputs: Int32[Array, ""]
    resumed_gap_s: Float64[Array, ""]
    blocks_last: Int32[Array, ""]
    drafts: Int32[Array, " Y"] | None = None


def commit(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Carry out the plan: every scheduled slot computes its tokens, those that catch up with their target emit one a step."""
    rank, slots, plan = turn.rank, turn.rank.slots, turn.rank.plan
    later = jnp.maximum(plan.steps - 1, 0)
    running = (slots.position < rank.num_running) & ~slots.finished
    in_step = running & (slots.num_new_tokens > 0) & (plan.steps > 0)
    computed = slots.num_computed_tokens + jnp.where(in_step, slots.num_new_tokens + later, 0)
    token = in_step & (slots.num_computed_tokens + slots.num_new_tokens >= slots.num_tokens)
    num_tokens = slots.num_tokens + jnp.where(token, plan.steps, 0)
    first_end_s = plan.start_s + plan.first_s
    fresh = token & ~jnp.isfinite(slots.first_token_s)
    decode = token & (slots.token_s == plan.start_s)  # the step before, which ended at this very time, gave it a token too
    resumed = token & ~fresh & ~decode
    after = dataclasses.replace(
        slots,
        num_computed_tokens=computed,
        num_tokens=num_tokens,
        first_token_s=jnp.where(fresh, first_end_s, slots.first_token_s),
        token_s=jnp.where(token, plan.end_s, slots.token_s),
        last_tokens=jax.tree.map(lambda x: jnp.where(in_step, slots.num_new_tokens, x), slots.last_tokens),
    )
    blocks = jnp.where(running, blocks_of(computed, turn.limits.block_size) - slots.held.hashed, 0)
    prompt = jnp.where(in_step & ~decode, slots.num_new_tokens, 0)
    sums, _, _ = reduce_slots([token, decode, resumed, prompt, blocks])
    after, finished = with_arrived(shape, rank, after, token & after.finished)
    emitted = Emitted(
        finished=finished,
        prompt_tokens=sums[3],
        first_outputs=sums[0],
        decodes=sums[1],
        resumed=sums[2],
        outputs=jnp.where(later > 0, sums[0], 0),
        resumed_gap_s=jnp.sum(jnp.where(resumed, first_end_s - slots.token_s, 0.0)),
        blocks_last=sums[4] + turn.kv.num_held(turn.kv_row) + turn.state.handovers.blocks(turn.i) + turn.state.tiers.blocks(turn),
    )
    return dataclasses.replace(turn, rank=dataclasses.replace(rank, slots=after), emitted=emitted)


def name_blocks(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """With prefix caching, name the blocks that the plan has filled; the blocks that it has taken have lost their names."""
    return turn.kv.name_computed(shape, params, turn)


def with_arrived(shape: EngineShape, rank: Rank, after: Slots, finished: Bool[Array, " A"]) -> tuple[Slots, Bool[Array, " A"]]:
    """The slots after a plan, and the finished requests with those among them that came with their only token, as hand-overs let them."""
    slots = rank.slots
    if not shape.handovers:
        return after, finished
    arrived = (slots.position < rank.num_running) & (last_tokens_of(slots) == WITH_ALL_TOKENS)
    return dataclasses.replace(after, last_tokens=jnp.where(arrived, 0, last_tokens_of(after))), finished | arrived
