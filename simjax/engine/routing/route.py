"""The router: which rank an arriving request goes to.

Every policy is a score for each rank (`scores`), of which the lowest wins, and a starting point from which ties are broken in turn. Round
robin and random are the policies in which all scores tie, so their choices are known before the run.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.groups.times import rules_of
from simjax.engine.params import ClusterParams
from simjax.engine.routing.balancer import before_snapshot, rank_of
from simjax.engine.routing.choice import choose, handed, in_turn, turn_of
from simjax.engine.routing.legs import route_legs
from simjax.engine.routing.scores import eligible, look, scores
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn


def route(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Hand the next request to a rank if it arrives before, or just when, the next rank is due.

    Without live routing every request was handed out before the run (`route_all`), and this stage does nothing.
    """
    if not shape.live_routing:
        return turn
    if shape.handovers:
        return route_legs(shape, params, turn)
    state = turn.state
    t_s = next_arrival_s(params, state)
    arrives = before_snapshot(shape, params, state, (t_s <= jnp.min(state.ranks.due_s())) & jnp.isfinite(t_s), t_s)
    request = jnp.minimum(state.arrivals.next_request(state.num_sent), shape.requests - 1)
    view, i = state.view, jnp.zeros((), jnp.int32)
    picked = i
    mine = jnp.broadcast_to(arrives, (1,))
    if shape.ranks > 1:
        seen = look(shape, params, state, t_s, arrives)
        able = eligible(shape, params, request) & arrives
        score = scores(shape, params, params.router, state, seen, request, able, t_s)
        view = view.kept(seen)
        score = state.arrivals.with_affinity(params, params.router, request, score, able)
        picked = choose(shape, params, params.router, score, able, request, state.num_sent)
        i = rank_of(shape, params, state, request, picked, t_s)
        mine = arrives & (jnp.arange(shape.ranks, dtype=jnp.int32) == i)
    ranks, routes = handed(shape, params, state, request, t_s, mine, i)
    return turn.with_state(
        ranks=ranks,
        routes=routes,
        view=view,
        books=state.books.sent(params, request, mine, jnp.zeros((), bool)),
        balancers=state.balancers.took(params, request, mine),
        arrivals=state.arrivals.sent(params, request, t_s, arrives).stays(params, request, picked, arrives),
        num_sent=state.num_sent + arrives.astype(jnp.int32),
    )


def route_all(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """Hand out every request before the run; for policies that do not look at the cluster (`EngineShape.live_routing` off)."""
    ranks, count, routes = state.ranks, params.request_count, state.routes
    if not shape.has_routes:
        tail = jnp.broadcast_to(count, (1,)).astype(jnp.int32)
    else:
        request = jnp.arange(shape.requests, dtype=jnp.int32)
        even = jnp.zeros(shape.ranks, jnp.float64)
        draw = params.request("router_draw", request)
        choose = lambda r, u: in_turn(even, eligible(shape, params, r), params.router.random, u, turn_of(shape, params, r, r))
        choice = jax.vmap(choose)(request, draw)
        mine = (choice[None, :] == jnp.arange(shape.ranks, dtype=jnp.int32)[:, None]) & (request < count)[None, :]
        tail = jnp.sum(mine, axis=1, dtype=jnp.int32)
        at = jnp.where(mine, jnp.cumsum(mine, axis=1) - 1, routes.shape[1])
        routes = jax.vmap(lambda row, where: row.at[where].set(request, mode="drop"))(routes, at)
    first = routes[:, 0] if shape.has_routes else jnp.zeros((1,), jnp.int32)
    queued_s = state.arrivals.arrival_s(params, first) + params.ranks.api_pre_s
    wake_s = jnp.where(tail > 0, queued_s, jnp.inf)
    if shape.groups:
        of_rank = rules_of(params).of_rank
        wake_s = jnp.min(jnp.where(of_rank[:, None] == of_rank[None, :], wake_s[None, :], jnp.inf), axis=1)
    plan = dataclasses.replace(ranks.plan, end_s=wake_s, horizon_s=wake_s)
    return dataclasses.replace(state, ranks=dataclasses.replace(ranks, plan=plan, tail=tail), routes=routes, num_sent=count)
