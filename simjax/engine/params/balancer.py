"""Load balancers within instances. Legend: N ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BalancerParams:
    """The internal load balancers of instances with several ranks, see `simjax.engine.routing.balancer`.

    Attributes:
        first: first rank of the instance of each rank.
        number: number of each rank within its instance.
        size: ranks of the instance of each rank.
        api_servers: API servers of that instance.
        publishes: whether the rank reports its requests to the API servers.
        weighs_in_flight: whether the rule is that of vLLM 0.28 and later.
        interval_s: time between two snapshots, the first one after the start.
        seed: of the draws of API servers.
    """

    first: Int32[Array, " N"]
    number: Int32[Array, " N"]
    size: Int32[Array, " N"]
    api_servers: Int32[Array, " N"]
    publishes: Bool[Array, " N"]
    weighs_in_flight: Bool[Array, ""]
    interval_s: Float64[Array, ""]
    seed: Int32[Array, ""]

    @property
    def all_ranks(self) -> Int32[Array, " N"]:
        """Numbers of the ranks of the cluster."""
        return self.first + self.number

    @property
    def same_instance(self) -> Bool[Array, "N N"]:
        """Pairs of ranks that are of one instance."""
        return self.first[:, None] == self.first[None, :]

    def offered(self, able: Bool[Array, " N"]) -> Bool[Array, " N"]:
        """Those of the able ranks that the router chooses from: the first ones of their instances."""
        return able & (self.number == 0)

    def sum_of_instance(self, x: Array) -> Array:
        """What the ranks of each rank's instance have together, number[N]."""
        return jnp.sum(jnp.where(self.same_instance, x[None, :], 0), axis=1, dtype=x.dtype)

    def least_of_instance(self, x: Array | float) -> Array | float:
        """The least that a rank of each rank's instance has, float64[N]; of a number that all ranks have, that."""
        return jnp.min(jnp.where(self.same_instance, x[None, :], jnp.inf), axis=1) if isinstance(x, Array) else x


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoBalancerParams:
    """No load balancers: every instance has one rank, or the router chooses the ranks itself."""

    def offered(self, able: Bool[Array, " N"]) -> Bool[Array, " N"]:
        """The router chooses from all able ranks."""
        return able

    def sum_of_instance(self, x: Array) -> Array:
        """What each rank has."""
        return x

    def least_of_instance(self, x: Array | float) -> Array | float:
        """What each rank has."""
        return x
