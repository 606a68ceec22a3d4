"""The router: which rank an arriving request goes to.

Every policy is a score for each rank (`scores`), of which the lowest wins, and a starting point from which ties are broken in turn. Round
robin and random are the policies in which all scores tie, so their choices are known before the run.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.reduce import argmin, reduce_last
from simjax.engine.control.select import select
from simjax.engine.params import ClusterParams
from simjax.engine.routing.scores import eligible, scores, turn_of
from simjax.engine.scheduler.plan import cut_short
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32


def in_turn(params: ClusterParams, score: Float64[Array, " N"], request: Int32[Array, ""], turn: Int32[Array, ""]) -> Int32[Array, ""]:
    """The rank with the lowest score among the eligible ones; of equals the next in turn.

    A rank that cannot hold the request takes no part in its round: turns, and draws of the random router, are among the eligible ranks.
    """
    N, able, turn = score.shape[0], eligible(params, request), turn_of(params, request, turn)
    # Number of eligible ranks, and of those before each: one reduction over pairs of ranks instead of a scan, which is many kernels.
    able_of_pair = jnp.broadcast_to(able[None, :], (N, N))
    (before, count), _, _ = reduce_last([able_of_pair & np.tri(N, k=-1, dtype=bool), able_of_pair])
    count = jnp.maximum(count, 1)  # padding requests may be such that no rank can hold them
    drawn = jnp.floor(params.request("router_draw", request) * count.astype(jnp.float64)).astype(jnp.int32)
    start = jnp.where(params.router.random, drawn, jax.lax.rem(jnp.broadcast_to(turn, (N,)), count))
    return argmin(jnp.where(able, score, jnp.inf), jnp.where(able, jax.lax.rem(before - start + count, count), N))


def route(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Hand the next request to a rank if it arrives before, or just when, the next rank is due.

    Without live routing every request was handed out before the run (`route_all`), and this stage does nothing.
    """
    if not shape.live_routing:
        return turn
    state = turn.state
    t_s = next_arrival_s(params, state)
    arrives = (t_s <= jnp.min(state.ranks.plan.due_s())) & jnp.isfinite(t_s)
    request = jnp.minimum(state.arrivals.next_request(state.num_sent), shape.requests - 1)
    ranks, routes, view, i = state.ranks, state.routes, state.view, jnp.zeros((), jnp.int32)
    mine = jnp.broadcast_to(arrives, (1,))
    if shape.ranks > 1:
        score, seen = scores(shape, params, state, request, t_s)
        view = view.kept(seen, arrives)
        i = in_turn(params, score, request, state.num_sent)
        mine = arrives & (jnp.arange(shape.ranks, dtype=jnp.int32) == i)
    if shape.has_routes:
        at = jnp.where(arrives, ranks.tail[i], shape.requests + shape.window - 1)
        routes = jax.lax.dynamic_update_slice(routes, request[None, None], (i, at))
    cut = jax.vmap(cut_short)(ranks.plan, t_s + params.ranks.api_pre_s, params.ranks.async_scheduling)
    prompt = params.request("prompt_tokens", request).astype(jnp.int64)
    ranks = dataclasses.replace(
        ranks,
        plan=select(mine, cut, ranks.plan),
        tail=ranks.tail + mine.astype(jnp.int32),
        queued_tokens=ranks.queued_tokens + jnp.where(mine, prompt, 0),
    )
    return turn.with_state(
        ranks=ranks,
        routes=routes,
        view=view,
        arrivals=state.arrivals.sent(params, request, t_s, i, arrives),
        num_sent=state.num_sent + arrives.astype(jnp.int32),
    )


def route_all(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand out every request before the run; for policies that do not look at the cluster (`EngineShape.live_routing` off)."""
    ranks, count, routes = state.ranks, params.request_count, state.routes
    if not shape.has_routes:
        tail = jnp.broadcast_to(count, (1,)).astype(jnp.int32)
    else:
        request = jnp.arange(shape.requests, dtype=jnp.int32)
        choice = jax.vmap(lambda r: in_turn(params, jnp.zeros(shape.ranks, jnp.float64), r, r))(request)
        mine = (choice[None, :] == jnp.arange(shape.ranks, dtype=jnp.int32)[:, None]) & (request < count)[None, :]
        tail = jnp.sum(mine, axis=1, dtype=jnp.int32)
        at = jnp.where(mine, jnp.cumsum(mine, axis=1) - 1, routes.shape[1])
        routes = jax.vmap(lambda row, where: row.at[where].set(request, mode="drop"))(routes, at)
    first = routes[:, 0] if shape.ranks > 1 else jnp.zeros((1,), jnp.int32)
    queued_s = state.arrivals.arrival_s(params, first) + params.ranks.api_pre_s
    wake_s = jnp.where(tail > 0, queued_s, jnp.inf)
    plan = dataclasses.replace(ranks.plan, end_s=wake_s, horizon_s=wake_s)
    return dataclasses.replace(state, ranks=dataclasses.replace(ranks, plan=plan, tail=tail), routes=routes, num_sent=count)
