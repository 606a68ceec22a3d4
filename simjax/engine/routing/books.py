"""The router's own books: what it knows of the requests that it has routed, without asking the ranks.

It has sent every request to its rank, and every token comes back through it: so it knows which prompts are not yet prefilled and which
requests are not yet answered in full. Like Dynamo's KV router it counts prompts only, whole until their first token.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_last
from simjax.engine.handover.table import Handovers, NoHandovers
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Rank
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ActiveWork:
    """Requests on each rank that have not been answered in full; arrays over N.

    Attributes:
        tokens: prompt tokens of those that have no token yet; 0 for a second leg, whose prompt is prefilled elsewhere.
        blocks: KV blocks of their prompts.
        requests: their number.
    """

    tokens: Int64[Array, " N"]
    blocks: Int64[Array, " N"]
    requests: Int32[Array, " N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterBooks:
    """Totals of the requests that were routed to each rank and have not left its slots."""

    routed: ActiveWork

    def sent(self, params: ClusterParams, request: Array, mine: Array, prefilled: Array) -> RouterBooks:
        """The books once a request was sent to the ranks of a mask, to some of them with its prompt prefilled."""
        return self._changed(params, request, mine.astype(jnp.int32), prefilled)

    def left(
        self,
        params: ClusterParams,
        handovers: Handovers | NoHandovers,
        i: Array | int,
        request: Array,
        leaves: Array,
    ) -> RouterBooks:
        """The books once a request has left the slots of rank i, if it does."""
        number = jnp.arange(self.routed.requests.shape[0], dtype=jnp.int32)
        request = jnp.minimum(request, params.requests.prompt_tokens.shape[1] - 1)
        prefilled = _prefilled(handovers, request, number)
        return self._changed(params, request, -(leaves & (number == i)).astype(jnp.int32), prefilled)

    def _changed(self, params: ClusterParams, request: Array, count: Array, prefilled: Array) -> RouterBooks:
        prompt = params.request("prompt_tokens", request)
        return RouterBooks(
            ActiveWork(
                self.routed.tokens + jnp.where(prefilled, 0, count * prompt).astype(jnp.int64),
                self.routed.blocks + (count * blocks_of(prompt, params.ranks.block_size)).astype(jnp.int64),
                self.routed.requests + count,
            )
        )

    def at(self, params: ClusterParams, ranks: Rank, handovers: Handovers | NoHandovers, t_s: Array) -> ActiveWork:
        """The requests that are active at t_s: a token counts once the step that gives it has ended before t_s.

        Read from the slots and the plan, so that it is the same however many steps the plan has.
        """
        slots, plan = ranks.slots, ranks.plan
        N, A = slots.request.shape
        position = jnp.broadcast_to(jnp.arange(A, dtype=jnp.int32), (N, A))
        request = jnp.minimum(slots.request, params.requests.prompt_tokens.shape[1] - 1)
        prompt, size = params.request("prompt_tokens", request), params.ranks.block_size[:, None]
        here = position < (ranks.num_running + ranks.num_preempted)[:, None]
        ended = here & slots.finished & (slots.token_s <= t_s)
        in_step = (position < ranks.num_running[:, None]) & ~slots.finished & (slots.num_new_tokens > 0) & (plan.steps > 0)[:, None]
        given = in_step & (slots.num_computed_tokens + slots.num_new_tokens >= slots.num_tokens)
        given &= (plan.start_s + plan.first_s < t_s)[:, None]
        prefilled = here & (given | (slots.first_token_s <= t_s))
        prefilled &= ~_prefilled(handovers, request, jnp.arange(N, dtype=jnp.int32)[:, None])
        (tokens, blocks, requests), _, _ = reduce_last(
            [jnp.where(prefilled, prompt, 0), jnp.where(ended, blocks_of(prompt, size), 0), ended]
        )
        routed = self.routed
        return ActiveWork(routed.tokens - tokens.astype(jnp.int64), routed.blocks - blocks.astype(jnp.int64), routed.requests - requests)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoBooks:
    """No memory: no router asks for it."""

    def sent(self, params: ClusterParams, request: Array, mine: Array, prefilled: Array) -> NoBooks:
        """Nothing is kept."""
        return self

    def left(
        self,
        params: ClusterParams,
        handovers: Handovers | NoHandovers,
        i: Array | int,
        request: Array,
        leaves: Array,
    ) -> NoBooks:
        """Nothing is kept."""
        return self


def initial_books(shape: EngineShape) -> RouterBooks | NoBooks:
    """Books before the run."""
    if not shape.router_books:
        return NoBooks()
    i64 = jnp.zeros((shape.ranks,), jnp.int64)
    return RouterBooks(ActiveWork(i64, i64, jnp.zeros((shape.ranks,), jnp.int32)))


def _prefilled(handovers: Handovers | NoHandovers, request: Array, rank: Array) -> Array:
    """Whether requests are on a rank for their second legs."""
    if not isinstance(handovers, Handovers):
        return jnp.zeros((), bool)
    return handovers.decode_of[request] == rank
