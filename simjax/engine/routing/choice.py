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
from simjax.engine.handover.passes import NoPasses, Passes
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Plan, Rank
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def turn_of(params: ClusterParams, request: Int32[Array, ""], turn: Int32[Array, ""]) -> Int32[Array, ""]:
    """The place of a request in the round of the ranks that it can go to: `turn`, or its place among those of its model."""
    return turn if params.ranks.model is None else params.request("model_turn", request)


def in_turn(
    params: ClusterParams,
    score: Float64[Array, " N"],
    able: Bool[Array, " N"],
    random: Bool[Array, ""],
    request: Int32[Array, ""],
    turn: Int32[Array, ""],
) -> Int32[Array, ""]:
    """The rank with the lowest score among the able ones; of equals the next in turn, or one that is drawn if the router is `random`.

    A rank that cannot hold the request takes no part in its round: turns, and draws of the random router, are among the able ranks.
    """
    N, turn = score.shape[0], turn_of(params, request, turn)
    # Number of able ranks, and of those before each: one reduction over pairs of ranks instead of a scan, which is many kernels.
    able_of_pair = jnp.broadcast_to(able[None, :], (N, N))
    (before, count), _, _ = reduce_last([able_of_pair & np.tri(N, k=-1, dtype=bool), able_of_pair])
    count = jnp.maximum(count, 1)  # padding requests may be such that no rank can hold them
    drawn = jnp.floor(params.request("router_draw", request) * count.astype(jnp.float64)).astype(jnp.int32)
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
    """The ranks and their lists once the router has handed a request to those of the mask at t_s; `i` is the rank if there is one at most."""
    ranks, routes = state.ranks, state.routes
    if shape.has_routes:
        spare = shape.requests + shape.window - 1
        if i is not None:
            at = jnp.where(jnp.any(mine), ranks.tail[i], spare)
            routes = jax.lax.dynamic_update_slice(routes, request[None, None], (i, at))
        else:
            routes = routes.at[jnp.arange(shape.ranks, dtype=jnp.int32), jnp.where(mine, ranks.tail, spare)].set(request)

    def joined(plan: Plan, passes: Passes | NoPasses, queued_s: Array, async_scheduling: Array) -> Plan:
        return passes.joined(params, plan, queued_s, async_scheduling)

    cut = jax.vmap(joined)(ranks.plan, ranks.passes, t_s + params.ranks.api_pre_s, params.ranks.async_scheduling)
    prompt = params.request("prompt_tokens", request).astype(jnp.int64)
    ranks = dataclasses.replace(
        ranks,
        plan=select(mine, cut, ranks.plan),
        tail=ranks.tail + mine.astype(jnp.int32),
        queued_tokens=ranks.queued_tokens + jnp.where(mine, prompt, 0),
    )
    return ranks, routes
