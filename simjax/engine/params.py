"""What is traced: the cluster's limits and costs, and the requests, as arrays on the device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import jax

from simjax.latency.cost import StepCost


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
        max_num_seqs, max_num_batched_tokens: int32[N].
        long_prefill_token_threshold: int32[N], 0 = no threshold.
        max_model_len: int32[N], longest prompt + output.
        num_blocks, block_size: int32[N], KV blocks that requests can use, and tokens in one.
        enable_chunked_prefill, reserve_full_isl, async_scheduling: bool[N].
        api_pre_s, api_post_s: float64[N], API time of a request before it reaches the queue, and of a token on its way back to the client.
        cost: int32[N], row of the `StepCost`.
    """

    max_num_seqs: jax.Array
    max_num_batched_tokens: jax.Array
    long_prefill_token_threshold: jax.Array
    max_model_len: jax.Array
    num_blocks: jax.Array
    block_size: jax.Array
    enable_chunked_prefill: jax.Array
    reserve_full_isl: jax.Array
    async_scheduling: jax.Array
    api_pre_s: jax.Array
    api_post_s: jax.Array
    cost: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RequestParams:
    """The workload on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: float64[R], sorted; infinity for padding and for the later requests of a closed loop.
        prompt_tokens, output_tokens: int32[R].
        router_draw: float64[R] in [0, 1), the random router's draws.
        count: int32[], requests that are real.
        think_s: float64[], pause of a closed-loop client between a finish and its next request.
    """

    arrival_s: jax.Array
    prompt_tokens: jax.Array
    output_tokens: jax.Array
    router_draw: jax.Array
    count: jax.Array
    think_s: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on beside its `EngineShape`; `router` is an int32[] `RouterPolicy`."""

    instances: InstanceParams
    requests: RequestParams
    router: jax.Array
    cost: StepCost
