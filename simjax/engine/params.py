"""The traced part: limits, step times and requests of a cluster, as arrays on the device (numpy ones on the host that builds them).

Requests and step times are tables of which a cluster uses some rows, so that a batch of clusters shares them: the clusters of a batch
differ in a few numbers for each rank.

Legend: N ranks, G groups, U drafts, V workloads, R requests, C clients, M prefix nodes, K entries of all paths, X waits of all calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import Array

from simjax.cluster.routers import ROUTERS, CostWeights
from simjax.latency.step_time import StepTime

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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefixParams:
    """Contents that requests share: a radix tree of M prefix nodes in tokens, see `simjax.workload.contents.prefixes`.

    The last prefix node is empty and stands where a path has ended. A path is a slice of `nodes`, which is long enough for a slice of the
    longest path to start anywhere.

    Attributes:
        start_tokens, end_tokens: run of tokens of each prefix node.
        nodes: prefix nodes of all paths, root first.
        offset, length: path of each request, nodes[offset : offset + length].
        shared: leading nodes of that path that are on another one too.
    """

    start_tokens: Int32[Array, "V M"]
    end_tokens: Int32[Array, "V M"]
    nodes: Int32[Array, "V K"]
    offset: Int32[Array, "V R"]
    length: Int32[Array, "V R"]
    shared: Int32[Array, "V R"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SessionParams:
    """Calls that wait for calls, see `simjax.workload.sessions`.

    Attributes:
        session: session of each request.
        predecessors: number of calls that must finish before a request is sent.
        offset, count: the calls that wait for a request are then[offset : offset + count]; the tables are padded like `PrefixParams.nodes`.
        then, delay_s: such a call, and the pause before it.
    """

    session: Int32[Array, "V R"]
    predecessors: Int32[Array, "V R"]
    offset: Int32[Array, "V R"]
    count: Int32[Array, "V R"]
    then: Int32[Array, "V X"]
    delay_s: Float64[Array, "V X"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RequestParams:
    """V workloads on the device, padded to R with requests that never arrive.

    Attributes:
        arrival_s: arrivals, sorted; infinity for padding, for the later requests of a closed loop and for calls that wait for
            others and have no recorded arrival, before which they are not sent.
        prompt_tokens, output_tokens: lengths, 1 in the padding.
        router_draw: draws of the random router, in [0, 1).
        count: number of requests that are no padding.
        think_s: pause of a closed-loop client between an answer and its next request.
        open_s: time from which each seat of a client with a cap may be taken, infinity for those beyond the cap; None without a cap.
        prefix: contents that requests share; None when no rank caches prefixes.
        sessions: calls that wait for calls; None when there are none.
        model: model that a request names, -1 for none; None where any rank serves any request.
        model_turn: number of earlier requests that name the same model; None likewise.
        priority: priority of each request, small ones first; None where no rank schedules by it.
    """

    arrival_s: Float64[Array, "V R"]
    prompt_tokens: Int32[Array, "V R"]
    output_tokens: Int32[Array, "V R"]
    router_draw: Float64[Array, "V R"]
    count: Int32[Array, " V"]
    think_s: Float64[Array, " V"]
    open_s: Float64[Array, "V C"] | None = None
    prefix: PrefixParams | None = None
    sessions: SessionParams | None = None
    model: Int32[Array, "V R"] | None = None
    model_turn: Int32[Array, "V R"] | None = None
    priority: Int32[Array, "V R"] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RouterParams:
    """The router, whose policies differ in the weights of their scores; scalars.

    Attributes:
        random: whether ties are broken by a draw instead of in turn.
        affinity: whether the calls of a session stay together.
        relative: whether the queue weighs by its place between the shortest and the longest one, not by the load.
        drawn: whether the rank is drawn, with odds that fall with the score.
        prefix_weight, queue_weight, kv_weight: weights of the part of a prompt that is not cached, of the load and of the KV cache's use.
        staleness_s: age at which the router renews its view of the ranks; 0: it always sees them as they are.
        prefill_load_scale, overlap_credit, active_weight, temperature: as in `CostWeights`; 0 for other routers.
        blocks_weight: weight of a rank's active blocks.
    """

    random: Bool[Array, ""]
    affinity: Bool[Array, ""]
    relative: Bool[Array, ""]
    drawn: Bool[Array, ""]
    prefix_weight: Float64[Array, ""]
    queue_weight: Float64[Array, ""]
    kv_weight: Float64[Array, ""]
    staleness_s: Float64[Array, ""]
    prefill_load_scale: Float64[Array, ""]
    overlap_credit: Float64[Array, ""]
    active_weight: Float64[Array, ""]
    temperature: Float64[Array, ""]
    blocks_weight: Float64[Array, ""]

    @staticmethod
    def of(
        router: str, weights: tuple[float, float, float] = (1.0, 1.0, 1.0), staleness_s: float = 0.0, costs: CostWeights | None = None
    ) -> RouterParams:
        """The parameters of a router by its name in `ROUTERS`, as arrays on the host.

        The weights, in the order of the attributes, are for routers whose weights the user gives, `costs` for those that go by cost.
        """
        rule, cost = ROUTERS[router], costs or CostWeights()
        used = weights if rule.weighted else (rule.prefix_weight, rule.queue_weight, rule.kv_weight)
        flags = (np.bool_(x) for x in (rule.random, rule.affinity, rule.relative, rule.compares))
        of_cost = (cost.prefill_load_scale, cost.overlap_credit, cost.active_weight, cost.temperature, 1.0) if rule.cost else (0.0,) * 5
        return RouterParams(*flags, *(np.float64(x) for x in (*used, staleness_s, *of_cost)))  # pyright: ignore[reportArgumentType]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadroomParams:
    """SGLang's admission to a decode rank; scalars.

    Attributes:
        tokens: tokens kept free for a prompt and for each active request; -1 (`NO_HEADROOM`) for a connector without that rule.
        most_new_tokens: tokens that a request is expected to generate at most.
    """

    tokens: Int32[Array, ""]
    most_new_tokens: Int32[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HandoverParams:
    """Hand-overs from prefill to decode ranks; pairs are [prefill rank, decode rank].

    Attributes:
        role: of each rank: 0 both phases, 1 prefill, 2 decode (`ROLES`).
        bytes_per_token: KV cache of a token on the way from one rank to another.
        setup_s, per_block_s: time of a transfer in addition to that of its bytes, and for each block.
        path: links between the ranks of a pair; the last link, of infinite capacity, fills the table.
        capacity: bytes per second that the transfers on a link get together.
        handover_s: time from the prefill's answer at the proxy to the request on its way to the decode rank.
        empty_pass_s: sleep of a rank that has requests and can run none.
        fifo: whether transfers have a link one after the other, not all at once in equal parts.
        decode_first: whether the decode rank is picked when the request arrives.
        local_prefill_tokens, local_prefill_ratio: bounds below which a prompt is prefilled by its decode rank.
        reserve, stream, carried: rule of the connector, see `simjax.cluster.disaggregation`.
        at_once: whether a request runs on its decode rank as soon as its prefill has ended, whatever seats and tokens are left there.
        layers: layers of each rank's model, which are sent one by one when `stream` says so.
        decode_router: rule by which decode ranks are picked.
        headroom: what decode ranks keep free beside what they reserve; None where no design has such a rule.
    """

    role: Int32[Array, " N"]
    bytes_per_token: Float64[Array, "N N"]
    setup_s: Float64[Array, "N N"]
    per_block_s: Float64[Array, "N N"]
    path: Int32[Array, "N N H"]
    capacity: Float64[Array, " L"]
    handover_s: Float64[Array, ""]
    empty_pass_s: Float64[Array, ""]
    fifo: Bool[Array, ""]
    decode_first: Bool[Array, ""]
    local_prefill_tokens: Float64[Array, ""]
    local_prefill_ratio: Float64[Array, ""]
    reserve: Int32[Array, ""]
    stream: Int32[Array, ""]
    carried: Bool[Array, ""]
    at_once: Bool[Array, ""]
    layers: Float64[Array, " N"]
    decode_router: RouterParams
    headroom: HeadroomParams | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SpeculationParams:
    """Speculative decoding of the ranks, vLLM's names.

    Attributes:
        num_speculative_tokens: K, drafts that a decode verifies in a step; 0 for a rank without.
        num_lookahead_tokens: slots beyond a request's tokens that are allocated for its next drafts.
        rates: marginal acceptance rates: of the i-th draft and all before it. They never rise; 0 where a rank has no such draft.
        seed: of the draws.
        pads: whether a waiting request that needs a single token gets 1 + K, with drafts that are never right.
        drops_last: whether the last of the cached blocks that a waiting request finds is left out.
    """

    num_speculative_tokens: Int32[Array, " N"]
    num_lookahead_tokens: Int32[Array, " N"]
    rates: Float64[Array, "N U"]
    seed: Int32[Array, ""]
    pads: Bool[Array, " N"]
    drops_last: Bool[Array, " N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupParams:
    """Groups of ranks that step together, vLLM's names.

    Attributes:
        of_rank: group of each rank, -1 for one that is padding.
        first, size: a group has ranks [first, first + size).
        sync_interval: forwards between two questions of the ranks whether any has unfinished requests.
        syncs_first: whether the first forward of a wave is followed by one too.
        prefill_schedule_interval: forwards from one that may hold prompts to the next.
        most_captured: most tokens for which a CUDA graph was captured.
        alone: whether its only rank steps by itself; None where none does.
    """

    of_rank: Int32[Array, " N"]
    first: Int32[Array, " G"]
    size: Int32[Array, " G"]
    sync_interval: Int32[Array, " G"]
    syncs_first: Bool[Array, " G"]
    prefill_schedule_interval: Int32[Array, " G"]
    most_captured: Int32[Array, " G"]
    alone: Bool[Array, " G"] | None = None


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


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PowerParams:
    """Power of the ranks' devices, all devices of a rank together, and the work of its steps; every leaf has a leading axis N.

    Attributes:
        standing_w: power of raised clocks beyond idle.
        standby_s: seconds for which the clocks stay raised after a step.
        footprint_w, memory_w, compute_w: as in `simjax.power.spec.DevicePower`.
        limit_w: most power beyond standby.
        sequence_host_s: seconds of a step for each sequence in which the device waits for the host, in its step time.
        weights_s, token_s, sequence_s, experts_s, expert_share, kv_s: bytes of a step, see `simjax.power.work.StepWork`.
        token_compute_s, sequence_compute_s, pair_compute_s: FLOPs of a step, likewise.
    """

    standing_w: Float64[Array, "*N"]
    standby_s: Float64[Array, "*N"]
    footprint_w: Float64[Array, "*N"]
    memory_w: Float64[Array, "*N"]
    compute_w: Float64[Array, "*N"]
    limit_w: Float64[Array, "*N"]
    sequence_host_s: Float64[Array, "*N"]
    weights_s: Float64[Array, "*N"]
    token_s: Float64[Array, "*N"]
    sequence_s: Float64[Array, "*N"]
    experts_s: Float64[Array, "*N"]
    expert_share: Float64[Array, "*N"]
    kv_s: Float64[Array, "*N"]
    token_compute_s: Float64[Array, "*N"]
    sequence_compute_s: Float64[Array, "*N"]
    pair_compute_s: Float64[Array, "*N"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TierParams:
    """Tiers behind the KV caches of the ranks.

    Attributes:
        capacity_blocks: blocks that each holds.
        block_bytes: bytes of a block on all devices of the rank.
        store_bytes_per_s, load_bytes_per_s: rates of its copies to the tier and back.
        setup_s, per_block_s: time of a copy in addition to that of its bytes, and for each block.
        load_after_step: whether loads begin when the step has ended that is launched with them.
        empty_pass_s: sleep of a rank that has requests and can run none.
    """

    capacity_blocks: Int32[Array, " N"]
    block_bytes: Float64[Array, " N"]
    store_bytes_per_s: Float64[Array, " N"]
    load_bytes_per_s: Float64[Array, " N"]
    setup_s: Float64[Array, " N"]
    per_block_s: Float64[Array, " N"]
    load_after_step: Bool[Array, " N"]
    empty_pass_s: Float64[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on in addition to its `EngineShape`.

    Attributes:
        ranks: limits of the N ranks; padding is ranks of `max_model_len` 0, which can hold no request.
        router: rule by which requests are spread.
        requests, workload: workloads, and row of the one that this cluster serves.
        step_time: step times; `RankParams.step_time` is the row of each rank.
        handover: hand-overs from prefill to decode ranks; None where every rank runs both phases.
        speculation: speculative decoding; None where no rank does it.
        groups: groups of ranks that step together; None where every rank steps by itself.
        balancer: load balancers within instances; None where there are none.
        power: power of the ranks' devices; None where it is not simulated.
        tiers: tiers behind the KV caches; None where there are none.
    """

    ranks: RankParams
    router: RouterParams
    requests: RequestParams
    workload: Int32[Array, ""]
    step_time: StepTime
    handover: HandoverParams | None = None
    speculation: SpeculationParams | None = None
    groups: GroupParams | None = None
    balancer: BalancerParams | None = None
    power: PowerParams | None = None
    tiers: TierParams | None = None

    @property
    def served(self) -> Array | int:
        """Row of the workload; a table of one row needs no gather."""
        return 0 if self.requests.count.shape[0] == 1 else self.workload

    def request(self, field: str, index: Array) -> Array:
        """A field of the given requests (int32[...]) of the workload that this cluster serves."""
        return getattr(self.requests, field)[self.served, index]

    @property
    def request_count(self) -> Array:
        """Number of requests, int32[]."""
        return self.requests.count[self.served]
