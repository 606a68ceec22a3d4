"""Arrivals that clients make: each sends its next request some time after the answer to the one before."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.no_affinity import NoAffinity
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClosedLoop(NoAffinity):
    """Clients of a closed loop.

    Attributes:
        send_s: time at which a client sends its next request; infinity while one is in flight.
        client: client that sent a request.
        arrived_s: time at which it was sent.
    """

    send_s: Float64[Array, " C"]
    client: Int32[Array, " R"]
    arrived_s: Float64[Array, " R"]

    @staticmethod
    def begin(shape: EngineShape, params: ClusterParams) -> ClosedLoop:
        """Clients whose first requests arrive at their own times."""
        first_s = params.requests.arrival_s[params.served, : shape.clients]
        return ClosedLoop(first_s, jnp.zeros((shape.requests,), jnp.int32), jnp.full((shape.requests,), NEVER, jnp.float64))

    def next_s(self, params: ClusterParams, num_sent: Int32[Array, ""]) -> Float64[Array, ""]:
        """Time of the next arrival; infinity when there is none. `num_sent` requests have arrived."""
        return jnp.where(num_sent < params.request_count, jnp.min(self.send_s), jnp.inf)

    def next_request(self, num_sent: Int32[Array, ""]) -> Int32[Array, ""]:
        """Index of the request that arrives next: any client may send it."""
        return num_sent

    def arrival_s(self, params: ClusterParams, request: Int32[Array, "*A"]) -> Float64[Array, "*A"]:
        """Times at which the given requests arrived; infinity for those that have not."""
        return self.arrived_s[request]

    def sent(self, params: ClusterParams, request: Array, t_s: Array, arrives: Bool[Array, ""]) -> ClosedLoop:
        """The record once the client whose turn it is has sent a request at t_s, if it has."""
        client = jnp.argmin(self.send_s).astype(jnp.int32)
        return dataclasses.replace(
            self,
            send_s=self.send_s.at[client].set(jnp.where(arrives, NEVER, self.send_s[client])),
            client=self.client.at[request].set(jnp.where(arrives, client, self.client[request])),
            arrived_s=self.arrived_s.at[request].set(jnp.where(arrives, t_s, self.arrived_s[request])),
        )

    def answer(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the clients of the finished requests have their answer: they send the next ones after the pause."""
        finished, request = turn.emitted.finished & turn.due & turn.state.handovers.answers(params, turn.i), turn.before.slots.request
        done_s = turn.rank.slots.token_s if shape.handovers else turn.now_s  # one with all its tokens from its prefill needs no step
        send_s = done_s + turn.limits.api_post_s + params.requests.think_s[params.served]
        client = jnp.where(finished, self.client[jnp.minimum(request, shape.requests - 1)], shape.clients)
        return turn.with_state(arrivals=dataclasses.replace(self, send_s=self.send_s.at[client].set(send_s, mode="drop")))
