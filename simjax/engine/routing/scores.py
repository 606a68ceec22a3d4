"""Scores of the ranks: numbers that a router minimises for an arriving request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX, reduce_last
from simjax.engine.handover.headroom import can_reserve
from simjax.engine.handover.passes import Passes
from simjax.engine.handover.table import Role
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.rank import Rank
from simjax.engine.routing.books import RouterBooks
from simjax.engine.scheduler.plan import first_step_reaching
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, RouterView
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

WAITING_WEIGHT = 4  # vLLM's data-parallel load balancer: a waiting request weighs as much as four running ones


def eligible(shape: EngineShape, params: ClusterParams, request: Int32[Array, ""]) -> Bool[Array, " N"]:
    """Ranks of the request's model whose KV cache and `max_model_len` can hold it; its last token is never put into the cache."""
    limits = params.ranks
    prompt, output = params.request("prompt_tokens", request), params.request("output_tokens", request)
    total = prompt + output
    held = params.speculation.most_tokens(limits, prompt, output, jnp)
    return _offered(shape, params, request, (total <= limits.max_model_len) & (blocks_of(held, limits.block_size) <= limits.num_blocks))


def _offered(shape: EngineShape, params: ClusterParams, request: Int32[Array, ""], able: Bool[Array, " N"]) -> Bool[Array, " N"]:
    """Those of the able ranks that the router chooses from: of the model that the request names, and the first ones of their instances.

    All of them where no request names a model, and no instance balances the load of its ranks itself.
    """
    able = params.balancer.offered(able)
    if not shape.models:
        return able
    model = params.request("model", request)
    return able & ((model < 0) | (params.ranks.model == model))


def legs_eligible(shape: EngineShape, params: ClusterParams, request: Int32[Array, ""]) -> tuple[Bool[Array, " N"], Bool[Array, " N"]]:
    """Ranks that can take a request when it arrives, and those that can decode it: a prefill rank holds the prompt and gives one token."""
    limits, handover = params.ranks, params.handover
    assert handover is not None
    prompt, whole = params.request("prompt_tokens", request), eligible(shape, params, request)
    held = params.speculation.most_tokens(limits, prompt, jnp.ones_like(prompt), jnp)
    fits = (prompt + 1 <= limits.max_model_len) & (blocks_of(held, limits.block_size) <= limits.num_blocks)
    fits = _offered(shape, params, request, fits)
    prefill = handover.role == Role.PREFILL
    decode = (handover.role == Role.DECODE) & whole
    if shape.headroom:
        decode &= can_reserve(params, request)
    fits &= jnp.any(decode)  # there is no first leg without a second
    return (prefill & fits) | ((handover.role == Role.BOTH) & whole), decode


def kv_tokens_at(ranks: Rank, t_s: Float64[Array, ""]) -> Int64[Array, " N"]:
    """Tokens in each KV cache at t_s, read from state and plan: a step counts once it has ended before t_s.

    Where ranks have roles it counts once it has started: an asynchronous one forms the next step then, with the tokens of this one.
    """
    plan = ranks.plan
    reaching = jax.vmap(first_step_reaching, in_axes=(0, None))(plan, t_s)
    count = jnp.minimum(jnp.maximum(reaching - 1, 0), plan.steps)
    if isinstance(ranks.passes, Passes):
        count = jnp.where(t_s >= plan.start_s, jnp.minimum(jnp.maximum(reaching, 1), plan.steps), 0)
    tokens = plan.kv_tokens + jnp.where(count > 0, plan.tokens + (count - 1) * plan.running, 0).astype(jnp.int64)
    return jnp.where(ranks.passes.drained, 0, tokens) if isinstance(ranks.passes, Passes) else tokens


def waiting_requests(ranks: Rank, loading: Int32[Array, " N"] | int = 0) -> Int32[Array, " N"]:
    """Requests that wait in each rank, also those that load their KV cache."""
    preempted = ranks.plan.preempted if ranks.requeued is None else 0  # in the queue they are counted there
    return preempted + ranks.tail - ranks.head + loading


def loads(params: ClusterParams, ranks: Rank, loading: Int32[Array, " N"] | int = 0) -> Float64[Array, " N"]:
    """(4 waiting + running) / max_num_seqs of each rank, or of its instance; requests that load their KV cache wait."""
    weight = WAITING_WEIGHT * waiting_requests(ranks, loading) + ranks.plan.running
    seats = params.balancer.sum_of_instance(params.ranks.max_num_seqs)
    return params.balancer.sum_of_instance(weight).astype(jnp.float64) / seats.astype(jnp.float64)


