"""Limits of the ranks. Legend: N ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankParams:
    """Limits of the ranks, vLLM's names; every leaf has a leading axis N, which the row of one rank has not.

    Attributes:
        slots: places for running requests and finished ones on their way out, at most `EngineShape.slots`.
        max_num_seqs, max_num_batched_tokens: most requests and tokens of a step.
        long_prefill_token_threshold: most tokens of one request in a step, 0 for no such limit.
        max_model_len: longest prompt plus output, in tokens.
        num_blocks, block_size: KV blocks that requests can use, and tokens in one.
        watermark_blocks: blocks that an admission leaves free where a request runs.
        enable_chunked_prefill, reserve_full_isl, async_scheduling, enable_prefix_caching: switches.
        long_prefill_alone, reserve_kv_loads, reuse_nameless_first: switches, see `simjax.config.scheduler.SchedulerConfig`.
        api_pre_s, api_post_s: API time of a request before it reaches the queue, and of a token on its way back to the client.
        step_time: row of the `StepTime`.
        model: model that the rank serves, as in `RequestParams.model`; None where any rank serves any request.
        instance: instance that the rank is of; None where every instance has one rank.
        pipeline_stages: pp stages; their step times are rows from `step_time` on. This and the next two are None where no rank has several.
        broadcast_s: time from the sampling of tokens to the first stage having them, where the scheduler does not wait for them.
        empty_pass_s: sleep of the engine loop after a pass that ran nothing although requests are left.
        by_priority: whether the rank schedules by priority. This and the next two are None where no rank does, or no priorities differ.
        goes_on, leaves_out: whether the scan goes on after a request that has preempted itself, and whether one is left out for a victim
            that had no tokens, see `simjax.engine.priority.preempt`.
    """

    slots: Int32[Array, "*N"]
    max_num_seqs: Int32[Array, "*N"]
    max_num_batched_tokens: Int32[Array, "*N"]
    long_prefill_token_threshold: Int32[Array, "*N"]
    max_model_len: Int32[Array, "*N"]
    num_blocks: Int32[Array, "*N"]
    block_size: Int32[Array, "*N"]
    watermark_blocks: Int32[Array, "*N"]
    enable_chunked_prefill: Bool[Array, "*N"]
    reserve_full_isl: Bool[Array, "*N"]
    async_scheduling: Bool[Array, "*N"]
    enable_prefix_caching: Bool[Array, "*N"]
    long_prefill_alone: Bool[Array, "*N"]
    reserve_kv_loads: Bool[Array, "*N"]
    reuse_nameless_first: Bool[Array, "*N"]
    api_pre_s: Float64[Array, "*N"]
    api_post_s: Float64[Array, "*N"]
    step_time: Int32[Array, "*N"]
    model: Int32[Array, "*N"] | None = None
    instance: Int32[Array, "*N"] | None = None
    pipeline_stages: Int32[Array, "*N"] | None = None
    broadcast_s: Float64[Array, "*N"] | None = None
    empty_pass_s: Float64[Array, "*N"] | None = None
    by_priority: Bool[Array, "*N"] | None = None
    goes_on: Bool[Array, "*N"] | None = None
    leaves_out: Bool[Array, "*N"] | None = None
    names_ahead: Int32[Array, "*N"] | None = None
