"""Routing of requests with two legs: to a prefill and to a decode rank."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from simjax.cluster.disaggregation import Reserve
from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.reduce import argmin
from simjax.engine.handover.rows import row_mask, rules, table_of
from simjax.engine.handover.table import Role
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.routing.balancer import before_snapshot, rank_of
from simjax.engine.routing.choice import choose, handed
from simjax.engine.routing.scores import legs_eligible, look, missed_tokens, scores
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn
from simjax.latency.rounding import product


class _Leg(NamedTuple):
    """The next request at the router, at t_s: the `first` or the `second` leg of one, of a row of the table, or neither."""

    t_s: Array
    first: Array
    second: Array
    row: Array
    request: Array


def _next_leg(shape: EngineShape, params: ClusterParams, state: ClusterState) -> _Leg:
    """A request that arrives, or, before it at equal times, one that comes for its second leg; if nothing else happens before."""
    table = table_of(state)
    client_s, leg_s = next_arrival_s(params, state), table.next_leg_s
    t_s = jnp.minimum(client_s, leg_s)
    comes = (t_s <= jnp.min(state.ranks.due_s())) & (t_s < table.next_landing_s) & jnp.isfinite(t_s)
    comes = before_snapshot(shape, params, state, comes, t_s)
    second = comes & (leg_s <= client_s)
    row = argmin(table.leg_s, table.request)
    request = jnp.where(second, table.request[row], state.arrivals.next_request(state.num_sent))
    return _Leg(t_s, comes & ~second, second, row, jnp.minimum(request, shape.requests - 1))


def route_legs(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Hand the next request to the rank of its next leg.

    By the connector the first leg is on the prefill rank, on both ranks at once, or on the decode rank. A request stays on the decode rank
    altogether if enough of its prompt is cached there, or it is short.
    """
    state, handover, table = turn.state, rules(params), table_of(turn.state)
    t_s, first, second, row, request = _next_leg(shape, params, state)
    seen = look(shape, params, state, t_s, first | second)
    after, early = handover.reserve == Reserve.AFTER, handover.reserve == Reserve.BEFORE
    prefill_able, decode_able = (able & (first | second) for able in legs_eligible(shape, params, request))
    prefill_able &= (handover.role == Role.PREFILL) | ~early

    def picked(router: RouterParams, able: Array, turn: Array, second_router: bool) -> Array:
        score = scores(shape, params, router, state, seen, request, able, t_s)
        score = state.arrivals.with_affinity(params, router, request, score, able, second_router)
        return choose(shape, params, router, score, able, request, turn, second_router)

    decode = picked(handover.decode_router, decode_able, table.decode_routed, True)
    prefill = picked(params.router, prefill_able, table.routed, False)

    conditional = handover.local_prefill_tokens > 0
    missed = missed_tokens(shape, params, state, seen, request, decode, conditional & first)
    local = conditional & (missed < handover.local_prefill_tokens)
    local &= missed < product(handover.local_prefill_ratio, params.request("prompt_tokens", request).astype(jnp.float64))
    alone = local | (handover.role[prefill] != Role.PREFILL)  # one leg
    knows_decode = ~after | handover.decode_first | conditional
    decode = jnp.where(second & (table.decode_of[request] >= 0), table.decode_of[request], decode)

    at_decode = (first & (local | (~alone & ~after))) | (second & ~early)
    at_prefill = (first & ~local & (alone | ~early)) | (second & early)
    number = jnp.arange(shape.ranks, dtype=jnp.int32)
    prefill_instance, decode_instance = prefill, decode
    prefill, decode = (rank_of(shape, params, state, request, x, t_s) for x in (prefill, decode))
    takes = (at_prefill & (number == prefill)) | (at_decode & (number == decode))
    ranks, routes = handed(shape, params, state, request, t_s, takes)

    decides = (first & ~alone & knows_decode) | (second & after)
    counts = (first & (local | (~alone & knows_decode))) | (second & after & ~knows_decode)
    mine = row_mask(shape, row, second)
    at = jnp.where(first | second, request, shape.requests)
    table = dataclasses.replace(
        table,
        decode=jnp.where(mine & after, decode, table.decode),
        leg_s=jnp.where(mine, jnp.inf, table.leg_s),
        routed=table.routed + at_prefill.astype(jnp.int32),
        decode_routed=table.decode_routed + counts.astype(jnp.int32),
        decode_of=table.decode_of.at[at].set(jnp.where(decides, decode, table.decode_of[request]), mode="drop"),
        second_s=table.second_s.at[at].set(jnp.where(second, t_s, table.second_s[request]), mode="drop"),
    )
    arrivals = state.arrivals.sent(params, request, t_s, first).stays(params, request, prefill_instance, at_prefill)
    return turn.with_state(
        ranks=ranks,
        routes=routes,
        handovers=table,
        view=state.view.kept(seen),
        books=state.books.sent(params, request, takes, at_decode & ~local & (number == decode)),
        balancers=state.balancers.took(params, request, takes),
        arrivals=arrivals.stays(params, request, decode_instance, counts, second=True),
        num_sent=state.num_sent + first.astype(jnp.int32),
    )
