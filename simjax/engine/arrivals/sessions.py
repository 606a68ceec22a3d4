"""Arrivals of sessions: calls that are sent some time after the calls that they wait for have been answered."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.params import ClusterParams, RouterParams, SessionParams
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SessionCalls:
    """Calls of sessions.

    Attributes:
        due_s: time at which a call is sent; infinity when it was, and while another is not finished that it waits for.
        ready_s: time at which the latest of those that it waited for allowed it, at first its recorded arrival, if it has one.
        missing: number of them that have not finished.
        arrived_s: time at which it was sent.
        home: rank that the router picked for the latest call of each session, -1 for none.
        decode_home: that of the router of second legs; None in clusters without.
    """

    due_s: Float64[Array, " R"]
    ready_s: Float64[Array, " R"]
    missing: Int32[Array, " R"]
    arrived_s: Float64[Array, " R"]
    home: Int32[Array, " R"]
    decode_home: Int32[Array, " R"] | None

    @staticmethod
    def begin(shape: EngineShape, params: ClusterParams) -> SessionCalls:
        """Calls before the run: those that wait for none are due at their arrival, the others not before it if they have one."""
        never = jnp.full((shape.requests,), NEVER, jnp.float64)
        arrival_s, missing = params.requests.arrival_s[params.served], _sessions(params).predecessors[params.served]
        due_s = jnp.where(missing > 0, NEVER, arrival_s)
        ready_s = jnp.where((missing > 0) & (arrival_s < NEVER), arrival_s, 0.0)
        none = jnp.full((shape.requests,), -1, jnp.int32)
        return SessionCalls(due_s, ready_s, missing, never, none, none if shape.handovers else None)

    def next_s(self, params: ClusterParams, num_sent: Int32[Array, ""]) -> Float64[Array, ""]:
        """Time at which the next call is sent; infinity when none is due."""
        return jnp.min(self.due_s)

    def next_request(self, num_sent: Int32[Array, ""]) -> Int32[Array, ""]:
        """Index of the call that is sent next."""
        return jnp.argmin(self.due_s).astype(jnp.int32)

    def arrival_s(self, params: ClusterParams, request: Int32[Array, "*A"]) -> Float64[Array, "*A"]:
        """Times at which the given calls were sent; infinity for those that were not."""
        return self.arrived_s[request]

    def sent(self, params: ClusterParams, request: Array, t_s: Array, arrives: Bool[Array, ""]) -> SessionCalls:
        """The record once a call was sent at t_s, if it was."""
        return dataclasses.replace(
            self,
            due_s=self.due_s.at[request].set(jnp.where(arrives, NEVER, self.due_s[request])),
            arrived_s=self.arrived_s.at[request].set(jnp.where(arrives, t_s, self.arrived_s[request])),
        )

    def stays(self, params: ClusterParams, request: Array, i: Array, picked: Bool[Array, ""], second: bool = False) -> SessionCalls:
        """The record once a router, the one for second legs if `second`, has picked rank i for a call, if it has."""
        session, home = _sessions(params).session[params.served, request], self._home(second)
        home = home.at[session].set(jnp.where(picked, i, home[session]))
        return dataclasses.replace(self, decode_home=home) if second else dataclasses.replace(self, home=home)

    def _home(self, second: bool) -> Int32[Array, " R"]:
        if not second:
            return self.home
        assert self.decode_home is not None
        return self.decode_home

    def with_affinity(
        self,
        params: ClusterParams,
        router: RouterParams,
        request: Array,
        score: Float64[Array, " N"],
        eligible: Bool[Array, " N"],
        second: bool = False,
    ) -> Float64[Array, " N"]:
        """A router's scores; with session affinity 0 for the rank of the session's latest call, if it is eligible, and 1 for the others."""
        home = self._home(second)[_sessions(params).session[params.served, request]]
        at_home = router.affinity & (jnp.arange(score.shape[0], dtype=jnp.int32) == home) & eligible
        return jnp.where(jnp.any(at_home), (~at_home).astype(score.dtype), score)

    def answer(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the calls that wait for one finished request have its answer; it waits if there is another one to answer."""
        slots, sessions, served, position = turn.rank.slots, _sessions(params), params.served, turn.rank.slots.position
        assert slots.answered is not None
        A, R, D = position.shape[0], shape.requests, shape.fanout
        new = (position < turn.rank.num_running + turn.rank.num_preempted) & slots.finished & ~slots.answered
        new &= turn.state.handovers.answers(params, turn.i)
        (count,), _, (first,) = reduce_slots([new], minima=[jnp.where(new, position, A)])
        at = jnp.minimum(first, A - 1)
        request = jnp.minimum(slots.request[at], R - 1)
        place = (jnp.asarray(served, jnp.int32), sessions.offset[served, request])
        then = jax.lax.dynamic_slice(sessions.then, place, (1, D))[0]
        delay_s = jax.lax.dynamic_slice(sessions.delay_s, place, (1, D))[0]
        waits = (jnp.arange(D, dtype=jnp.int32) < sessions.count[served, request]) & (first < A) & turn.due
        answered_s = slots.token_s[at] + turn.limits.api_post_s
        ready_s = jnp.maximum(self.ready_s[jnp.minimum(then, R - 1)], answered_s + delay_s)
        missing = self.missing[jnp.minimum(then, R - 1)] - 1
        then = jnp.where(waits, then, R)  # out of bounds: dropped
        calls = dataclasses.replace(
            self,
            ready_s=self.ready_s.at[then].set(ready_s, mode="drop"),
            missing=self.missing.at[then].set(missing, mode="drop"),
            due_s=self.due_s.at[jnp.where(missing == 0, then, R)].set(ready_s, mode="drop"),
        )
        slots = dataclasses.replace(slots, answered=slots.answered | (position == first))
        turn = dataclasses.replace(turn, rank=dataclasses.replace(turn.rank, slots=slots), waits=turn.waits | (count > 1))
        return turn.with_state(arrivals=calls)


def _sessions(params: ClusterParams) -> SessionParams:
    sessions = params.requests.sessions
    assert sessions is not None
    return sessions
