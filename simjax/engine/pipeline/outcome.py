"""What comes of a batch between pp stages: known to the simulator when it is sent, to the scheduler when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import together
from simjax.engine.params import ClusterParams, SpeculationParams
from simjax.engine.pipeline.flight import Flight
from simjax.engine.speculation.drafts import Drafts, NoDrafts
from simjax.engine.speculation.draws import accepted, uniform
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Outcome(NamedTuple):
    """What a batch does to the requests in the slots, if it runs.

    Attributes:
        sampled: requests that get tokens.
        num_computed_tokens: tokens whose KV is in the cache once the batch is through, int32[A].
        drafts: what each then has of speculative decoding.
        lost: with drafts, tokens of each that the batch computes and that are none of its text, int32[A]; empty without.
        verified: with drafts, requests of which it verifies some, these drafts, and those accepted, int32[3, A]; empty without.
    """

    sampled: Bool[Array, " A"]
    num_computed_tokens: Int32[Array, " A"]
    drafts: Drafts | NoDrafts
    lost: tuple[Array, ...] = ()
    verified: tuple[Array, ...] = ()

    def counts(self, ran: Bool[Array, ""]) -> Int32[Array, " Y"] | None:
        """`Emitted.drafts` of the batch, if it runs; they count when it is sent."""
        return jnp.where(ran, jnp.sum(self.verified[0], axis=1, dtype=jnp.int32), 0) if self.verified else None


def outcome_of(params: ClusterParams, turn: Turn, new: Int32[Array, " A"]) -> Outcome:
    """The outcome of the batch that is formed; `new`: tokens of each request in it.

    With drafts, a request that has ended in a batch in flight computes its tokens for nothing: the scheduler did not know.
    """
    slots, own = turn.rank.slots, params.speculation
    flight, drafts = slots.flight, slots.drafts
    assert isinstance(flight, Flight)
    inside, computed = new > 0, slots.num_computed_tokens + new
    if not isinstance(drafts, Drafts):
        return Outcome(inside & (computed >= slots.num_tokens + flight.placeholders), computed, drafts)
    assert isinstance(own, SpeculationParams)
    unseen = flight.sampled != 0
    tokens = slots.num_tokens + jnp.where(unseen, drafts.emitted, 0)
    ended = tokens >= slots.final_tokens
    sampled = inside & ~ended & (computed >= tokens)
    verified = jnp.where(sampled, computed - tokens, 0)
    # Drawn once: XLA would repeat the hash in each array that comes from it.
    right = jnp.where(drafts.padded, 0, verified)
    (taken,) = together([accepted(uniform(own.seed, slots.request, tokens), own.rates[turn.i], right)])
    emitted = jnp.minimum(1 + taken, slots.final_tokens - tokens)
    kept = jnp.where(ended, slots.num_computed_tokens, jnp.where(sampled, tokens + emitted - 1, computed))
    after = drafts.in_flight(inside, sampled, emitted, computed - kept, jnp.where(unseen, drafts.emitted, 0))
    counted = jnp.stack([(verified > 0).astype(jnp.int32), verified, jnp.where(sampled, taken, 0)])
    return Outcome(sampled, kept, after, (jnp.where(inside, computed - kept, 0),), (counted,))
