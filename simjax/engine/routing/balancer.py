"""vLLM's internal load balancer: in each instance of several data-parallel ranks, an API server picks the rank of a request.

Every API server has its own view of the ranks (`DPLBAsyncMPClient` of vLLM's `core_client.py`): waiting and running requests and use of the
KV cache as the instance's coordinator last published them, the requests that it has sent itself since then, and those in flight. With one
API server in an instance, no request is sent twice to the rank that was free at the last snapshot.

Use of the KV cache is by its tokens, where vLLM counts blocks: part-filled blocks and blocks that are kept for transfers count for nothing,
tokens in a shared block count for each of their requests, up to the whole cache.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.params import BalancerParams, ClusterParams
from simjax.engine.rank import Rank
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.draws import uniform
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.state import ClusterState

WAITING_WEIGHT, KV_WEIGHT, KV_FREE = 4, 6.0, 0.5
"""Running requests that a waiting one counts for by the old rule; by the new one its weight where the KV cache is fuller than a share."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Balancers:
    """The views of the API servers of all instances: arrays over the N ranks and the A API servers of the instance of each.

    Attributes:
        snapshots: intervals that have passed when the coordinators last published.
        waiting, running, kv_load: what they published of each rank.
        sent: requests that an API server has sent to a rank since then, each counted for all of its instance's API servers.
        in_flight: requests that an API server has sent to a rank and that have not left its slots.
        turns: requests that an API server has handled; the same for all ranks of an instance.
    """

    snapshots: Int32[Array, ""]
    waiting: Int32[Array, " N"]
    running: Int32[Array, " N"]
    kv_load: Float64[Array, " N"]
    sent: Int32[Array, "N A"]
    in_flight: Int32[Array, "N A"]
    turns: Int32[Array, "N A"]

    def next_s(self, params: ClusterParams) -> Float64[Array, ""]:
        """Time of the next snapshot in seconds."""
        return (self.snapshots + 1).astype(jnp.float64) * rules(params).interval_s

    def published(self, params: ClusterParams, due: Array, snapshots: Array, *seen: Array) -> Balancers:
        """The views after a snapshot of the waiting and running requests and the use of the KV caches, if one is due."""
        now = due & rules(params).publishes
        waiting, running, kv_load = (
            jnp.where(now, new, old) for new, old in zip(seen, (self.waiting, self.running, self.kv_load), strict=True)
        )
        sent = jnp.where(now[:, None], 0, self.sent)
        snapshots = jnp.where(due, snapshots, self.snapshots)
        return dataclasses.replace(self, snapshots=snapshots, waiting=waiting, running=running, kv_load=kv_load, sent=sent)

    def choices(self, params: ClusterParams, ranks: Rank, request: Int32[Array, ""], t_s: Float64[Array, ""]) -> Bool[Array, " N"]:
        """The rank that each instance would choose for a request at t_s: true for one rank of each."""
        rule, server = rules(params), _server(params, request)
        mine = server[:, None] == _servers(self.sent)
        of = lambda table: jnp.sum(jnp.where(mine, table, 0), axis=1, dtype=jnp.int32)
        waiting, running = self.waiting + of(self.sent), self.running
        slots, R = ranks.slots, params.requests.prompt_tokens.shape[1]
        position = jnp.broadcast_to(jnp.arange(slots.request.shape[1], dtype=jnp.int32), slots.request.shape)
        ended = (position < (ranks.num_running + ranks.num_preempted)[:, None]) & slots.finished & (slots.token_s <= t_s)
        ended &= _server(params, jnp.minimum(slots.request, R - 1), 1) == server[:, None]
        in_flight = of(self.in_flight) - jnp.sum(ended, axis=1, dtype=jnp.int32)
        full = jnp.maximum(self.kv_load - KV_FREE, 0.0)
        penalty = product(KV_WEIGHT * waiting.astype(jnp.float64), full)
        new = jnp.maximum(rule.api_servers * in_flight, waiting + running).astype(jnp.float64) + penalty
        score = jnp.where(rule.weighs_in_flight, new, (WAITING_WEIGHT * waiting + running).astype(jnp.float64))
        score = jax.lax.stop_gradient(score)
        start = rule.size * server // rule.api_servers + jnp.where(rule.weighs_in_flight, of(self.turns), 0)
        place = jax.lax.rem(jax.lax.rem(rule.number - start, rule.size) + rule.size, rule.size)
        better = (score[None, :] < score[:, None]) | ((score[None, :] == score[:, None]) & (place[None, :] < place[:, None]))
        return ~jnp.any(better & rules(params).same_instance, axis=1)

    def took(self, params: ClusterParams, request: Int32[Array, ""], takes: Bool[Array, " N"]) -> Balancers:
        """The views once a request went to the ranks of a mask."""
        mine = _server(params, request)[:, None] == _servers(self.sent)
        here, instance = mine & takes[:, None], mine & jnp.any(takes[None, :] & rules(params).same_instance, axis=1)[:, None]
        return dataclasses.replace(
            self,
            sent=self.sent + jnp.where(here, rules(params).api_servers[:, None], 0),
            in_flight=self.in_flight + here.astype(jnp.int32),
            turns=self.turns + instance.astype(jnp.int32),
        )

    def left(self, params: ClusterParams, i: Array | int, request: Array, leaves: Array) -> Balancers:
        """The views once a request has left the slots of rank i, if it does."""
        request = jnp.minimum(request, params.requests.prompt_tokens.shape[1] - 1)
        here = (_server(params, request)[:, None] == _servers(self.sent)) & (rules(params).all_ranks == i)[:, None] & leaves
        return dataclasses.replace(self, in_flight=self.in_flight - here.astype(jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoBalancers:
    """Nothing: every instance has one rank, or the router chooses the ranks itself."""

    def took(self, params: ClusterParams, request: Array, takes: Array) -> NoBalancers:
        """Nothing is kept."""
        return self

    def left(self, params: ClusterParams, i: Array | int, request: Array, leaves: Array) -> NoBalancers:
        """Nothing is kept."""
        return self


def initial_balancers(shape: EngineShape) -> Balancers | NoBalancers:
    """The views before the run."""
    N, A = shape.ranks, shape.api_servers
    if not A:
        return NoBalancers()
    none, table = jnp.zeros((N,), jnp.int32), jnp.zeros((N, A), jnp.int32)
    return Balancers(jnp.zeros((), jnp.int32), none, none, jnp.zeros((N,), jnp.float64), table, table, table)


def rules(params: ClusterParams) -> BalancerParams:
    """The parameters of the balancers of a cluster that has them."""
    assert isinstance(params.balancer, BalancerParams)
    return params.balancer


def balancers_of(state: ClusterState) -> Balancers:
    """The views in the state of a cluster that has them."""
    assert isinstance(state.balancers, Balancers)
    return state.balancers


def rank_of(
    shape: EngineShape, params: ClusterParams, state: ClusterState, request: Int32[Array, ""], first: Int32[Array, ""], t_s: Array
) -> Int32[Array, ""]:
    """The rank at t_s of a request for which the router has picked an instance, of which `first` is a rank; or just a rank."""
    if not shape.api_servers:
        return first
    chosen = balancers_of(state).choices(params, state.ranks, request, t_s)
    first_of = rules(params).first
    return jnp.argmax(chosen & (first_of == first_of[first])).astype(jnp.int32)


def before_snapshot(shape: EngineShape, params: ClusterParams, state: ClusterState, happens: Array, t_s: Array) -> Array:
    """Whether something happens, at t_s, before the next snapshot; where there are none, whether it happens."""
    return happens & (t_s < balancers_of(state).next_s(params)) if shape.api_servers else happens


def _server(params: ClusterParams, request: Array, extra_axes: int = 0) -> Array:
    """The API server, among those of each rank's instance, that requests reach: at random, int32[N] or int32[N, A]."""
    rule = rules(params)
    shaped = lambda x: jnp.expand_dims(x, tuple(range(1, 1 + extra_axes)))
    draw = uniform(rule.seed, request, -1 - shaped(rule.first))
    return jnp.floor(draw * shaped(rule.api_servers).astype(jnp.float64)).astype(jnp.int32)


def _servers(table: Array) -> Array:
    """Numbers of the API servers, int32[1, A]."""
    return jnp.arange(table.shape[1], dtype=jnp.int32)[None, :]
