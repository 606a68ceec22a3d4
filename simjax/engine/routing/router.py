"""The router: which instance an arriving request goes to.

Every policy is a score per instance, the lowest wins, and a starting point from which ties are broken in turn. Round robin and random are
the policies in which all scores tie, so their choices are known before the run; the others weigh what `scores` adds up.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.sessions import sent
from simjax.engine.kv.blocks import blocks_of, full_blocks
from simjax.engine.kv.prefix_cache import found_blocks, path_of
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Instance
from simjax.engine.scheduler.plan import cut_short, first_step_reaching
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClosedLoop, ClusterState, RouterView
from simjax.latency.rounding import product

WAITING_WEIGHT = 4  # of vLLM's data-parallel load balancer: a waiting request weighs as much as four running ones


def next_arrival_s(params: ClusterParams, state: ClusterState) -> Array:
    """When the next request arrives, float64[]; infinity when none will."""
    left = state.next_request < params.request_count
    if state.loop is not None:
        return jnp.where(left, jnp.min(state.loop.send_s), jnp.inf)
    if state.calls is not None:
        return jnp.min(state.calls.due_s)
    last = params.requests.arrival_s.shape[1] - 1
    return jnp.where(left, params.request("arrival_s", jnp.minimum(state.next_request, last)), jnp.inf)


def arrival_of(params: ClusterParams, state: ClusterState, request: Array) -> Array:
    """When the given requests (int32[...]) arrived or will arrive, float64[...]."""
    if state.calls is not None:
        return state.calls.arrival_s[request]
    return params.request("arrival_s", request) if state.loop is None else state.loop.arrival_s[request]


def eligible(params: ClusterParams, request: Array) -> Array:
    """Instances whose KV cache and `max_model_len` can hold the request, bool[N]; the last token is never put into the cache."""
    limits = params.ranks
    total = params.request("prompt_tokens", request) + params.request("output_tokens", request)
    return (total <= limits.max_model_len) & (blocks_of(total - 1, limits.block_size) <= limits.num_blocks)


def in_turn(params: ClusterParams, score: Array, request: Array, turn: Array) -> Array:
    """The instance with the lowest score (float64[N]) among the eligible ones; of equals the next in turn, int32[]."""
    N, count = score.shape[0], params.num_ranks
    drawn = jnp.floor(params.request("router_draw", request) * count).astype(jnp.int32)
    start = jnp.where(params.router.random, drawn, turn % count)
    distance = (jnp.arange(N, dtype=jnp.int32) - start) % count
    score = jnp.where(eligible(params, request), score, jnp.inf)
    return jnp.argmin(jnp.where(score == jnp.min(score), distance, N)).astype(jnp.int32)


def kv_tokens_at(instances: Instance, t_s: Array) -> Array:
    """Tokens in each KV cache at t_s, int64[N], read from state and plan: a step counts once it has ended before t_s."""
    plan = instances.plan
    reaching = jax.vmap(first_step_reaching, in_axes=(0, None))(plan, t_s)
    ended = jnp.minimum(jnp.maximum(reaching - 1, 0), plan.steps)
    return plan.kv_tokens + jnp.where(ended > 0, plan.tokens + (ended - 1) * plan.running, 0)


def loads(params: ClusterParams, instances: Instance) -> Array:
    """(4 waiting + running) / max_num_seqs, float64[N]."""
    waiting = instances.plan.preempted + instances.tail - instances.head
    return (WAITING_WEIGHT * waiting + instances.plan.running) / params.ranks.max_num_seqs


def kv_loads(params: ClusterParams, instances: Instance, t_s: Array) -> Array:
    """Tokens in the KV cache or promised to a place in it over its capacity, float64[N]."""
    limits = params.ranks
    promised = instances.queued_tokens + instances.plan.preempted_tokens
    return (kv_tokens_at(instances, t_s) + promised) / (limits.num_blocks.astype(jnp.float64) * limits.block_size)


def hit_tokens(shape: EngineShape, params: ClusterParams, cached: Array, request: Array) -> Array:
    """Tokens of a request's prompt that each engine would find in its prefix cache, int32[N]; `cached` (int32[N, E]) are their blocks.

    As the caches were after the last event of each engine: of what requests decode it knows nothing until they leave.
    """
    tree, prompt = params.requests.prefix, params.request("prompt_tokens", request)
    assert tree is not None

    def one(cached: Array, block_size: Array, enabled: Array) -> Array:
        path = path_of(shape, tree, params.served, request, block_size, enabled)
        return block_size * found_blocks(cached[path.node], path, full_blocks(prompt - 1, block_size))

    return jax.vmap(one)(cached, params.ranks.block_size, params.ranks.enable_prefix_caching)


def scores(shape: EngineShape, params: ClusterParams, state: ClusterState, request: Array, t_s: Array) -> tuple[Array, RouterView | None]:
    """What the router minimises for a request (int32[]) that arrives at t_s, float64[N]; and what it has seen of the engines.

    It is the weighted sum of the part of the prompt that is not in the prefix cache, of `loads` and of `kv_loads`. With session affinity,
    from the second call of a session on, it is 0 for the engine of its latest call, if that can serve it, and 1 for the others.
    """
    router, e, view = params.router, state.ranks, state.view
    if view is None:
        load, kv = loads(params, e), kv_loads(params, e, t_s)
    else:
        renew = t_s - view.seen_s >= router.staleness_s
        pick = lambda new, old: jnp.where(renew, new, old)  # noqa: E731
        view = RouterView(
            seen_s=pick(t_s, view.seen_s),
            blocks=view.blocks if state.cache is None else pick(state.cache.blocks, view.blocks),
            load=pick(loads(params, e), view.load),
            kv=pick(kv_loads(params, e, t_s), view.kv),
        )
        load, kv = view.load, view.kv
    score = product(router.queue_weight, load) + product(router.kv_weight, kv)
    if state.cache is not None:
        found = hit_tokens(shape, params, state.cache.blocks if view is None else view.blocks, request)
        missed = 1.0 - found / params.request("prompt_tokens", request)
        score = product(router.prefix_weight, missed) + product(router.queue_weight, load) + product(router.kv_weight, kv)
    if state.calls is not None:
        home = state.calls.home[_session(params, request)]
        at_home = router.affinity & (jnp.arange(load.shape[0]) == home) & eligible(params, request)
        score = jnp.where(jnp.any(at_home), (~at_home).astype(score.dtype), score)
    return score, view


def _session(params: ClusterParams, request: Array) -> Array:
    sessions = params.requests.sessions
    assert sessions is not None
    return sessions.session[params.served, request]


def route_all(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand out every request before the run; for policies that do not look at the cluster (`EngineShape.live_routing` off)."""
    e, count = state.ranks, params.request_count
    if not shape.listed:
        tail = jnp.broadcast_to(count, (1,)).astype(jnp.int32)
        routes = state.routes
    else:
        request = jnp.arange(shape.requests, dtype=jnp.int32)
        choice = jax.vmap(lambda r: in_turn(params, jnp.zeros(shape.ranks), r, r))(request)
        mine = (choice[None, :] == jnp.arange(shape.ranks)[:, None]) & (request < count)
        tail = jnp.sum(mine, axis=1, dtype=jnp.int32)
        at = jnp.where(mine, jnp.cumsum(mine, axis=1) - 1, state.routes.shape[1])
        put = jax.vmap(lambda row, where: row.at[where].set(request, mode="drop"))
        routes = put(state.routes, at)
    first = queue_head(shape, params, dataclasses.replace(state, routes=routes))
    wake_s = jnp.where(tail > 0, first, jnp.inf)
    plan = dataclasses.replace(e.plan, end_s=wake_s, horizon_s=wake_s)
    return dataclasses.replace(state, ranks=dataclasses.replace(e, plan=plan, tail=tail), routes=routes, next_request=count)


