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

    Nothing depends on which client sends a request: the next one is sent at the earliest time at which any client may. So clients have no
    names. Those who had their answers in the same turn send at the same time, and are one entry: an answer to any number of them is one
    entry more, without a look at who they are, which in a batch would be a scatter over the slots of all designs.

    Attributes:
        send_s: times at which clients send their next requests; infinity in an entry that holds none.
        count: clients of each entry.
        arrived_s: time at which a request was sent.
    """

    send_s: Float64[Array, " C"]
    count: Int32[Array, " C"]
    arrived_s: Float64[Array, " R"]

    @staticmethod
    def begin(shape: EngineShape, params: ClusterParams) -> ClosedLoop:
        """Clients whose first requests arrive at their own times."""
        first_s = params.requests.arrival_s[params.served, : shape.clients]
        return ClosedLoop(first_s, jnp.ones((shape.clients,), jnp.int32), jnp.full((shape.requests,), NEVER, jnp.float64))

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
        """The record once a client whose turn it is has sent a request at t_s, if one has."""
        taken = _first(self.send_s == jnp.min(self.send_s)) & arrives
        return dataclasses.replace(
            self,
            send_s=jnp.where(taken & (self.count == 1), NEVER, self.send_s),
            count=jnp.where(taken, self.count - 1, self.count),
            arrived_s=self.arrived_s.at[jnp.where(arrives, request, self.arrived_s.shape[0])].set(t_s, mode="drop"),
        )

    def answer(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the clients of the finished requests have their answer: they send the next ones after the pause."""
        finished = turn.emitted.finished & turn.due & turn.state.handovers.answers(params, turn.i)
        done_s = turn.rank.slots.token_s if shape.handovers else turn.now_s  # one with all its tokens from its prefill needs no step
        send_s = done_s + turn.limits.api_post_s + params.requests.think_s[params.served]
        return turn.with_state(arrivals=self._one_by_one(finished, send_s) if shape.handovers else self._together(finished, send_s))

    def _together(self, finished: Bool[Array, " A"], send_s: Array) -> ClosedLoop:
        """With an entry more, for the clients of all requests that have finished: they send at one time.

        Some entry is free, for every occupied one has a client and these clients were not among them.
        """
        count = jnp.sum(finished, dtype=jnp.int32)
        time_s = send_s if send_s.ndim == 0 else jnp.max(jnp.where(finished, send_s, -NEVER))  # of the members of a group, all alike
        free = _first(jnp.isposinf(self.send_s)) & (count > 0)
        return dataclasses.replace(self, send_s=jnp.where(free, time_s, self.send_s), count=jnp.where(free, count, self.count))

    def _one_by_one(self, finished: Bool[Array, " A"], send_s: Array) -> ClosedLoop:
        """With an entry more for the client of each, which have times of their own."""
        size = self.count.shape[0]
        (free,) = jnp.nonzero(jnp.isposinf(self.send_s), size=size, fill_value=size)
        number = jnp.cumsum(finished, dtype=jnp.int32) - 1
        entry = jnp.where(finished, free[jnp.clip(number, 0, size - 1)], size)
        return dataclasses.replace(
            self, send_s=self.send_s.at[entry].set(send_s, mode="drop"), count=self.count.at[entry].set(1, mode="drop")
        )


def _first(mask: Bool[Array, " C"]) -> Bool[Array, " C"]:
    """The first entry of the mask, as a mask: a smallest index, for `argmin` is a loop that no CPU vectorises."""
    index = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return index == jnp.min(jnp.where(mask, index, mask.shape[0]))
