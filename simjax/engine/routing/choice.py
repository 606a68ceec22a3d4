"""Choosing a rank, and handing a request to it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.control.reduce import argmin, reduce_last
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.groups.times import for_group, for_groups
from simjax.engine.handover.passes import NoPasses, Passes
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.rank import Plan, Rank
from simjax.engine.scheduler.plan import CUT
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.tiers.passes import TierPasses
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def turn_of(shape: EngineShape, params: ClusterParams, request: Int32[Array, ""], turn: Int32[Array, ""]) -> Int32[Array, ""]:
    """The place of a request in the round of the ranks that it can go to: `turn`, or its place among those of its model."""
    return params.request("model_turn", request) if shape.models else turn


SCORE_GRID = 2.0**-20  # scores that are drawn among are equal if they are so to this grid, whatever the order of their sums
SECOND_DRAW = 2.0**26  # the digits of a draw beyond these are a draw of their own


def choose(
    shape: EngineShape,
    params: ClusterParams,
    router: RouterParams,
    score: Float64[Array, " N"],
    able: Bool[Array, " N"],
    request: Int32[Array, ""],
    turn: Int32[Array, ""],
    second: bool = False,
) -> Int32[Array, ""]:
    """The rank that a router chooses for a request by the scores of the able ones; the router of second legs has draws of its own."""
    draw = params.request("router_draw", request)
    draw = draw * SECOND_DRAW - jnp.floor(draw * SECOND_DRAW) if second else draw
    found = in_turn(score, able, router.random, draw, turn_of(shape, params, request, turn))
    return jnp.where(router.drawn, by_odds(score, able, router.temperature, draw), found) if shape.router_books else found


def by_odds(
    score: Float64[Array, " N"], able: Bool[Array, " N"], temperature: Float64[Array, ""], draw: Float64[Array, ""]
) -> Int32[Array, ""]:
    """The rank that a draw in [0, 1) picks among the able ones, with odds exp(-score / (temperature * range of the scores)).

    At temperature 0, or if all scores are equal, the ranks of the lowest score have equal odds.
    """
    N = score.shape[0]
    score = jnp.round(jax.lax.stop_gradient(score) / SCORE_GRID)
    least, most = jnp.min(jnp.where(able, score, jnp.inf)), jnp.max(jnp.where(able, score, -jnp.inf))
    width = product(temperature, most - least)
    odds = jnp.where(width > 0, jnp.exp((least - score) / jnp.where(width > 0, width, 1.0)), (score == least).astype(jnp.float64))
    odds = jnp.where(able, odds, 0.0)
    up_to = jnp.sum(jnp.where(np.tri(N, dtype=bool), odds[None, :], 0.0), axis=1)
    number = jnp.arange(N, dtype=jnp.int32)
    reached = able & (up_to > draw * up_to[-1])
    return argmin((~reached).astype(jnp.float64), number)


def in_turn(
    score: Float64[Array, " N"], able: Bool[Array, " N"], random: Bool[Array, ""], draw: Float64[Array, ""], turn: Int32[Array, ""]
) -> Int32[Array, ""]:
    """The rank with the lowest score among the able ones; of equals the next in turn, or one that is drawn if the router is `random`.

    A rank that cannot hold the request takes no part in its round: turns, and draws of the random router, are among the able ranks.
    """
    N = score.shape[0]
    # Number of able ranks, and of those before each: one reduction over pairs of ranks instead of a scan, which is many kernels.
    able_of_pair = jnp.broadcast_to(able[None, :], (N, N))
    (before, count), _, _ = reduce_last([able_of_pair & np.tri(N, k=-1, dtype=bool), able_of_pair])
    count = jnp.maximum(count, 1)  # padding requests may be such that no rank can hold them
    drawn = jnp.floor(draw * count.astype(jnp.float64)).astype(jnp.int32)
    start = jnp.where(random, drawn, jax.lax.rem(jnp.broadcast_to(turn, (N,)), count))
    return argmin(jnp.where(able, score, jnp.inf), jnp.where(able, jax.lax.rem(before - start + count, count), N))


def handed(
    shape: EngineShape,
    params: ClusterParams,
    state: ClusterState,
    request: Int32[Array, ""],
    t_s: Float64[Array, ""],
    mine: Bool[Array, " N"],
    i: Int32[Array, ""] | None = None,
) -> tuple[Rank, Int32[Array, "N L"]]:
    """The ranks and their lists once the router has handed a request to those of the mask at t_s; `i` is the rank if one at most can be."""
    ranks, routes = state.ranks, state.routes
    if shape.has_routes:
        spare = shape.requests + shape.window - 1
        if i is not None:
            at = jnp.where(jnp.any(mine), ranks.tail[i], spare)
            routes = jax.lax.dynamic_update_slice(routes, request[None, None], (i, at))
        else:
            routes = routes.at[jnp.arange(shape.ranks, dtype=jnp.int32), jnp.where(mine, ranks.tail, spare)].set(request)

    def joined(plan: Plan, passes: Passes | NoPasses | TierPasses, queued_s: Array, async_scheduling: Array) -> Plan:
        return passes.joined(params, plan, queued_s, async_scheduling)

    cut = jax.vmap(joined)(ranks.plan, ranks.passes, t_s + params.ranks.api_pre_s, params.ranks.async_scheduling)
    cut = dataclasses.replace(ranks.plan, **together({name: getattr(cut, name) for name in CUT}))
    changes = mine
    if shape.groups:
        times = {name: getattr(cut, name) for name in CUT}
        times, changes = for_groups(params, times, mine) if i is None else for_group(params, times, mine, i)
        cut = dataclasses.replace(cut, **times)
    prompt = params.request("prompt_tokens", request).astype(jnp.int64)
    ranks = dataclasses.replace(
        ranks,
        plan=select(changes, cut, ranks.plan),
        tail=ranks.tail + mine.astype(jnp.int32),
        queued_tokens=ranks.queued_tokens + jnp.where(mine, prompt, 0),
    )
    return ranks, routes
