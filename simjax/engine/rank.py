"""The state of one engine: the requests in its slots, and what it is doing until its next event.

Legend: S slots (S+W array entries), N instances, W window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

NEVER = float("inf")
NO_COPY = -1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Holding:
    """What requests hold of the tree of contents, arrays over S+W slots.

    Attributes:
        named: leading blocks of the content, as far as they are held in the tree.
        copy_at, copy_blocks: the node of the request's path of which it holds a nameless copy, `NO_COPY` for none, and that copy's blocks.
        cached_tokens: found in the cache when the request was first admitted.
    """

    named: Int32[Array, "*N A"]
    copy_at: Int32[Array, "*N A"]
    copy_blocks: Int32[Array, "*N A"]
    cached_tokens: Int32[Array, "*N A"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slots:
    """Requests in an engine, in admission order; arrays over S+W slots (a leading N axis in `ClusterState`).

    Slots [0, n) run; [n, n + parked) were preempted and wait, the first of them at the head of the queue. So preempting from the tail is
    only `n -= 1` and resuming `n += 1`. A finished request keeps its slot until it has been written to the outcome table.

    Attributes:
        request: request index; R in an unused slot.
        computed: tokens whose KV is in the cache.
        target: tokens to compute before the next output token appears: prompt plus tokens generated so far.
        final: prompt plus output tokens; the request is finished when `target` gets there.
        new: tokens computed in the first step of the plan, 0 when not in it.
        preemptions: times the request was preempted.
        scheduled_s, first_token_s, token_s: start of the first step, end of the step that gave the first and the latest token.
        holding: with prefix caching, else None.
        answered: with sessions, whether the calls that wait for a finished request know of it; else None.
    """

    request: Int32[Array, "*N A"]
    computed: Int32[Array, "*N A"]
    target: Int32[Array, "*N A"]
    final: Int32[Array, "*N A"]
    new: Int32[Array, "*N A"]
    preemptions: Int32[Array, "*N A"]
    scheduled_s: Float64[Array, "*N A"]
    first_token_s: Float64[Array, "*N A"]
    token_s: Float64[Array, "*N A"]
    holding: Holding | None = None
    answered: Bool[Array, "*N A"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """What an engine is doing until its next event; scalars (a leading N axis in `ClusterState`).

    `steps` steps from `start_s`: the first takes `first_s`, step j >= 2 takes `next_s + slope_s * (j - 2)` and is pure decode of the same
    requests. No steps: the engine waits until `end_s` (infinity: until a request comes), or goes on forming a step at once.

    Attributes:
        start_s, end_s: when it starts and ends.
        horizon_s: what the formation after this plan may see: arrivals and finishes up to this time.
        first_s, next_s, slope_s: its step times, as above.
        steps: how many.
        open: whether an arrival could join before the plan ends, so that routing one here cuts the plan short.
        tokens, blocks: of the first step. running, preempted: requests once it was formed.
        kv_tokens: tokens in the cache when the plan starts.
        preempted_tokens: tokens that the preempted requests will have to compute again.
        cached: with prefix caching, blocks that nobody holds and that have been in use before, most of them with a name; else None.
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
    cached: Int32[Array, "*N"] | None = None

    def due_s(self) -> Array:
        """When the engine needs the next look; -infinity in the middle of an event, a formation that goes on: nothing may come between."""
        return jnp.where((self.steps == 0) & ~self.open, -NEVER, self.end_s)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Instance:
    """One engine (a leading N axis in `ClusterState`).

    Attributes:
        slots, plan: see there.
        n, parked: boundaries in the slots.
        head, tail: its queue of never-admitted requests is entries [head, tail) of the instance's routing list. Without live routing the
            list is complete from the start, and its later entries have not arrived yet.
        queued_tokens: prompt tokens in that queue (kept by live routing only).
    """

    slots: Slots
    plan: Plan
    n: Int32[Array, "*N"]
    parked: Int32[Array, "*N"]
    head: Int32[Array, "*N"]
    tail: Int32[Array, "*N"]
    queued_tokens: Int64[Array, "*N"]
