"""What is traced: the cluster's limits and costs, and the requests, as arrays on the device (numpy ones on the host that builds them)."""

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
        max_num_seqs, max_num_batched_tokens: most requests and tokens of a step.
        long_prefill_token_threshold: 0 = no threshold.
        max_model_len: longest prompt + output.
        num_blocks, block_size: KV blocks that requests can use, and tokens in one.
        enable_chunked_prefill, reserve_full_isl, async_scheduling: switches.
        api_pre_s, api_post_s: API time of a request before it reaches the queue, and of a token on its way back to the client.
        cost: row of the `StepCost`.
    """

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
    """The workload on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: sorted; infinity for padding and for the later requests of a closed loop.
        prompt_tokens, output_tokens: lengths, 1 in the padding.
        router_draw: in [0, 1), the random router's draws.
        count: requests that are real.
        think_s: pause of a closed-loop client between a finish and its next request.
    """

    arrival_s: Float64[Array, " R"]
    prompt_tokens: Int32[Array, " R"]
    output_tokens: Int32[Array, " R"]
    router_draw: Float64[Array, " R"]
    count: Int32[Array, ""]
    think_s: Float64[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on beside its `EngineShape`; `router` is an int32[] `RouterPolicy`."""

    instances: InstanceParams
    requests: RequestParams
    router: Int32[Array, ""]
    cost: StepCost
