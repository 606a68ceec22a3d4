"""A step being formed: what is left to give, and what the running requests ask for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.kv.before import OF_TOKENS, BlocksKept, BlocksOfTokens
from simjax.engine.params import RankParams
from simjax.engine.rank import NEVER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Formation:
    """A step being formed; scalars.

    Attributes:
        token_budget: tokens left of `max_num_batched_tokens`.
        seats: requests that hold a seat.
        blocks: KV blocks allocated once the step runs.
        reserved: blocks that running prefills need in later steps; 0 without hand-overs.
        alone: the only request, running or waiting, may exceed `long_prefill_token_threshold`.
        preempted: requests preempted in this formation.
        holding: a finished request still holds its seat and blocks.
        leaving: a finished request is still in the slots, holding or not: a rank that forms no step forms again.
        continues: the step waits for departures, the window is used up or no slot is free: the formation continues in the next tick.
        refused: a waiting request is visible but stays out.
        stays: and it will stay out at least until a request finishes.
        blocked: and so will any arrival.
        shut: nothing may join in this tick, though seats and tokens are left.
        holds_prompts: prompts of more than a token wait in this step.
        some_run, some_prompts: with drafts, whether requests that ran before are in the step, and prompts of which a part was computed.
        next_queued_s: time at which the next request, not visible yet, was or will be queued; infinity when none is known.
    """

    token_budget: Int32[Array, ""]
    seats: Int32[Array, ""]
    blocks: Int32[Array, ""]
    reserved: Int32[Array, ""]
    alone: Bool[Array, ""]
    preempted: Int32[Array, ""]
    holding: Bool[Array, ""]
    leaving: Bool[Array, ""]
    continues: Bool[Array, ""]
    refused: Bool[Array, ""]
    stays: Bool[Array, ""]
    blocked: Bool[Array, ""]
    shut: Bool[Array, ""]
    holds_prompts: Bool[Array, ""]
    some_run: Bool[Array, ""]
    some_prompts: Bool[Array, ""]
    next_queued_s: Float64[Array, ""]

    @classmethod
    def of_running(cls, **known: Array) -> Formation:
        """The formation once the running requests have their tokens; what is not given is 0, off, or not known."""
        numbers = dict.fromkeys(("reserved", "preempted"), jnp.zeros((), jnp.int32))
        names = ("holding", "leaving", "refused", "stays", "blocked", "shut", "holds_prompts", "some_run", "some_prompts")
        flags = dict.fromkeys(names, jnp.zeros((), bool))
        return cls(**{**numbers, **flags, "next_queued_s": jnp.full((), NEVER, jnp.float64), **known})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Demand:
    """Requests with a seat, and their blocks; arrays over the slots.

    Attributes:
        running, seated: requests that run; and those with a seat, the finished included that the scheduler does not know of yet.
        blocks: blocks of each that is seated, once the step runs; with prefix caching without those in the tree of contents.
        last: slot of the last that runs, the only one that may be in the middle of its prompt.
        had: blocks of each before the step, counted likewise.
        need, computed: with drafts and priorities, tokens that each would compute with budget enough, and those that the scheduler takes
            for computed; None otherwise.
    """

    running: Bool[Array, " A"]
    seated: Bool[Array, " A"]
    blocks: Int32[Array, " A"]
    last: Int32[Array, ""]
    had: BlocksKept | BlocksOfTokens = OF_TOKENS
    need: Int32[Array, " A"] | None = None
    computed: Int32[Array, " A"] | None = None


def capped(need: Int32[Array, "*A"], limits: RankParams, alone: Bool[Array, ""]) -> Int32[Array, "*A"]:
    """Tokens that a request may compute in one step under `long_prefill_token_threshold`, which does not hold for one that is alone."""
    threshold = limits.long_prefill_token_threshold
    return jnp.minimum(need, jnp.where((threshold > 0) & ~alone, threshold, INT32_MAX))
