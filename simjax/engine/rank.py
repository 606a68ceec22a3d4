"""The state of one rank: the requests in its slots, and its plan until its next event.

Legend: S slots (A = S+W array entries), N ranks, W window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

    from simjax.engine.handover.passes import NoPasses, Passes
    from simjax.engine.pipeline.flight import Flight, NoFlight
    from simjax.engine.pipeline.line import Line, NoLine
    from simjax.engine.speculation.drafts import Drafts, NoDrafts
    from simjax.engine.tiers.passes import TierPasses

NEVER = float("inf")
WITH_ALL_TOKENS = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """Requests in a rank, in admission order; arrays over S+W slots (a leading N axis in `ClusterState`).

    Slots [0, num_running) run; the next `num_preempted` were preempted and wait, the first of them at the head of the queue. Preempting
    from the tail is then only a smaller `num_running`, and resuming a larger one. A finished request keeps its slot until it has been
    written to the outcome table.

    Attributes:
        request: request index; R in an unused slot.
        num_computed_tokens: tokens whose KV is in the cache.
        num_tokens: prompt tokens plus output tokens generated so far; the next one appears once all of them are computed.
        final_tokens: prompt plus output tokens; the request is finished when `num_tokens` gets there.
        num_new_tokens: tokens computed in the first step of the plan, 0 for a request that is not in it.
        preemptions: times the request was preempted, also with its last token in flight, as vLLM counts it.
        scheduled_s, first_token_s, token_s: start of the first step, end of the step that gave the first and the latest token.
        held: KV blocks that the request shares through the prefix cache.
        last_tokens: with hand-overs, tokens computed in the latest step, `WITH_ALL_TOKENS` for a request that has come finished from its
            prefill and has not been answered; None without.
        flight: what each has in flight between pp stages.
        drafts: what each has of speculative decoding.
        answered: with sessions, whether the calls that wait for a finished request have its answer; None without.
        decoding: with groups, whether it has got a token since its admission; None without.
    """

    request: Int32[Array, "*N A"]
    num_computed_tokens: Int32[Array, "*N A"]
    num_tokens: Int32[Array, "*N A"]
    final_tokens: Int32[Array, "*N A"]
    num_new_tokens: Int32[Array, "*N A"]
    preemptions: Int32[Array, "*N A"]
    scheduled_s: Float64[Array, "*N A"]
    first_token_s: Float64[Array, "*N A"]
    token_s: Float64[Array, "*N A"]
    held: HeldBlocks | NoHeldBlocks
    flight: Flight | NoFlight
    drafts: Drafts | NoDrafts
    last_tokens: Int32[Array, "*N A"] | None
    answered: Bool[Array, "*N A"] | None
    decoding: Bool[Array, "*N A"] | None = None

    @property
    def position(self) -> Int32[Array, " A"]:
        """Numbers of the slots of one rank."""
        return jnp.arange(self.request.shape[0], dtype=jnp.int32)

    @property
    def finished(self) -> Bool[Array, "*N A"]:
        """Slots whose request, if there is one, has its last token."""
        return self.num_tokens >= self.final_tokens


def last_tokens_of(slots: Slots) -> Int32[Array, "*N A"]:
    """Tokens computed in the latest step, where there are hand-overs."""
    assert slots.last_tokens is not None
    return slots.last_tokens


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PlannedWork:
    """What the steps of a plan do on the devices of a rank, in seconds; step j >= 2 as the step times of a `Plan`.

    Attributes:
        busy_s, next_busy_s, busy_slope_s: device time.
        memory_s, next_memory_s, memory_slope_s: time of the bytes at the data sheet's bandwidth.
        compute_s, next_compute_s, compute_slope_s: time of the FLOPs at the data sheet's peak.
    """

    busy_s: Float64[Array, "*N"]
    next_busy_s: Float64[Array, "*N"]
    busy_slope_s: Float64[Array, "*N"]
    memory_s: Float64[Array, "*N"]
    next_memory_s: Float64[Array, "*N"]
    memory_slope_s: Float64[Array, "*N"]
    compute_s: Float64[Array, "*N"]
    next_compute_s: Float64[Array, "*N"]
    compute_slope_s: Float64[Array, "*N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """The plan of a rank until its next event; scalars (a leading N axis in `ClusterState`).

    `steps` steps from `start_s`: the first takes `first_s`, step j >= 2 takes `next_s + slope_s * (j - 2)` and is pure decode of the same
    requests. Without steps the rank waits until `end_s` (infinity: until a request comes), or continues to form a step at once.

    Attributes:
        start_s, end_s: start and end.
        horizon_s: the formation after this plan sees arrivals and finishes up to this time.
        first_s, next_s, slope_s: step times, as above.
        steps: number of steps.
        open: whether an arrival could join before the plan ends, so that routing one here cuts the plan short.
        tokens, blocks: scheduled tokens and allocated KV blocks of the first step.
        running, preempted: requests in that state once the step was formed.
        kv_tokens: tokens in the KV cache when the plan starts.
        preempted_tokens: tokens that the preempted requests will have to compute again.
        cached_blocks: with prefix caching, free blocks that have been in use before, most of them with a hash; None without.
        work: what its steps do on the devices; None where power is not simulated.
    """

    start_s: Float64[Array, "*N"]
    end_s: Float64[Array, "*N"]
    horizon_s: Float64[Array, "*N"]
    first_s: Float64[Array, "*N"]
    next_s: Float64[Array, "*N"]
    slope_s: Float64[Array, "*N"]
    steps: Int32[Array, "*N"]
    open: Bool[Array, "*N"]
    tokens: Int32[Array, "*N"]
    running: Int32[Array, "*N"]
    preempted: Int32[Array, "*N"]
    blocks: Int32[Array, "*N"]
    kv_tokens: Int64[Array, "*N"]
    preempted_tokens: Int64[Array, "*N"]
    cached_blocks: Int32[Array, "*N"] | None
    work: PlannedWork | None = None

    def due_s(self) -> Float64[Array, "*N"]:
        """Time at which the rank needs its next turn; -infinity while a formation continues: nothing may come between."""
        return jnp.where((self.steps == 0) & ~self.open, -NEVER, self.end_s)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rank:
    """One scheduler with its slots, queue and KV blocks (a leading N axis in `ClusterState`).

    Attributes:
        slots, plan: requests and plan.
        num_running, num_preempted: boundaries in the slots.
        head, tail: the queue of requests never admitted is entries [head, tail) of the rank's routing list. Without live routing the
            list is complete from the start, and its later entries have not arrived yet.
        queued_tokens: prompt tokens in that queue (kept by live routing only).
        passes: looks of the rank at transfers, or at copies of its KV tier.
        pipeline: its pp stages and the batches on their way through them.
        requeued: where requests have priorities, preempted ones, which wait in the queue among the others; None without.
    """

    slots: Slots
    plan: Plan
    num_running: Int32[Array, "*N"]
    num_preempted: Int32[Array, "*N"]
    head: Int32[Array, "*N"]
    tail: Int32[Array, "*N"]
    queued_tokens: Int64[Array, "*N"]
    passes: Passes | NoPasses | TierPasses
    pipeline: Line | NoLine
    requeued: Int32[Array, "*N"] | None

    @property
    def num_requeued(self) -> Int32[Array, "*N"]:
        """Preempted requests in the queue, where requests have priorities."""
        assert self.requeued is not None
        return self.requeued

    def due_s(self) -> Float64[Array, "*N"]:
        """Time at which the rank needs its next turn."""
        return self.pipeline.due_s(self.plan, self.passes.due_s(self.plan))
