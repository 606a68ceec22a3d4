"""Results of a simulation: plain numpy arrays on the host, a record over requests, one over leaps and one over instances.

Every field of these records declares its column: data type, unit, and the subsystem that it needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from simjax.cluster.alike import AlikeInstances
from simjax.engine.columns import column
from simjax.engine.host.pools import Pools
from simjax.engine.host.ranks import RankLog
from simjax.engine.host.tiers import TierSizes
from simjax.power.plant import Plant
from simjax.pricing.rates import Rates
from simjax.workload.classes import RequestClasses
from simjax.workload.sessions import Sessions


class Status(IntEnum):
    """How a run ended."""

    FINISHED = 0  # every request finished
    TICK_LIMIT = 1  # the tick bound was reached first
    STALLED = 2  # nothing can happen any more, yet requests are left


@dataclass(frozen=True)
class RequestLog:
    """Per-request outcome, arrays over the R requests in arrival order.

    Times are client-side seconds: they include the API overheads before queueing and after the first token.
    A time that never came is `NEVER`; `finished` is the mask.

    Attributes:
        instance: int32[R], the instance that serves it, -1 when it was not sent.
        prompt_tokens, output_tokens, cached_tokens: int32[R].
        tier_hit_tokens: int32[R], tokens that its first admission loaded from a KV tier. This and the next two are of runs with one.
        tier_load_start_s, tier_load_end_s: float64[R], start and end of the copy of its first load, on the instance's clock.
        arrival_s: float64[R], when the client sent it; `NEVER` when a run was cut before.
        scheduled_s: float64[R], start of the first step that held it.
        first_token_s, finish_s: float64[R], when the client saw the first and the last token.
        preemptions: int32[R].
        finished: bool[R].
    """

    instance: np.ndarray = column(np.int32, absent=-1)
    prompt_tokens: np.ndarray = column(np.int32, engine=False)
    output_tokens: np.ndarray = column(np.int32, engine=False)
    cached_tokens: np.ndarray = column(np.int32, needs="prefix_nodes")
    tier_hit_tokens: np.ndarray = column(np.int32, needs="kv_tiers")
    tier_load_start_s: np.ndarray = column(np.float64, "s", needs="kv_tiers", absent=np.inf)
    tier_load_end_s: np.ndarray = column(np.float64, "s", needs="kv_tiers", absent=np.inf)
    arrival_s: np.ndarray = column(np.float64, "s", engine=False)
    scheduled_s: np.ndarray = column(np.float64, "s")
    first_token_s: np.ndarray = column(np.float64, "s")
    finish_s: np.ndarray = column(np.float64, "s")
    preemptions: np.ndarray = column(np.int32)
    finished: np.ndarray = column(np.bool_, engine=False)


@dataclass(frozen=True)
class HandoverLog:
    """Hand-overs from prefill to decode instances, arrays over the R requests in arrival order.

    A request that one instance served has `prefill_instance` -1, and no times. The others have in `RequestLog` the first step and the
    cached tokens of the prefill instance, the instance and tokens of the decode instance, and the preemptions of both. The parts of the
    time to first token, which add up to it, are the queue (arrival to `RequestLog.scheduled_s`), the prefill (to `prefill_finish_s`), the
    hand-over (to `transfer_start_s`), the transfer (to `transfer_end_s`) and the first decode step (to `RequestLog.first_token_s`).

    Attributes:
        prefill_instance: int32[R]; `RequestLog.instance` is the decode instance.
        prefill_scheduled_s, decode_scheduled_s: float64[R], start of the first step that held it on either instance.
        prefill_finish_s: float64[R], end of the step that gave its token there, on that instance's clock.
        transfer_start_s, transfer_end_s: float64[R], start of the transfer and time at which all of it has landed.
        transfer_bytes: float64[R].
        prefill_cached_tokens, decode_cached_tokens: int32[R], prompt tokens found in the prefix cache of either; the latter are not moved.
    """

    prefill_instance: np.ndarray = column(np.int32, absent=-1)
    prefill_scheduled_s: np.ndarray = column(np.float64, "s")
    prefill_finish_s: np.ndarray = column(np.float64, "s")
    transfer_start_s: np.ndarray = column(np.float64, "s")
    transfer_end_s: np.ndarray = column(np.float64, "s")
    transfer_bytes: np.ndarray = column(np.float64, "bytes")
    prefill_cached_tokens: np.ndarray = column(np.int32)
    decode_scheduled_s: np.ndarray = column(np.float64, "s", engine=False)
    decode_cached_tokens: np.ndarray = column(np.int32, engine=False)


@dataclass(frozen=True)
class LeapLog:
    """Leaps of the instances, arrays over the L leaps in the order they ended.

    A leap is one step of any kind followed by `steps - 1` pure-decode steps of the same requests. Step 1 takes `first_step_s`;
    step j >= 2 takes `next_step_s + slope_s * (j - 2)`. Steps of a leap follow each other without a gap.

    Attributes:
        instance: int32[L].
        start_s: float64[L], start of step 1.
        first_step_s, next_step_s, slope_s: float64[L].
        steps: int32[L], at least 1.
        prompt_tokens: int32[L], prefill tokens computed in step 1 (recomputed ones after a preemption included).
        first_outputs: int32[L], output tokens that step 1 emits.
        decodes: int32[L], those of `first_outputs` whose request also got a token in the step before: their inter-token gap is the step's
        time.
        outputs: int32[L], output tokens that each of the steps 2.. emits (all are decodes).
        resumed: int32[L], those of `first_outputs` that come after a pause (preemption, or a step that left the request out).
        resumed_gap_s: float64[L], sum of the inter-token gaps of the `resumed` ones.
        running: int32[L], requests running in step 1.
        preempted: int32[L], preempted requests that wait while the leap lasts.
        kv_blocks: int32[L], KV blocks allocated during step 1.
        kv_blocks_last: int32[L], KV blocks allocated during the last step.
        cached_blocks: int32[L], KV blocks that no request holds and that have been in use before: the prefix cache, and a block for most
            of the requests that have finished lately which was not full and so is of no use; 0 without prefix caching.
        footprint_j, memory_j, compute_j: float64[L], energy of step 1 on all devices of the rank beyond standby, by what it is spent on
            (`simjax.power.spec.DevicePower`). This and the next are 0 unless power is simulated.
        later_footprint_j, later_memory_j, later_compute_j: float64[L], that of the steps 2..
    """

    instance: np.ndarray = column(np.int32)
    start_s: np.ndarray = column(np.float64, "s")
    first_step_s: np.ndarray = column(np.float64, "s")
    next_step_s: np.ndarray = column(np.float64, "s")
    slope_s: np.ndarray = column(np.float64, "s")
    steps: np.ndarray = column(np.int32)
    prompt_tokens: np.ndarray = column(np.int32)
    first_outputs: np.ndarray = column(np.int32)
    decodes: np.ndarray = column(np.int32)
    outputs: np.ndarray = column(np.int32)
    resumed: np.ndarray = column(np.int32)
    resumed_gap_s: np.ndarray = column(np.float64, "s")
    running: np.ndarray = column(np.int32)
    preempted: np.ndarray = column(np.int32)
    kv_blocks: np.ndarray = column(np.int32)
    kv_blocks_last: np.ndarray = column(np.int32)
    cached_blocks: np.ndarray = column(np.int32, needs="prefix_nodes")
    footprint_j: np.ndarray = column(np.float64, "J", needs="power")
    memory_j: np.ndarray = column(np.float64, "J", needs="power")
    compute_j: np.ndarray = column(np.float64, "J", needs="power")
    later_footprint_j: np.ndarray = column(np.float64, "J", needs="power")
    later_memory_j: np.ndarray = column(np.float64, "J", needs="power")
    later_compute_j: np.ndarray = column(np.float64, "J", needs="power")


@dataclass(frozen=True)
class InstanceLog:
    """Totals of each instance over the run, arrays over the N instances; of one with several ranks, sums over them unless said otherwise.

    Attributes:
        num_blocks: int32[N], KV blocks that requests can use.
        peak_blocks: int32[N], most KV blocks ever allocated to requests; of several ranks, whose peaks may lie apart, the sum of the peaks.
        evicted_blocks: int32[N], cached blocks that were taken for something else; 0 without prefix caching. Blocks that the running
            requests of a step, or the one it admits, take and compute again themselves are not counted.
        tier_evictions, tier_loaded_blocks, tier_stored_blocks: int32[N], blocks that left its KV tier for others, and that were copied from
            and to it. These and the next two are 0 without a tier.
        tier_failed_stores: int32[N], offers of which nothing was stored because what the tier held was in use.
        tier_flush_s: float64[N], seconds that its steps waited for stores that still read their blocks.
        busy_s: float64[N], seconds in which a step was under way, of several ranks their mean. This and all below are 0 unless
            `EngineShape.activity` is on.
        prefill_tokens, decode_tokens: int64[N], tokens computed by requests with more than one token in a step, and by those with one.
        step_tokens_min, step_tokens_max: int32[N], fewest and most scheduled tokens of a step.
        step_sequences_min, step_sequences_max: int32[N], fewest and most requests of a step.
        footprint_j, memory_j, compute_j: float64[N], energy of the steps on its devices beyond standby, by what it is spent on. This and
            the next two are 0 unless power is simulated.
        standby_j: float64[N], energy of raised clocks beyond idle, until its last step ended.
        ended_s: float64[N], end of its last step, infinite before the first one; of several ranks the latest.
        drafts: int64[N], times that a step verified drafts of a request (vLLM's `num_drafts`). This and the next are 0 without speculation.
        draft_tokens, accepted_tokens: int64[N], drafts that were verified and accepted.
        dummy_steps: int64[N], steps in which it computed a dummy because another rank of its group had requests, or might have; they are no
            part of `busy_s`. This and the next are 0 where ranks step by themselves.
        dummy_s: float64[N], seconds that these took, of several ranks their mean.
    """

    num_blocks: np.ndarray = column(np.int32, engine=False)
    peak_blocks: np.ndarray = column(np.int32)
    evicted_blocks: np.ndarray = column(np.int32, needs="prefix_nodes")
    tier_evictions: np.ndarray = column(np.int32, needs="kv_tiers")
    tier_loaded_blocks: np.ndarray = column(np.int32, needs="kv_tiers")
    tier_stored_blocks: np.ndarray = column(np.int32, needs="kv_tiers")
    tier_failed_stores: np.ndarray = column(np.int32, needs="kv_tiers")
    tier_flush_s: np.ndarray = column(np.float64, "s", needs="kv_tiers")
    busy_s: np.ndarray = column(np.float64, "s", needs="activity")
    prefill_tokens: np.ndarray = column(np.int64, needs="activity")
    decode_tokens: np.ndarray = column(np.int64, needs="activity")
    step_tokens_min: np.ndarray = column(np.int32, needs="activity")
    step_tokens_max: np.ndarray = column(np.int32, needs="activity")
    step_sequences_min: np.ndarray = column(np.int32, needs="activity")
    step_sequences_max: np.ndarray = column(np.int32, needs="activity")
    footprint_j: np.ndarray = column(np.float64, "J", needs="power")
    memory_j: np.ndarray = column(np.float64, "J", needs="power")
    compute_j: np.ndarray = column(np.float64, "J", needs="power")
    standby_j: np.ndarray = column(np.float64, "J", needs="power")
    ended_s: np.ndarray = column(np.float64, "s", needs="power")
    drafts: np.ndarray = column(np.int64, needs="speculation")
    draft_tokens: np.ndarray = column(np.int64, needs="speculation")
    accepted_tokens: np.ndarray = column(np.int64, needs="speculation")
    dummy_steps: np.ndarray = column(np.int64, needs="groups")
    dummy_s: np.ndarray = column(np.float64, "s", needs="groups")


@dataclass(frozen=True)
class Result:
    """One simulation, finished or cut.

    Attributes:
        status: how it ended.
        requests: outcome of every request.
        leaps: leaps of the instances, None when the run did not record them (batched sweeps).
        instances: totals of the instances.
        ticks: ticks taken.
        steps: engine steps simulated, all instances together.
        compile_s, run_s: host wall time in seconds spent on compilation (tracing included) and on running.
        sessions: sessions of the workload, None when it has none.
        stationary: whether its load is stationary (`Workload.stationary`).
        due_s: float64[R], when a client with a cap on its requests in flight would have sent each without the cap; None without a cap.
        handovers: hand-overs of the requests; None in a cluster whose instances run both phases.
        tiers: sizes of the KV tiers behind its instances; None without.
        pools: its instances by role and the links between their ranks; None as `handovers`.
        ranks: the ranks of its instances; None where every instance has one.
        classes: classes of service of the requests, None when the workload has none.
        alike_instances: its instances by what they differ in, None where all are alike or nobody asked.
        plant: power of its devices at rest, of its servers and its building; None where power is not simulated.
        rates: money and carbon of its cluster by the hour, None where nobody asked for them.
    """

    status: Status
    requests: RequestLog
    leaps: LeapLog | None
    instances: InstanceLog
    ticks: int
    steps: int
    compile_s: float = 0.0
    run_s: float = 0.0
    sessions: Sessions | None = None
    stationary: bool = False
    due_s: np.ndarray | None = None
    handovers: HandoverLog | None = None
    pools: Pools | None = None
    tiers: TierSizes | None = None
    ranks: RankLog | None = None
    classes: RequestClasses | None = None
    alike_instances: AlikeInstances | None = None
    plant: Plant | None = None
    rates: Rates | None = None


NEVER = float("inf")
"""The time of something that never happened."""
