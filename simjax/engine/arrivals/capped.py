"""Arrivals of a client with a cap on its requests in flight, as `vllm bench serve --max-concurrency` has it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CappedClient(ClosedLoop):
    """A client that keeps to a schedule as far as a semaphore lets it: a closed loop whose requests also have a time of their own.

    A request is sent, in order of the schedule, once its scheduled time has come and one of C seats is free. A seat is taken while its
    request is in flight, as a client of a closed loop is; `send_s` are the times from which seats are free. Seats
    beyond the cap never open.
    """

    @staticmethod
    def begin(shape: EngineShape, params: ClusterParams) -> CappedClient:
        """Seats before the run, each free from the time at which it opens."""
        assert params.requests.open_s is not None
        never = jnp.full((shape.requests,), NEVER, jnp.float64)
        return CappedClient(params.requests.open_s[params.served], jnp.ones((shape.clients,), jnp.int32), never)

    def next_s(self, params: ClusterParams, num_sent: Int32[Array, ""]) -> Float64[Array, ""]:
        """Time of the next arrival, which has both its scheduled time and a seat; infinity when there is none."""
        last = params.requests.arrival_s.shape[1] - 1
        scheduled_s = params.request("arrival_s", jnp.minimum(num_sent, last))
        return jnp.where(num_sent < params.request_count, jnp.maximum(scheduled_s, jnp.min(self.send_s)), jnp.inf)
