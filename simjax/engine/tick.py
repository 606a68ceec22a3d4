"""One tick: the next event of the cluster, as a list of stages.

An arrival is routed; then the rank whose plan ends first, if that is before the next arrival, carries it out, lets a finished request
depart, forms its next step and plans ahead. A tick that finds nothing to do changes nothing but its own count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax

from simjax.engine.accounting.activity import account
from simjax.engine.accounting.leap_log import LeapRows, NoLog, record
from simjax.engine.accounting.totals import count
from simjax.engine.arrivals.arrivals import answer
from simjax.engine.groups.forward import plan_forward
from simjax.engine.groups.handovers import begin_transfers
from simjax.engine.groups.members import HANDOVERS, QUEUES, answer_all, begin_forward, each, end_forward
from simjax.engine.groups.totals import account_all, count_all, record_all
from simjax.engine.groups.waves import commit_forward
from simjax.engine.handover.loads import admit_loaded
from simjax.engine.handover.transfers import begin_transfer, hear, land
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.call import admit_past, schedule_eligible
from simjax.engine.pipeline.dispatch import dispatch
from simjax.engine.pipeline.returns import depart_all, take_back
from simjax.engine.priority.preempt import preempt_by_priority
from simjax.engine.priority.queue import admit_by_priority, depart_first
from simjax.engine.routing.publish import publish
from simjax.engine.routing.route import route
from simjax.engine.scheduler.admission import admit_waiting
from simjax.engine.scheduler.commit import commit, name_blocks
from simjax.engine.scheduler.departure import depart
from simjax.engine.scheduler.leap import plan_next
from simjax.engine.scheduler.preemption import preempt
from simjax.engine.scheduler.running import schedule_running
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.schedule import admit_drafts, preempt_drafts, schedule_drafts
from simjax.engine.speculation.verify import verify
from simjax.engine.state import ClusterState
from simjax.engine.tiers.admission import admit_tiered
from simjax.engine.tiers.plan import depart_tiered, hear_tiers, plan_tiered
from simjax.engine.turn import Turn, begin_turn, end_turn

Stage: TypeAlias = Callable[[EngineShape, ClusterParams, Turn], Turn]

STAGES: tuple[Stage, ...] = (
    publish,  # what ranks report to their instance's API servers
    land,  # the next transfer that ends
    route,  # the next request, to a rank
    begin_turn,  # of the rank whose plan ends first
    commit,  # the steps of its plan
    name_blocks,  # that its requests have filled
    answer,  # those that wait for finished requests
    hear,  # of transfers that have landed
    depart,  # a finished request
    schedule_running,  # requests get their tokens of the next step
    preempt,  # those that the KV cache cannot hold
    admit_loaded,  # a request whose KV cache has landed
    admit_waiting,  # requests while tokens, seats and blocks last
    begin_transfer,  # to a request whose blocks are reserved
    plan_next,  # step and leap
    end_turn,  # the rank goes back among the others
    count,  # ticks, steps, blocks
    account,  # busy seconds and tokens by phase
    record,  # the leap that was committed
)
"""`stage(shape, params, turn) -> turn`, in order."""

OF_PIPELINES: dict[Stage, Stage] = {
    commit: take_back,  # the tokens of the oldest batch
    depart: depart_all,  # before the scheduler is called
    schedule_running: schedule_eligible,  # those with nothing to compute are passed over
    admit_waiting: admit_past,  # preempted requests with something in flight
    plan_next: dispatch,  # the batch through the stages
}
"""What stands for some stages where ranks have pp stages, with batches in flight."""

OF_SPECULATION: dict[Stage, Stage] = {
    commit: verify,  # accepted drafts, and a token more
    schedule_running: schedule_drafts,  # 1 + K tokens each
    preempt: preempt_drafts,  # those that the KV cache cannot hold, with their drafts
    admit_waiting: admit_drafts,  # and blocks of the step before get their names
}
"""What stands for some stages where ranks decode speculatively."""


OF_PRIORITIES: dict[Stage, Stage] = {
    depart: depart_first,  # a finished request, and the step waits for the others
    preempt: preempt_by_priority,  # the least urgent, back into the queue
    admit_waiting: admit_by_priority,  # the most urgent one
}
"""What stands for some stages where requests have priorities."""

OF_URGENT_DRAFTS: dict[Stage, Stage] = {preempt: preempt_drafts}
"""What stands for a stage where there are both, and each has a stand-in."""

OF_STAGED_DRAFTS: dict[Stage, Stage] = {
    commit: take_back,  # what was found when the batch was sent
    admit_waiting: admit_past,  # blocks have got their names when batches came back
}
"""What stands for stages where ranks with pp stages decode speculatively, and each has a stand-in."""

OF_TIERS: dict[Stage, Stage] = {
    hear: hear_tiers,  # of copies that have ended
    depart: depart_tiered,  # and what it has used is kept
    admit_waiting: admit_tiered,  # one, which may load from a tier, or be passed over
    plan_next: plan_tiered,  # with the copies that begin
}
"""What stands for some stages where there are tiers behind the KV caches."""

OF_GROUPS: dict[Stage, Callable[[Stage], Stage]] = {
    begin_turn: lambda _: begin_forward,  # of the group whose forward ends first
    commit: commit_forward,  # and whether the wave goes on
    name_blocks: each(),
    answer: answer_all,
    hear: each(shares=HANDOVERS),
    depart: each(shares=HANDOVERS),
    schedule_running: each(),
    preempt: each(shares=QUEUES),
    admit_loaded: each(shares=HANDOVERS),
    admit_waiting: each(shares=HANDOVERS + QUEUES),
    begin_transfer: lambda _: begin_transfers,  # of all ranks, once the forward is formed
    plan_next: lambda _: plan_forward,  # once it is formed in all ranks
    end_turn: lambda _: end_forward,
    count: lambda _: count_all,
    account: lambda _: account_all,
    record: lambda _: record_all,
}
"""What makes of some stages of a rank those of a group, where ranks step together: a turn is that of a group."""


def stages_of(shape: EngineShape) -> tuple[Stage, ...]:
    """The stages of a tick, in order."""
    systems = (
        (shape.pipeline_stages, OF_PIPELINES),
        (shape.speculation, OF_SPECULATION),
        (shape.priorities, OF_PRIORITIES),
        (shape.speculation and shape.priorities, OF_URGENT_DRAFTS),
        (shape.speculation and shape.pipeline_stages, OF_STAGED_DRAFTS),
        (shape.kv_tiers, OF_TIERS),
    )
    others = {stage: other for there, table in systems if there for stage, other in table.items()}
    mine = {stage: others.get(stage, stage) for stage in STAGES}
    if shape.groups:
        mine = {stage: OF_GROUPS[stage](own) if stage in OF_GROUPS else own for stage, own in mine.items()}
    return tuple(mine.values())


def tick(shape: EngineShape, params: ClusterParams, state: ClusterState, log: LeapRows | NoLog) -> tuple[ClusterState, LeapRows | NoLog]:
    """Advance the cluster by one event."""
    turn = Turn(state, log)
    for stage in stages_of(shape):
        with jax.named_scope(stage.__name__):
            turn = stage(shape, params, turn)
    return turn.state, turn.log
