"""What is traced: the cluster's limits and costs, and the requests, as arrays on the device (numpy ones on the host that builds them).

Requests and step costs are tables of which a cluster uses some rows, so that a batch of clusters shares them: what differs from one
cluster to the next is a few numbers for each engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import jax
from jax import Array

from simjax.latency.cost import StepCost

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


class RouterPolicy(IntEnum):
    """How an arriving request finds its instance (see `simjax.engine.router`)."""

    ROUND_ROBIN = 0
    RANDOM = 1
    LEAST_LOADED = 2
    LEAST_KV = 3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InstanceParams:
    """Limits of the engines, vLLM's names; every leaf has a leading axis N.

    Attributes:
        slots: places for running requests and finished ones on their way out, at most `EngineShape.slots`.
        max_num_seqs, max_num_batched_tokens: most requests and tokens of a step.
        long_prefill_token_threshold: 0 = no threshold.
        max_model_len: longest prompt + output.
        num_blocks, block_size: KV blocks that requests can use, and tokens in one.
        enable_chunked_prefill, reserve_full_isl, async_scheduling: switches.
        api_pre_s, api_post_s: API time of a request before it reaches the queue, and of a token on its way back to the client.
        cost: row of the `StepCost`.
    """

    slots: Int32[Array, " N"]
    max_num_seqs: Int32[Array, " N"]
    max_num_batched_tokens: Int32[Array, " N"]
    long_prefill_token_threshold: Int32[Array, " N"]
    max_model_len: Int32[Array, " N"]
    num_blocks: Int32[Array, " N"]
    block_size: Int32[Array, " N"]
    enable_chunked_prefill: Bool[Array, " N"]
    reserve_full_isl: Bool[Array, " N"]
    async_scheduling: Bool[Array, " N"]
    api_pre_s: Float64[Array, " N"]
    api_post_s: Float64[Array, " N"]
    cost: Int32[Array, " N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RequestParams:
    """V workloads on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: sorted; infinity for padding and for the later requests of a closed loop.
        prompt_tokens, output_tokens: lengths, 1 in the padding.
        router_draw: in [0, 1), the random router's draws.
        count: requests that are real.
        think_s: pause of a closed-loop client between a finish and its next request.
    """

    arrival_s: Float64[Array, "V R"]
    prompt_tokens: Int32[Array, "V R"]
    output_tokens: Int32[Array, "V R"]
    router_draw: Float64[Array, "V R"]
    count: Int32[Array, " V"]
    think_s: Float64[Array, " V"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on beside its `EngineShape`.

    Attributes:
        instances: limits of the N engines.
        num_instances: how many of them there are; the others are padding, which no request is routed to.
        router: a `RouterPolicy`.
        requests, workload: the workloads, and the row of the one that this cluster serves.
        cost: step costs; `InstanceParams.cost` names the row of each engine.
    """

    instances: InstanceParams
    num_instances: Int32[Array, ""]
    router: Int32[Array, ""]
    requests: RequestParams
    workload: Int32[Array, ""]
    cost: StepCost

    @property
    def served(self) -> Array | int:
        """Row of the workload; a table of one row needs no gather."""
        return 0 if self.requests.count.shape[0] == 1 else self.workload

    def request(self, field: str, index: Array) -> Array:
        """A field of the given requests (int32[...]) of the workload that this cluster serves."""
        return getattr(self.requests, field)[self.served, index]

    @property
    def request_count(self) -> Array:
        """How many requests there are, int32[]."""
        return self.requests.count[self.served]
