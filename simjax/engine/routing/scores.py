"""Scores of the ranks: numbers that a router minimises for an arriving request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Rank
from simjax.engine.scheduler.plan import first_step_reaching
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, RouterView
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

WAITING_WEIGHT = 4  # vLLM's data-parallel load balancer: a waiting request weighs as much as four running ones


def eligible(params: ClusterParams, request: Int32[Array, ""]) -> Bool[Array, " N"]:
    """Ranks of the request's model whose KV cache and `max_model_len` can hold it; its last token is never put into the cache."""
    limits = params.ranks
    total = params.request("prompt_tokens", request) + params.request("output_tokens", request)
    return (total <= limits.max_model_len) & (blocks_of(total - 1, limits.block_size) <= limits.num_blocks) & of_model(params, request)


def of_model(params: ClusterParams, request: Int32[Array, ""]) -> Bool[Array, " N"] | bool:
    """Ranks that serve the model that the request names; all of them where it names none, or no request does."""
    if params.ranks.model is None:
        return True
    model = params.request("model", request)
    return (model < 0) | (params.ranks.model == model)


def turn_of(params: ClusterParams, request: Int32[Array, ""], turn: Int32[Array, ""]) -> Int32[Array, ""]:
    """The place of a request in the round of the ranks that it can go to: `turn`, or its place among those of its model."""
    return turn if params.ranks.model is None else params.request("model_turn", request)


def kv_tokens_at(ranks: Rank, t_s: Float64[Array, ""]) -> Int64[Array, " N"]:
    """Tokens in each KV cache at t_s, read from state and plan: a step counts once it has ended before t_s."""
    plan = ranks.plan
    reaching = jax.vmap(first_step_reaching, in_axes=(0, None))(plan, t_s)
    ended = jnp.minimum(jnp.maximum(reaching - 1, 0), plan.steps)
    return plan.kv_tokens + jnp.where(ended > 0, plan.tokens + (ended - 1) * plan.running, 0).astype(jnp.int64)


def loads(params: ClusterParams, ranks: Rank) -> Float64[Array, " N"]:
    """(4 waiting + running) / max_num_seqs of each rank."""
    waiting = ranks.plan.preempted + ranks.tail - ranks.head
    return (WAITING_WEIGHT * waiting + ranks.plan.running).astype(jnp.float64) / params.ranks.max_num_seqs.astype(jnp.float64)


def kv_loads(params: ClusterParams, ranks: Rank, t_s: Float64[Array, ""]) -> Float64[Array, " N"]:
    """Tokens in the KV cache of each rank, or promised to a place in it, over its capacity."""
    limits = params.ranks
    tokens = kv_tokens_at(ranks, t_s) + (ranks.queued_tokens + ranks.plan.preempted_tokens)
    return tokens.astype(jnp.float64) / (limits.num_blocks.astype(jnp.float64) * limits.block_size.astype(jnp.float64))


def scores(
    shape: EngineShape, params: ClusterParams, state: ClusterState, request: Int32[Array, ""], t_s: Float64[Array, ""]
) -> tuple[Float64[Array, " N"], RouterView]:
    """Scores for a request that arrives at t_s, the lowest wins; and the router's view of the ranks afterwards.

    The weighted sum of the part of the prompt that is not in the prefix cache, of `loads` and of `kv_loads`. With session affinity, from
    the second call of a session on, it is 0 for the rank of its latest call, if that can serve it, and 1 for the others.
    """
    router, view = params.router, look(params, state, t_s)
    score = state.kv.missed_score(shape, params, view.contents, request)
    score = score + product(router.queue_weight, view.load) + product(router.kv_weight, view.kv_load)
    return state.arrivals.with_affinity(params, request, score, eligible(params, request)), view


def look(params: ClusterParams, state: ClusterState, t_s: Float64[Array, ""]) -> RouterView:
    """The router's view at t_s: renewed if it is `staleness_s` old; what is not kept in the state is always new."""
    new = RouterView(t_s, loads(params, state.ranks), kv_loads(params, state.ranks, t_s), state.kv.contents())
    return state.view.renewed(new, params.router.staleness_s)
