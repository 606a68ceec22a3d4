"""What is traced: the cluster's limits and costs, and the requests, as arrays on the device (numpy ones on the host that builds them).

Requests and step costs are tables of which a cluster uses some rows, so that a batch of clusters shares them: what differs from one
cluster to the next is a few numbers for each engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array

from simjax.latency.step_time import StepTime

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


class RouterPolicy(IntEnum):
    """How an arriving request finds its instance (see `simjax.engine.routing.router`)."""

    ROUND_ROBIN = 0
    RANDOM = 1
    LEAST_LOADED = 2
    LEAST_KV = 3
    LONGEST_PREFIX = 4
    SESSION_AFFINITY = 5
    WEIGHTED = 6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankParams:
    """Limits of the engines, vLLM's names; leaves with a leading axis N in `ClusterParams`.

    Attributes:
        slots: places for running requests and finished ones on their way out, at most `EngineShape.slots`.
        max_num_seqs, max_num_batched_tokens: most requests and tokens of a step.
        long_prefill_token_threshold: 0 = no threshold.
        max_model_len: longest prompt + output.
        num_blocks, block_size: KV blocks that requests can use, and tokens in one.
        enable_chunked_prefill, reserve_full_isl, async_scheduling, enable_prefix_caching: switches.
        api_pre_s, api_post_s: API time of a request before it reaches the queue, and of a token on its way back to the client.
        cost: row of the `StepTime`.
    """

    slots: Int32[Array, "*N"]
    max_num_seqs: Int32[Array, "*N"]
    max_num_batched_tokens: Int32[Array, "*N"]
    long_prefill_token_threshold: Int32[Array, "*N"]
    max_model_len: Int32[Array, "*N"]
    num_blocks: Int32[Array, "*N"]
    block_size: Int32[Array, "*N"]
    enable_chunked_prefill: Bool[Array, "*N"]
    reserve_full_isl: Bool[Array, "*N"]
    async_scheduling: Bool[Array, "*N"]
    enable_prefix_caching: Bool[Array, "*N"]
    api_pre_s: Float64[Array, "*N"]
    api_post_s: Float64[Array, "*N"]
    step_time: Int32[Array, "*N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixParams:
    """What the requests' contents share: a radix tree of M nodes in tokens, see `simjax.workload.contents.prefixes`.

    The last node is empty and stands where a path has ended. A path is a slice of `nodes`, which is long enough for a slice of the longest
    path to start anywhere.

    Attributes:
        start_tokens, end_tokens: the run of tokens of each node.
        nodes: the nodes of all paths, root first.
        offset, length: the path of each request, nodes[offset : offset + length].
    """

    start_tokens: Int32[Array, "V M"]
    end_tokens: Int32[Array, "V M"]
    nodes: Int32[Array, "V K"]
    offset: Int32[Array, "V R"]
    length: Int32[Array, "V R"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SessionParams:
    """Which calls wait for which, see `simjax.workload.sessions`.

    Attributes:
        session: of each request.
        predecessors: calls that must finish before a request is sent.
        offset, count: the calls that wait for a request are then[offset : offset + count]; the tables are padded like `PrefixParams.nodes`.
        then, delay_s: such a call, and the pause before it.
    """

    session: Int32[Array, "V R"]
    predecessors: Int32[Array, "V R"]
    offset: Int32[Array, "V R"]
    count: Int32[Array, "V R"]
    then: Int32[Array, "V E"]
    delay_s: Float64[Array, "V E"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RequestParams:
    """V workloads on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: sorted; infinity for padding, for the later requests of a closed loop and for calls that wait for others.
        prompt_tokens, output_tokens: lengths, 1 in the padding.
        router_draw: in [0, 1), the random router's draws.
        count: requests that are real.
        think_s: pause of a closed-loop client between a finish and its next request.
        prefix: what the contents share; None when nobody asks.
        sessions: calls that wait for calls; None when there are none.
    """

    arrival_s: Float64[Array, "V R"]
    prompt_tokens: Int32[Array, "V R"]
    output_tokens: Int32[Array, "V R"]
    router_draw: Float64[Array, "V R"]
    count: Int32[Array, " V"]
    think_s: Float64[Array, " V"]
    prefix: PrefixParams | None = None
    sessions: SessionParams | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RouterParams:
    """The router, whose policies differ in what counts how much; scalars.

    Attributes:
        random: whether ties are broken by a draw instead of in turn.
        affinity: whether the calls of a session stay together.
        prefix_weight, queue_weight, kv_weight: of the part of a prompt that is not cached, of the load and of the KV cache's use.
        staleness_s: age at which the router renews its view of the engines; 0 = it always sees them as they are.
    """

    random: Bool[Array, ""]
    affinity: Bool[Array, ""]
    prefix_weight: Float64[Array, ""]
    queue_weight: Float64[Array, ""]
    kv_weight: Float64[Array, ""]
    staleness_s: Float64[Array, ""]

    @staticmethod
    def of(policy: RouterPolicy, weights: tuple[float, float, float] = (1.0, 1.0, 1.0), staleness_s: float = 0.0) -> RouterParams:
        """As arrays on the host; the weights, in the order of the attributes, are for the weighted policy."""
        fixed = {
            RouterPolicy.LONGEST_PREFIX: (1.0, 0.0, 0.0),
            RouterPolicy.LEAST_LOADED: (0.0, 1.0, 0.0),
            RouterPolicy.SESSION_AFFINITY: (0.0, 1.0, 0.0),
            RouterPolicy.LEAST_KV: (0.0, 0.0, 1.0),
            RouterPolicy.WEIGHTED: weights,
        }
        flags = (np.bool_(policy == RouterPolicy.RANDOM), np.bool_(policy == RouterPolicy.SESSION_AFFINITY))
        numbers = (np.float64(x) for x in (*fixed.get(policy, (0.0, 0.0, 0.0)), staleness_s))
        return RouterParams(*flags, *numbers)  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on beside its `EngineShape`.

    Attributes:
        ranks: limits of the N engines.
        num_ranks: how many of them there are; the others are padding, which no request is routed to.
        router: how it spreads requests.
        requests, workload: the workloads, and the row of the one that this cluster serves.
        cost: step costs; `RankParams.cost` names the row of each engine.
    """

    ranks: RankParams
    num_ranks: Int32[Array, ""]
    router: RouterParams
    requests: RequestParams
    workload: Int32[Array, ""]
    step_time: StepTime

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