def queue_head(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Array:
    """When the first request of each instance's list is queued, float64[N]."""
    request = state.routes[:, 0] if shape.ranks > 1 else jnp.zeros((1,), jnp.int32)
    return arrival_of(params, state, request) + params.ranks.api_pre_s


def route_one(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand the next request to an instance if it arrives before, or just when, the next engine event."""
    t_s = next_arrival_s(params, state)
    arrives = (t_s <= jnp.min(state.ranks.plan.due_s())) & jnp.isfinite(t_s)
    due = state.next_request if state.calls is None else jnp.argmin(state.calls.due_s).astype(jnp.int32)
    request = jnp.minimum(due, shape.requests - 1)
    e, routes, view, i = state.ranks, state.routes, state.view, jnp.zeros((), jnp.int32)
    mine = jnp.broadcast_to(arrives, (1,))
    if shape.ranks > 1:
        score, seen = scores(shape, params, state, request, t_s)
        view = jax.tree.map(lambda new, old: jnp.where(arrives, new, old), seen, view)
        i = in_turn(params, score, request, state.next_request)
        mine = arrives & (jnp.arange(shape.ranks) == i)
    if shape.listed:
        at = jnp.where(arrives, e.tail[i], shape.requests + shape.window - 1)
        routes = jax.lax.dynamic_update_slice(routes, request[None, None], (i, at))
    cut = jax.vmap(cut_short)(e.plan, t_s + params.ranks.api_pre_s, params.ranks.async_scheduling)
    plan = jax.tree.map(lambda new, old: jnp.where(mine, new, old), cut, e.plan)
    prompt = params.request("prompt_tokens", request)
    e = dataclasses.replace(e, plan=plan, tail=e.tail + mine, queued_tokens=e.queued_tokens + jnp.where(mine, prompt, 0))
    loop = None if state.loop is None else _send(state.loop, request, t_s, arrives)
    calls = None if state.calls is None else sent(state.calls, _session(params, request), request, t_s, i, arrives)
    return dataclasses.replace(state, ranks=e, routes=routes, loop=loop, calls=calls, view=view, next_request=state.next_request + arrives)


def _send(loop: ClosedLoop, request: Array, t_s: Array, arrives: Array) -> ClosedLoop:
    """Note that the client whose turn it is has sent its request."""
    client = jnp.argmin(loop.send_s).astype(jnp.int32)
    keep = lambda new, old: jnp.where(arrives, new, old)  # noqa: E731
    return ClosedLoop(
        send_s=loop.send_s.at[client].set(keep(jnp.inf, loop.send_s[client])),
        client=loop.client.at[request].set(keep(client, loop.client[request])),
        arrival_s=loop.arrival_s.at[request].set(keep(t_s, loop.arrival_s[request])),
    )
