"""Arrivals known before the run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.no_affinity import NoAffinity
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OpenLoop(NoAffinity):
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

    def answer(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once those that wait for finished requests have their answer."""
        return turn
