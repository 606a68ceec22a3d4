"""What is traced: the cluster's limits and costs, and the requests, as arrays on the device."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import jax

from simjax.latency.cost import StepCost

Leaf = Any  # a numpy or JAX array: hosts build parameters with numpy, programs get them traced


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

    max_num_seqs: Leaf
    max_num_batched_tokens: Leaf
    long_prefill_token_threshold: Leaf
    max_model_len: Leaf
    num_blocks: Leaf
    block_size: Leaf
    enable_chunked_prefill: Leaf
    reserve_full_isl: Leaf
    async_scheduling: Leaf
    api_pre_s: Leaf
    api_post_s: Leaf
    cost: Leaf


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

    arrival_s: Leaf
    prompt_tokens: Leaf
    output_tokens: Leaf
    router_draw: Leaf
    count: Leaf
    think_s: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on beside its `EngineShape`; `router` is an int32[] `RouterPolicy`."""

    instances: InstanceParams
    requests: RequestParams
    router: Leaf
    cost: StepCost
