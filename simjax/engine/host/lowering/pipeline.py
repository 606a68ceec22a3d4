"""The part of the engine's arrays that pp stages have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simjax.cluster.routers import ROUTERS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.params import RankParams

EMPTY_PASS_S = 1e-3
"""Sleep of vLLM's engine loop after a pass that ran nothing although requests are left (`EngineCore._process_engine_step`)."""
MORE_SLOTS = 1 / 4
"""Slots of a rank for each seat in addition: requests that are overtaken after a preemption keep theirs."""


def most_stages(cluster: ClusterSpec) -> int:
    """J: pp stages of the instance that has most; 0 where none has more than one."""
    most = max(instance.parallelism.pipeline for instance in cluster.instances)
    return most if most > 1 else 0


def with_stages(cluster: ClusterSpec, instances: RankParams, requests: int) -> RankParams:
    """The ranks with their pp stages; as they are where none has more than one."""
    if not most_stages(cluster):
        return instances
    return replace(
        instances,
        slots=instances.slots + (MORE_SLOTS * np.minimum(instances.max_num_seqs, requests)).astype(np.int32),
        pipeline_stages=np.array([x.parallelism.pipeline for x in cluster.ranks], np.int32),
        broadcast_s=np.array([x.broadcast_s for x in cluster.ranks]),
        empty_pass_s=np.full(len(cluster.ranks), EMPTY_PASS_S),
    )


def refuse_with_stages(cluster: ClusterSpec) -> None:
    """Raise for what is not simulated together with pp stages.

    Raises:
        SimjaxError: the cluster has stages, and prefill and decode instances or a router with books of its own.
    """
    most = most_stages(cluster)
    if not most:
        return
    compares = cluster.choices > 1 and ROUTERS[cluster.router].compares
    refuse_together(
        f"pipeline_parallel_size={most}",
        (cluster.disaggregated, "prefill and decode instances", "leave one of them out"),
        (compares, f"cluster.router={cluster.router}", "another router"),
    )
