"""What the end of a plan changes: tokens, first tokens, finishes; and the way out of a finished request."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import RankParams
from simjax.engine.rank import Holding, Instance

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Emitted:
    """What a committed plan did beside changing the slots.

    Attributes:
        finished: requests that got their last token; the mask goes with the slots as `commit` returns them.
        prompt_tokens, first_outputs, decodes, resumed, outputs: tokens as in `LeapLog`.
        resumed_gap_s: sum of the gaps of the resumed ones.
        blocks_last: KV blocks allocated in the last step.
    """

    finished: Bool[Array, " A"]
    prompt_tokens: Int32[Array, ""]
    first_outputs: Int32[Array, ""]
    decodes: Int32[Array, ""]
    resumed: Int32[Array, ""]
    outputs: Int32[Array, ""]
    resumed_gap_s: Float64[Array, ""]
    blocks_last: Int32[Array, ""]


def commit(limits: RankParams, e: Instance, tree_blocks: Array | int = 0) -> tuple[Instance, Emitted]:
    """Carry out the plan: every scheduled slot computes its tokens, those that catch up with their target emit one a step.

    `tree_blocks` are the held blocks of the prefix cache's tree, which the requests share.
    """
    s, plan = e.slots, e.plan
    later = jnp.maximum(plan.steps - 1, 0)
    running = (jnp.arange(s.request.shape[0], dtype=jnp.int32) < e.n) & (s.target < s.final)
    in_step = running & (s.new > 0) & (plan.steps > 0)
    computed = s.computed + jnp.where(in_step, s.new + later, 0)
    token = in_step & (s.computed + s.new >= s.target)
    target = s.target + jnp.where(token, plan.steps, 0)
    first_end_s = plan.start_s + plan.first_s
    fresh = token & ~jnp.isfinite(s.first_token_s)
    decode = token & (s.token_s == plan.start_s)  # the step before, which ended at this very time, gave it a token too
    resumed = token & ~fresh & ~decode
    slots = dataclasses.replace(
        s,
        computed=computed,
        target=target,
        first_token_s=jnp.where(fresh, first_end_s, s.first_token_s),
        token_s=jnp.where(token, plan.end_s, s.token_s),
    )
    blocks = blocks_of(computed, limits.block_size)
    if s.holding is not None:
        blocks -= s.holding.named
    blocks = jnp.where(running, blocks, 0)
    prompt = jnp.where(in_step & ~decode, s.new, 0)
    sums, _, _ = reduce_slots([token, decode, resumed, prompt, blocks])
    emitted = Emitted(
        finished=token & (target >= s.final),
        prompt_tokens=sums[3],
        first_outputs=sums[0],
        decodes=sums[1],
        resumed=sums[2],
        outputs=jnp.where(later > 0, sums[0], 0),
        resumed_gap_s=jnp.sum(jnp.where(resumed, first_end_s - s.token_s, 0.0)),
        blocks_last=sums[4] + tree_blocks,
    )
    return dataclasses.replace(e, slots=slots), emitted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gone:
    """A finished request that has left the slots, if `some`, bool[].

    Attributes:
        request: which, int32[]; the number of requests when none.
        computed, holding: tokens in the cache, and what it held of the prefix cache.
        outcome: its row of `ClusterState.outcome`.
        more: whether another one could leave, bool[].
    """

    some: Bool[Array, ""]
    request: Int32[Array, ""]
    computed: Int32[Array, ""]
    holding: Holding | None
    outcome: Float64[Array, " F"]
    more: Bool[Array, ""]


def release_one(e: Instance, index: Array, api_post_s: Array, nobody: int) -> tuple[Instance, Gone]:
    """Take one finished request out of the slots, if there is one that the coming formation may forget.

    Finishes after the plan's horizon stay: an asynchronous scheduler forms the next step before it hears of them, so they hold their seat
    and their blocks a step longer. An index of `nobody` stands for no request.
    """
    s = e.slots
    A = s.request.shape[0]
    position = jnp.arange(A, dtype=jnp.int32)
    gone = (position < e.n + e.parked) & (s.target >= s.final) & (s.token_s <= e.plan.horizon_s)
    _, _, (first,) = reduce_slots(minima=[jnp.where(gone, position, A)])
    some = first < A
    at = jnp.minimum(first, A - 1)
    row = [
        s.scheduled_s[at],
        s.first_token_s[at] + api_post_s,
        s.token_s[at] + api_post_s,
        s.preemptions[at].astype(jnp.float64),
        index.astype(jnp.float64),
    ]
    if s.holding is not None:
        row.append(s.holding.cached_tokens[at].astype(jnp.float64))
    left = Gone(
        some=some,
        request=jnp.where(some, s.request[at], nobody),
        computed=s.computed[at],
        holding=jax.tree.map(lambda x: x[at], s.holding),
        outcome=jnp.stack(row),
        more=jnp.any(gone & (position > at)),
    )
    close_gap = some & (position >= at)
    # Padding at one end and cutting at the other shifts within the same kernel; `jnp.roll` would make three of every field.
    slots = jax.tree.map(lambda x: jnp.where(close_gap, jax.lax.pad(x, jnp.zeros((), x.dtype), [(-1, 1, 0)]), x), s)
    left_running = (some & (at < e.n)).astype(jnp.int32)
    e = dataclasses.replace(e, slots=slots, n=e.n - left_running, parked=e.parked - some.astype(jnp.int32) + left_running)
    return e, left
