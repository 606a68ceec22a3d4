"""Arrivals known before the run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OpenLoop:
    """An open loop: requests arrive at their own times, in the order of their index, whatever became of the others."""

    def next_s(self, params: ClusterParams, num_sent: Int32[Array, ""]) -> Float64[Array, ""]:
        """Time of the next arrival; infinity when there is none. `num_sent` requests have arrived."""
        last = params.requests.arrival_s.shape[1] - 1
        return jnp.where(num_sent < params.request_count, params.request("arrival_s", jnp.minimum(num_sent, last)), jnp.inf)

    def next_request(self, num_sent: Int32[Array, ""]) -> Int32[Array, ""]:
        """Index of the request that arrives next."""
        return num_sent

    def arrival_s(self, params: ClusterParams, request: Int32[Array, "*A"]) -> Float64[Array, "*A"]:
        """Times at which the given requests arrived or will arrive."""
        return params.request("arrival_s", request)

    def sent(self, params: ClusterParams, request: Array, t_s: Array, arrives: Bool[Array, ""]) -> OpenLoop:
        """The record once a request was sent at t_s, if it was."""
        return self

    def stays(self, params: ClusterParams, request: Array, i: Array, picked: Bool[Array, ""], second: bool = False) -> OpenLoop:
        """The record once a router, the one for second legs if `second`, has picked rank i for a request, if it has."""
        return self

    def with_affinity(
        self,
        params: ClusterParams,
        router: RouterParams,
        request: Array,
        score: Float64[Array, " N"],
        eligible: Bool[Array, " N"],
        second: bool = False,
    ) -> Float64[Array, " N"]:
        """A router's scores (the lowest wins) once the calls of a session stay together, if they are to."""
        return score

    def answer(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once those that wait for finished requests have their answer."""
        return turn
