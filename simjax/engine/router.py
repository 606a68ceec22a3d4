"""The router: which instance an arriving request goes to.

Every policy is a score per instance, the lowest wins, and a starting point from which ties are broken in turn. Round robin and random are
the policies in which all scores tie, so their choices are known before the run.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.blocks import blocks_of
from simjax.engine.params import ClusterParams, RouterPolicy
from simjax.engine.plan import cut_short, first_step_reaching
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClosedLoop, ClusterState, Instance

WAITING_WEIGHT = 4  # of vLLM's data-parallel load balancer: a waiting request weighs as much as four running ones


def next_arrival_s(params: ClusterParams, state: ClusterState) -> Array:
    """When the next request arrives, float64[]; infinity when none will."""
    left = state.next_request < params.request_count
    if state.loop is not None:
        return jnp.where(left, jnp.min(state.loop.send_s), jnp.inf)
    last = params.requests.arrival_s.shape[1] - 1
    return jnp.where(left, params.request("arrival_s", jnp.minimum(state.next_request, last)), jnp.inf)


def arrival_of(params: ClusterParams, state: ClusterState, request: Array) -> Array:
    """When the given requests (int32[...]) arrived or will arrive, float64[...]."""
    return params.request("arrival_s", request) if state.loop is None else state.loop.arrival_s[request]


def eligible(params: ClusterParams, request: Array) -> Array:
    """Instances whose KV cache and `max_model_len` can hold the request, bool[N]; the last token is never put into the cache."""
    limits = params.instances
    total = params.request("prompt_tokens", request) + params.request("output_tokens", request)
    return (total <= limits.max_model_len) & (blocks_of(total - 1, limits.block_size) <= limits.num_blocks)


def in_turn(params: ClusterParams, score: Array, request: Array) -> Array:
    """The instance with the lowest score (float64[N]) among the eligible ones; of equals the next in turn, int32[]."""
    N, count = score.shape[0], params.num_instances
    drawn = jnp.floor(params.request("router_draw", request) * count).astype(jnp.int32)
    start = jnp.where(params.router == RouterPolicy.RANDOM, drawn, request % count)
    turn = (jnp.arange(N, dtype=jnp.int32) - start) % count
    score = jnp.where(eligible(params, request), score, jnp.inf)
    return jnp.argmin(jnp.where(score == jnp.min(score), turn, N)).astype(jnp.int32)


def kv_tokens_at(instances: Instance, t_s: Array) -> Array:
    """Tokens in each KV cache at t_s, int64[N], read from state and plan: a step counts once it has ended before t_s."""
    plan = instances.plan
    reaching = jax.vmap(first_step_reaching, in_axes=(0, None))(plan, t_s)
    ended = jnp.minimum(jnp.maximum(reaching - 1, 0), plan.steps)
    return plan.kv_tokens + jnp.where(ended > 0, plan.tokens + (ended - 1) * plan.running, 0)


def scores(params: ClusterParams, state: ClusterState, t_s: Array) -> Array:
    """What the router minimises at t_s, float64[N].

    Least loaded: (4 waiting + running) / max_num_seqs. Least KV: tokens in the cache or promised to a place in it, over its capacity.
    """
    limits, e = params.instances, state.instances
    waiting = e.plan.preempted + e.tail - e.head
    load = (WAITING_WEIGHT * waiting + e.plan.running) / limits.max_num_seqs
    promised = e.queued_tokens + e.plan.preempted_tokens
    kv = (kv_tokens_at(e, t_s) + promised) / (limits.num_blocks.astype(jnp.float64) * limits.block_size)
    return jnp.where(params.router == RouterPolicy.LEAST_LOADED, load, jnp.where(params.router == RouterPolicy.LEAST_KV, kv, 0.0))


def route_all(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand out every request before the run; for policies that do not look at the cluster (`EngineShape.live_routing` off)."""
    e, count = state.instances, params.request_count
    if shape.instances == 1:
        tail = jnp.broadcast_to(count, (1,)).astype(jnp.int32)
        routes = state.routes
    else:
        request = jnp.arange(shape.requests, dtype=jnp.int32)
        choice = jax.vmap(lambda r: in_turn(params, jnp.zeros(shape.instances), r))(request)
        mine = (choice[None, :] == jnp.arange(shape.instances)[:, None]) & (request < count)
        tail = jnp.sum(mine, axis=1, dtype=jnp.int32)
        at = jnp.where(mine, jnp.cumsum(mine, axis=1) - 1, state.routes.shape[1])
        put = jax.vmap(lambda row, where: row.at[where].set(request, mode="drop"))
        routes = put(state.routes, at)
    first = queue_head(shape, params, dataclasses.replace(state, routes=routes))
    wake_s = jnp.where(tail > 0, first, jnp.inf)
    plan = dataclasses.replace(e.plan, end_s=wake_s, horizon_s=wake_s)
    return dataclasses.replace(state, instances=dataclasses.replace(e, plan=plan, tail=tail), routes=routes, next_request=count)


def queue_head(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Array:
    """When the first request of each instance's list is queued, float64[N]."""
    request = state.routes[:, 0] if shape.instances > 1 else jnp.zeros((1,), jnp.int32)
    return arrival_of(params, state, request) + params.instances.api_pre_s


def route_one(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand the next request to an instance if it arrives before, or just when, the next engine event."""
    t_s = next_arrival_s(params, state)
    arrives = (t_s <= jnp.min(state.instances.plan.due_s())) & jnp.isfinite(t_s)
    request = jnp.minimum(state.next_request, shape.requests - 1)
    e, routes = state.instances, state.routes
    mine = jnp.broadcast_to(arrives, (1,))
    if shape.instances > 1:
        i = in_turn(params, scores(params, state, t_s), request)
        mine = arrives & (jnp.arange(shape.instances) == i)
        at = jnp.where(arrives, e.tail[i], shape.requests + shape.window - 1)
        routes = jax.lax.dynamic_update_slice(routes, request[None, None], (i, at))
    cut = jax.vmap(cut_short)(e.plan, t_s + params.instances.api_pre_s, params.instances.async_scheduling)
    plan = jax.tree.map(lambda new, old: jnp.where(mine, new, old), cut, e.plan)
    prompt = params.request("prompt_tokens", request)
    e = dataclasses.replace(e, plan=plan, tail=e.tail + mine, queued_tokens=e.queued_tokens + jnp.where(mine, prompt, 0))
    loop = None if state.loop is None else _send(state.loop, request, t_s, arrives)
    return dataclasses.replace(state, instances=e, routes=routes, loop=loop, next_request=state.next_request + arrives)


def _send(loop: ClosedLoop, request: Array, t_s: Array, arrives: Array) -> ClosedLoop:
    """Note that the client whose turn it is has sent its request."""
    client = jnp.argmin(loop.send_s).astype(jnp.int32)
    keep = lambda new, old: jnp.where(arrives, new, old)  # noqa: E731
    return ClosedLoop(
        send_s=loop.send_s.at[client].set(keep(jnp.inf, loop.send_s[client])),
        client=loop.client.at[request].set(keep(client, loop.client[request])),
        arrival_s=loop.arrival_s.at[request].set(keep(t_s, loop.arrival_s[request])),
    )
