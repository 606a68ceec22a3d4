"""The pp stages of a rank and the batches on their way through them: vLLM's engine loop with a queue of batches.

The loop (`EngineCore.step_with_batch_queue`) repeats passes. A pass sees the requests that have come, lets the scheduler form a batch,
which may be empty, and puts it into the queue; if that is full, it waits for the oldest batch and gives its tokens to the requests. Filling
comes before waiting. After a pass whose batch was empty although requests are left the loop sleeps. A queue has a place for each stage, and
one more with asynchronous scheduling.

Times are those of max-plus algebra: a batch starts on the first stage once it is formed, the batch before has left that stage, and (if the
scheduler does not wait for them) the tokens that it decodes from are there; on every other stage once it has come there and the batch
before has left. So its end is known when it is formed, and waiting for it is an event of the rank.

Legend: N ranks, J pp stages, Q = J + 1 places of the ring.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.params import RankParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

    from simjax.engine.rank import Plan, Rank


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoLine:
    """One stage: a plan's steps follow each other."""

    call: ClassVar[int] = 0

    @staticmethod
    def due_s(plan: Plan, due_s: Float64[Array, "*N"]) -> Float64[Array, "*N"]:
        """Time of the rank's next turn, which is `due_s` of its plan and looks."""
        return due_s

    @staticmethod
    def prefill_and_sequences(rank: Rank) -> tuple[Int64[Array, ""], Int32[Array, ""]]:
        """Tokens of the plan's first step that are of requests with more than one, and requests in the step."""
        new = rank.slots.num_new_tokens
        return jnp.sum(jnp.where(rank.slots.drafts.in_prompt(new), new, 0), axis=-1, dtype=jnp.int64), rank.plan.running


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches in flight, by their place in the ring (a leading N axis in `ClusterState`).

    Attributes:
        start_s, end_s: start on the first stage, and time at which the last one has sampled; of an empty batch that of its formation.
        tokens, prompt_tokens, prefill_tokens: tokens that it computes; those that no decode computes; those of requests with more than one.
        sequences: requests in it.
    """

    start_s: Float64[Array, "*N Q"]
    end_s: Float64[Array, "*N Q"]
    tokens: Int32[Array, "*N Q"]
    prompt_tokens: Int32[Array, "*N Q"]
    prefill_tokens: Int32[Array, "*N Q"]
    sequences: Int32[Array, "*N Q"]

    def with_batch(self, at: Bool[Array, " Q"], batch: dict[str, Array]) -> Batches:
        """The ring with a batch in the place of the mask."""
        return Batches(**{name: jnp.where(at, x, getattr(self, name)) for name, x in batch.items()})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Line:
    """The stages of a rank and its loop; scalars but for the first two (a leading N axis in `ClusterState`).

    Attributes:
        free_s: time from which each stage is free.
        batches: ring of the batches in flight.
        call, first: number of the next call of the scheduler, and of the one that formed the oldest batch in flight; a batch has the place
            of its call's number modulo Q.
        pops: the turn begins when the oldest batch is back, and with its tokens.
        at_once: the turn follows the one before at the same instant: nothing may come between.
        ran: the last call found something to run.
        waiting: the last call left requests in the queue; with drafts, or a request has ended since.
        pauses: the loop sleeps before the next call.
        empty_calls: calls in a row that found nothing to run.
        returned_s: time at which the last batch with tokens was back.
    """

    free_s: Float64[Array, "*N J"]
    batches: Batches
    call: Int32[Array, "*N"]
    first: Int32[Array, "*N"]
    pops: Bool[Array, "*N"]
    at_once: Bool[Array, "*N"]
    ran: Bool[Array, "*N"]
    waiting: Bool[Array, "*N"]
    pauses: Bool[Array, "*N"]
    empty_calls: Int32[Array, "*N"]
    returned_s: Float64[Array, "*N"]

    @property
    def places(self) -> int:
        """Q, places of the ring."""
        return self.batches.end_s.shape[-1]

    def place(self, call: Int32[Array, ""]) -> Int32[Array, ""]:
        """Place in the ring of the batch that a call forms."""
        return jax.lax.rem(call, jnp.int32(self.places))

    @property
    def oldest(self) -> Int32[Array, ""]:
        """Place of the oldest batch in flight."""
        return self.place(self.first)

    def due_s(self, plan: Plan, due_s: Float64[Array, "*N"]) -> Float64[Array, "*N"]:
        """Time of the rank's next turn; -infinity while it goes on at the same instant."""
        return jnp.where(self.at_once, -jnp.inf, plan.end_s)

    def prefill_and_sequences(self, rank: Rank) -> tuple[Int64[Array, ""], Int32[Array, ""]]:
        """Tokens of the batch that is back which are of requests with more than one, and requests in the batch."""
        return self.batches.prefill_tokens[self.oldest].astype(jnp.int64), self.batches.sequences[self.oldest]


def most_batches(limits: RankParams) -> Int32[Array, ""]:
    """Places in the queue of a rank: one a stage, and one more if scheduling is asynchronous."""
    assert limits.pipeline_stages is not None
    return limits.pipeline_stages + limits.async_scheduling.astype(jnp.int32)


def initial_line(shape: EngineShape) -> Line | NoLine:
    """Stages without a batch."""
    if not shape.pipeline_stages:
        return NoLine()
    N, J, Q = shape.ranks, shape.pipeline_stages, shape.batches
    ring_s, ring = jnp.zeros((N, Q), jnp.float64), jnp.zeros((N, Q), jnp.int32)
    number, off, early = jnp.zeros((N,), jnp.int32), jnp.zeros((N,), bool), jnp.full((N,), -jnp.inf, jnp.float64)
    return Line(
        free_s=jnp.full((N, J), -jnp.inf, jnp.float64),
        batches=Batches(ring_s, ring_s, ring, ring, ring, ring),
        call=number,
        first=number,
        pops=off,
        at_once=off,
        ran=off,
        waiting=off,
        pauses=off,
        empty_calls=number,
        returned_s=early,
    )
