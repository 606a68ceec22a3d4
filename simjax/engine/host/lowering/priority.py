"""The part of the engine's arrays that scheduling by priority has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simjax.cluster.routers import ROUTERS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.params import RankParams
from simjax.workload.workload import Workload


def schedules_by_priority(cluster: ClusterSpec, workload: Workload) -> bool:
    """Whether some instance has the priority policy, and requests differ in their priorities: else all is first come, first served."""
    return workload.has_priorities and any(_by_priority(cluster))


def _by_priority(cluster: ClusterSpec) -> list[bool]:
    return [x.limits.scheduling_policy == "priority" for x in cluster.ranks]


def with_policies(cluster: ClusterSpec, instances: RankParams) -> RankParams:
    """The ranks with their policies, and with what their releases do when a request is preempted."""
    limits = [x.limits for x in cluster.ranks]
    return replace(
        instances,
        by_priority=np.array(_by_priority(cluster)),
        goes_on=np.array([x.preempt_self_goes_on for x in limits]),
        leaves_out=np.array([x.preempt_leaves_out for x in limits]),
    )


def request_priorities(workload: Workload, size: int) -> Any:
    """The priorities of one workload, padded, int32[1, size]."""
    assert workload.priority is not None
    return np.pad(workload.priority.astype(np.int32), (0, size - len(workload)))[None]


def refuse_with_priorities(cluster: ClusterSpec) -> None:
    """Raise for what is not simulated together with scheduling by priority.

    Raises:
        SimjaxError: there are prefill and decode instances, pp stages, both speculative decoding and ranks in lockstep, or a router with
            own books.
    """
    stages = max(x.parallelism.pipeline for x in cluster.instances)
    drafts, lockstep = (any(x) for x in zip(*((x.speculation is not None, x.deployment.grouped) for x in cluster.instances), strict=True))
    compares = len(cluster.instances) > 1 and ROUTERS[cluster.router].compares
    refuse_together(
        "scheduler.scheduling_policy=priority",
        (cluster.disaggregated, "prefill and decode instances", "leave one of them out"),
        (stages > 1, f"pipeline_parallel_size={stages}", "leave one of them out"),
        (drafts and lockstep, "speculative decoding and ranks in lockstep", "leave one of them out"),
        (compares, f"cluster.router={cluster.router}", "another router"),
    )
