"""The state of a cluster: one fixed-shape pytree, stepped by `simjax.engine.tick`.

Legend: R requests, S slots (S+W array entries), N instances, W window, C clients of a closed loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, NO_COPY, Holding, Instance, Plan, Slots
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64

OUTCOME_FIELDS = ("scheduled_s", "first_token_s", "finish_s", "preemptions", "instance")
CACHED_FIELD = "cached_tokens"  # one more column of the outcomes when prefixes are cached


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClosedLoop:
    """Clients of a closed loop.

    Attributes:
        send_s: when a client sends its next request; infinity while one is in flight.
        client: who sent a request.
        arrival_s: when it was sent.
    """

    send_s: Float64[Array, " C"]
    client: Int32[Array, " R"]
    arrival_s: Float64[Array, " R"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Calls:
    """Calls of sessions.

    Attributes:
        due_s: when a call is sent; infinity when it was, and while another is not finished that it waits for.
        ready_s: when the latest of those that it waited for allowed it.
        missing: how many of them have not finished.
        arrival_s: when it was sent.
        home: the instance that the latest call of each session went to, -1 for none.
    """

    due_s: Float64[Array, " R"]
    ready_s: Float64[Array, " R"]
    missing: Int32[Array, " R"]
    arrival_s: Float64[Array, " R"]
    home: Int32[Array, " R"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixCache:
    """What each engine's KV cache holds of the requests' contents; see `simjax.engine.kv.prefix_cache`.

    The tables have E entries: first the M nodes of the tree of contents, of which a leading part is cached, then places for free blocks
    without a name; the last entry stays empty. What nobody holds stands in the engine's free queue, in order of `key`.

    Attributes:
        blocks: cached blocks of a node; nameless blocks of a place.
        key: place in the free queue; `HELD` while somebody holds it.
        holders: requests that hold the node.
        held: blocks of the tree that are held.
        listed: blocks in the free queue that have been in use before.
        clock: next key. place: next place for nameless blocks. evicted: blocks that have lost their name so far.
    """

    blocks: Int32[Array, "N E"]
    key: Int32[Array, "N E"]
    holders: Int32[Array, "N E"]
    held: Int32[Array, " N"]
    listed: Int32[Array, " N"]
    clock: Int32[Array, " N"]
    place: Int32[Array, " N"]
    evicted: Int32[Array, " N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RouterView:
    """The engines as the router saw them at `seen_s`: cached blocks of every node, and the two measures of load."""

    seen_s: Float64[Array, ""]
    blocks: Int32[Array, "N E"]
    load: Float64[Array, " N"]
    kv: Float64[Array, " N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterState:
    """The whole cluster.

    Attributes:
        ranks: leaves with a leading N axis.
        routes: requests routed to each instance in order; [N, 0] where `EngineShape.listed` is off: the list is 0, 1, 2, ...
        loop: closed-loop clients, None in an open loop.
        calls: sessions, None without.
        cache: None without prefix caching.
        view: None when the router always sees the engines as they are.
        next_request: the next request to arrive; with sessions, how many have.
        outcome: `outcome_fields` of every request that left; row R takes what nobody reads.
        done: requests written there.
        ticks: taken so far.
        steps: engine steps of all instances.
        peak_blocks: most KV blocks allocated at once, per instance.
        overflow: a run with tight slots has needed more of them: nothing that it says is true.
    """

    ranks: Instance
    routes: Int32[Array, "N R+W"]
    loop: ClosedLoop | None
    calls: Calls | None
    cache: PrefixCache | None
    view: RouterView | None
    next_request: Int32[Array, ""]
    outcome: Float64[Array, "R+1 F"]
    done: Int32[Array, ""]
    ticks: Int32[Array, ""]
    steps: Int64[Array, ""]
    peak_blocks: Int32[Array, " N"]
    overflow: Bool[Array, ""]


def outcome_fields(shape: EngineShape) -> tuple[str, ...]:
    """Columns of `ClusterState.outcome`."""
    return (*OUTCOME_FIELDS, CACHED_FIELD) if shape.prefix_nodes else OUTCOME_FIELDS


def initial_state(shape: EngineShape, params: ClusterParams) -> ClusterState:
    """An empty cluster at time 0."""
    N, R, A = shape.ranks, shape.requests, shape.seats
    i32 = lambda *size: jnp.zeros(size, jnp.int32)  # noqa: E731
    f64 = lambda *size: jnp.zeros(size, jnp.float64)  # noqa: E731
    never = jnp.full((N, A), NEVER, jnp.float64)
    holding = Holding(i32(N, A), jnp.full((N, A), NO_COPY, jnp.int32), i32(N, A), i32(N, A)) if shape.prefix_nodes else None
    answered = jnp.zeros((N, A), bool) if shape.fanout else None
    unused = jnp.full((N, A), R, jnp.int32)
    slots = Slots(unused, i32(N, A), i32(N, A), i32(N, A), i32(N, A), i32(N, A), never, never, never, holding, answered)
    plan = Plan(
        start_s=f64(N),
        end_s=jnp.full((N,), NEVER, jnp.float64),
        horizon_s=jnp.full((N,), NEVER, jnp.float64),
        first_s=f64(N),
        next_s=f64(N),
        slope_s=f64(N),
        steps=i32(N),
        open=jnp.ones((N,), bool),
        tokens=i32(N),
        running=i32(N),
        preempted=i32(N),
        blocks=i32(N),
        kv_tokens=jnp.zeros((N,), jnp.int64),
        preempted_tokens=jnp.zeros((N,), jnp.int64),
        cached=i32(N) if shape.prefix_nodes else None,
    )
    instances = Instance(slots, plan, i32(N), i32(N), i32(N), i32(N), jnp.zeros((N,), jnp.int64))
    loop = None
    if shape.clients:
        loop = ClosedLoop(params.requests.arrival_s[params.served, : shape.clients], i32(R), jnp.full((R,), NEVER, jnp.float64))
    return ClusterState(
        ranks=instances,
        routes=i32(N, R + shape.window) if shape.listed else i32(N, 0),
        loop=loop,
        calls=initial_calls(shape, params) if shape.fanout else None,
        cache=initial_cache(shape) if shape.prefix_nodes else None,
        view=RouterView(jnp.full((), -NEVER, jnp.float64), i32(N, shape.prefix_entries), f64(N), f64(N)) if shape.stale_view else None,
        next_request=i32(),
        outcome=jnp.full((R + 1, len(outcome_fields(shape))), NEVER, jnp.float64),
        done=i32(),
        ticks=i32(),
        steps=jnp.zeros((), jnp.int64),
        peak_blocks=i32(N),
        overflow=jnp.zeros((), bool),
    )


def initial_calls(shape: EngineShape, params: ClusterParams) -> Calls:
    """Calls that wait for none are due at their arrival."""
    sessions = params.requests.sessions
    assert sessions is not None
    never = jnp.full((shape.requests,), NEVER, jnp.float64)
    due_s = params.requests.arrival_s[params.served]
    return Calls(due_s, jnp.zeros_like(never), sessions.predecessors[params.served], never, jnp.full((shape.requests,), -1, jnp.int32))


def initial_cache(shape: EngineShape) -> PrefixCache:
    """Empty caches."""
    N, E = shape.ranks, shape.prefix_entries
    table, counter = jnp.zeros((N, E), jnp.int32), jnp.zeros((N,), jnp.int32)
    return PrefixCache(table, table, table, counter, counter, counter, counter, counter)
