"""SGLang's admission to a decode rank: it keeps tokens free beside the KV caches that it reserves.

A prompt is reserved if `tokens` more than its own are free beside as many for each active request (one that runs, loads, or has loaded),
and if it could end were all others retracted, as each of those that run could.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.handover.rows import rules
from simjax.engine.params import ClusterParams, HeadroomParams
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64

    from simjax.engine.scheduler.waiting import Waiting

NO_HEADROOM = -1


class Headroom(NamedTuple):
    """Whether there is `enough` room for entries of the window, and whether a refusal `lasts` until a request leaves the rank; bool[W]."""

    enough: Bool[Array, " W"]
    lasts: Bool[Array, " W"]


def headroom_for(params: ClusterParams, turn: Turn, waiting: Waiting) -> Headroom:
    """The headroom for the waiting requests that load, of which the first is the only one that may; always enough for others.

    What running requests may still need falls with every step, so that a refusal for its sake may end with any; free tokens only become
    fewer.
    """
    rule, slots, limits, f = _rule(params), turn.rank.slots, turn.limits, turn.formation
    running = (slots.position < turn.rank.num_running) & ~(slots.finished & (slots.token_s <= turn.horizon_s))
    prompt = params.request("prompt_tokens", jnp.minimum(slots.request, turn.state.outcome.shape[0] - 2))
    whole = jnp.minimum(slots.final_tokens, prompt + rule.most_new_tokens)
    (held,), (longest,), _ = reduce_slots([jnp.where(running, slots.num_tokens, 0)], [jnp.where(running, whole, 0)])
    free = _tokens(limits.num_blocks - f.blocks, limits.block_size)
    for_active = rule.tokens * (f.seats + turn.state.handovers.num_waiting(turn.i))
    for_itself = waiting.num_tokens + rule.tokens
    to_end = jnp.minimum(waiting.final_tokens, waiting.num_tokens + rule.most_new_tokens) - held
    enough = (jnp.maximum(for_itself, to_end) + jnp.maximum(for_active, longest - held)).astype(jnp.int64) <= free
    free_of_rule = ~waiting.loads | (rule.tokens == NO_HEADROOM)
    return Headroom(enough | free_of_rule, free_of_rule | ((to_end <= for_itself) & (longest - held <= for_active)))


def can_reserve(params: ClusterParams, request: Int32[Array, ""]) -> Bool[Array, " N"]:
    """Ranks that would reserve a request if they had no other."""
    rule, limits = _rule(params), params.ranks
    prompt, output = params.request("prompt_tokens", request), params.request("output_tokens", request)
    asked = prompt + jnp.maximum(rule.tokens, jnp.minimum(output, rule.most_new_tokens))
    return (rule.tokens == NO_HEADROOM) | (asked.astype(jnp.int64) <= _tokens(limits.num_blocks, limits.block_size))


def _tokens(blocks: Int32[Array, "*N"], block_size: Int32[Array, "*N"]) -> Int64[Array, "*N"]:
    return blocks.astype(jnp.int64) * block_size.astype(jnp.int64)


def _rule(params: ClusterParams) -> HeadroomParams:
    found = rules(params).headroom
    assert found is not None
    return found
