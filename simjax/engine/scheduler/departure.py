"""Departure: a finished request leaves the slots."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.columns import in_order
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.handover.legs import end_prefill
from simjax.engine.host.result import RequestLog
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Departed:
    """A finished request that has left the slots, if there is `some`.

    Attributes:
        request: its index; the number of requests when there is none.
        num_computed_tokens, held: its tokens in the KV cache, and the blocks that it held.
        outcome: its row of `ClusterState.outcome`.
        left_behind: number of others that could leave.
        kept: whether it is on its way to its decode rank: it is not finished, and its blocks stay.
        blocks: KV blocks that it held.
    """

    some: Bool[Array, ""]
    request: Int32[Array, ""]
    num_computed_tokens: Int32[Array, ""]
    held: HeldBlocks | NoHeldBlocks
    outcome: Float64[Array, " F"]
    left_behind: Int32[Array, ""]
    kept: Bool[Array, ""]
    blocks: Int32[Array, ""]

    @property
    def more(self) -> Bool[Array, ""]:
        """Whether another one could leave."""
        return self.left_behind > 0


def depart(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take one finished request out of the slots, if there is one that the coming formation may forget, and free its blocks.

    Finishes after the plan's horizon stay: an asynchronous scheduler forms the next step before it knows of them, so they hold their seat
    and their blocks a step longer.
    """
    rank, slots, position = turn.rank, turn.rank.slots, turn.rank.slots.position
    A, api_post_s = position.shape[0], turn.limits.api_post_s
    leaves = (position < rank.num_running + rank.num_preempted) & slots.finished & (slots.token_s <= rank.plan.horizon_s)
    (leaving,), _, (first,) = reduce_slots([leaves], minima=[jnp.where(leaves, position, A)])
    some, at = first < A, jnp.minimum(first, A - 1)
    held = jax.tree.map(lambda x: x[at], slots.held)
    outcome = {
        "instance": jnp.asarray(turn.i),
        "scheduled_s": slots.scheduled_s[at],
        "first_token_s": slots.first_token_s[at] + api_post_s,
        "finish_s": slots.token_s[at] + api_post_s,
        "preemptions": slots.preemptions[at],
        **held.outcome(),
        **turn.state.tiers.outcome(slots.request[at]),
    }
    departed = Departed(
        some=some,
        request=jnp.where(some, slots.request[at], shape.requests),
        num_computed_tokens=slots.num_computed_tokens[at],
        held=held,
        outcome=jnp.stack([x.astype(jnp.float64) for x in in_order(RequestLog, shape, outcome)]),
        left_behind=leaving - some.astype(jnp.int32),
        kept=jnp.zeros((), bool),
        blocks=slots.drafts.own_blocks(at, blocks_of(slots.num_computed_tokens[at], turn.limits.block_size)),
    )
    close_gap = some & (position >= at)
    # Padding at one end and cutting at the other shifts within the same kernel; `jnp.roll` would make three of every field.
    shifted = jax.tree.map(lambda x: jax.lax.pad(x, jnp.zeros((), x.dtype), [(-1, 1, 0)]), slots)
    slots = jax.tree.map(lambda x, y: jnp.where(close_gap, x, y), shifted, slots)
    from_running = (some & (at < rank.num_running)).astype(jnp.int32)
    rank = dataclasses.replace(
        rank,
        slots=slots,
        num_running=rank.num_running - from_running,
        num_preempted=rank.num_preempted - some.astype(jnp.int32) + from_running,
    )
    turn = end_prefill(shape, params, dataclasses.replace(turn, rank=rank, departed=departed), turn.rank, at)
    return turn.kv.free(shape, params, turn)
