"""Snapshots of the ranks, which the coordinator of an instance publishes to its API servers.

They come at even times. vLLM's coordinator publishes at most as often, when something has changed; for mixtures of experts it then waits up
to 50 ms for the end of a step, which is left out.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.params import ClusterParams
from simjax.engine.routing.balancer import balancers_of, rules
from simjax.engine.routing.scores import kv_capacity, kv_tokens_at, waiting_requests
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn


def publish(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Publish the last snapshot that is due before, or just when, anything else happens.

    Nothing changes between two events but tokens in the KV caches, and nobody looks: earlier snapshots are passed over.
    """
    if not shape.api_servers:
        return turn
    state, interval_s = turn.state, rules(params).interval_s
    event_s = state.handovers.next_event_s(jnp.minimum(jnp.min(state.ranks.due_s()), next_arrival_s(params, state)))
    known_s = jnp.where(jnp.isfinite(event_s), event_s, 0.0)
    count = jnp.maximum(jnp.floor(known_s / interval_s), 0.0)
    count += jnp.where((count + 1.0) * interval_s <= known_s, 1.0, 0.0)  # a quotient may be off by one rounding
    count -= jnp.where((count > 0) & (count * interval_s > known_s), 1.0, 0.0)
    count = count.astype(jnp.int32)
    t_s = count.astype(jnp.float64) * jnp.where(jnp.isfinite(interval_s), interval_s, 0.0)
    balancers = balancers_of(state)
    seen = reports(shape, params, state, t_s)
    return turn.with_state(balancers=balancers.published(params, count > balancers.snapshots, count, *seen))


def reports(shape: EngineShape, params: ClusterParams, state: ClusterState, t_s: Array) -> tuple[Array, Array, Array]:
    """What the ranks report at t_s: waiting and running requests, int32[N] both, and the use of their KV caches, float64[N]."""
    ranks = state.ranks
    waiting = waiting_requests(shape, ranks, state.handovers.num_loading(shape.ranks))
    used = kv_tokens_at(ranks, t_s).astype(jnp.float64) / kv_capacity(params)
    return waiting, ranks.plan.running, jnp.minimum(used, 1.0)