def kv_loads(params: ClusterParams, ranks: Rank, t_s: Float64[Array, ""]) -> Float64[Array, " N"]:
    """Tokens in the KV cache of each rank, or of those of its instance, or promised to a place in it, over its capacity."""
    tokens = kv_tokens_at(ranks, t_s) + (ranks.queued_tokens + ranks.plan.preempted_tokens)
    return params.balancer.sum_of_instance(tokens).astype(jnp.float64) / params.balancer.sum_of_instance(kv_capacity(params))


def kv_capacity(params: ClusterParams) -> Float64[Array, " N"]:
    """Tokens that the KV cache of each rank holds."""
    return params.ranks.num_blocks.astype(jnp.float64) * params.ranks.block_size.astype(jnp.float64)


def relative_queues(waiting: Int32[Array, " N"], able: Bool[Array, " N"]) -> Float64[Array, " N"]:
    """The place of each queue between the shortest (0) and the longest (1) one of the able ranks; 0 where these are equally long."""
    _, (most,), (least,) = reduce_last([], [jnp.where(able, waiting, 0)], [jnp.where(able, waiting, INT32_MAX)])
    return (waiting - least).astype(jnp.float64) / jnp.maximum(most - least, 1).astype(jnp.float64)


def costs(
    shape: EngineShape,
    params: ClusterParams,
    router: RouterParams,
    state: ClusterState,
    view: RouterView,
    request: Int32[Array, ""],
    wanted: Bool[Array, ""],
    t_s: Float64[Array, ""],
) -> Float64[Array, " N"]:
    """Costs of Dynamo's KV router for a request at t_s, in blocks of each rank (`CostWeights`); they may be wrong if not wanted."""
    assert isinstance(state.books, RouterBooks)
    active = state.books.at(params, state.ranks, state.handovers, t_s)
    prompt, size = params.request("prompt_tokens", request), params.ranks.block_size.astype(jnp.float64)
    to_prefill = (active.tokens + prompt.astype(jnp.int64)).astype(jnp.float64) / size
    share = state.kv.missed_share(shape, params, view.contents, request, wanted & (router.overlap_credit != 0))
    cached = product(prompt.astype(jnp.float64), 1.0 - share) / size
    prefill = jnp.maximum(to_prefill - product(router.overlap_credit, cached), 0.0)
    busy = product(router.blocks_weight, active.blocks.astype(jnp.float64))
    busy += product(router.active_weight, active.requests.astype(jnp.float64))
    return product(router.prefill_load_scale, prefill) + busy


def scores(
    shape: EngineShape,
    params: ClusterParams,
    router: RouterParams,
    state: ClusterState,
    view: RouterView,
    request: Int32[Array, ""],
    able: Bool[Array, " N"],
    t_s: Float64[Array, ""],
) -> Float64[Array, " N"]:
    """Scores by a router's weights for a request at t_s, as the router sees the ranks; the lowest wins.

    The weighted sum of the part of the prompt that is not in the prefix cache, of `loads` or `relative_queues`, and of `kv_loads`; with
    `costs`, which weigh nothing for other routers, where there are books.
    """
    queue = view.load
    if view.waiting is not None:
        queue = jnp.where(router.relative, relative_queues(view.waiting, able), queue)
    wanted = jnp.any(able)
    score = params.balancer.least_of_instance(state.kv.missed_score(shape, params, router, view.contents, request, wanted))
    score += product(router.queue_weight, queue) + product(router.kv_weight, view.kv_load)
    return score + costs(shape, params, router, state, view, request, wanted, t_s) if shape.router_books else score


def look(shape: EngineShape, params: ClusterParams, state: ClusterState, t_s: Float64[Array, ""], looks: Bool[Array, ""]) -> RouterView:
    """The router's view at t_s, if it looks: renewed if it is `staleness_s` old; what is not kept in the state is always new."""
    loading = state.handovers.num_loading(shape.ranks)
    new = RouterView(
        t_s,
        loads(params, state.ranks, loading),
        kv_loads(params, state.ranks, t_s),
        state.kv.contents(),
        params.balancer.sum_of_instance(waiting_requests(state.ranks, loading)) if shape.router_books else None,
    )
    return state.view.renewed(new, params.router.staleness_s, looks)


def missed_tokens(
    shape: EngineShape,
    params: ClusterParams,
    state: ClusterState,
    view: RouterView,
    request: Int32[Array, ""],
    i: Int32[Array, ""],
    wanted: Bool[Array, ""],
) -> Array:
    """Tokens of a request's prompt that are not in the prefix cache of rank i, as the router sees it, float64[]; if that is wanted."""
    prompt = params.request("prompt_tokens", request).astype(jnp.float64)
    share = params.balancer.least_of_instance(state.kv.missed_share(shape, params, view.contents, request, wanted))
    return prompt * (share[i] if isinstance(share, Array) else share)
