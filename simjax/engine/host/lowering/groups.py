"""The part of the engine's arrays that groups of ranks have: data-parallel instances of a mixture of experts."""

from __future__ import annotations

import numpy as np

from simjax.cluster.instance import InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.host.lowering.part import Part
from simjax.engine.params import GroupParams
from simjax.errors import SimjaxError
from simjax.network.stages import CAPTURE_SIZES

NEVER_ASKS = 2**30
"""Forwards between two questions of a rank that steps by itself: more than any run has."""


def group_part(cluster: ClusterSpec) -> Part:
    """The groups: one an instance whose ranks step together, and one for each other rank; nothing where every rank steps by itself."""
    if not any(x.deployment.grouped for x in cluster.instances):
        return Part()
    groups = [x for x in cluster.instances for _ in range(1 if x.deployment.grouped else x.parallelism.data)]
    alone = np.array([not x.deployment.grouped for x in groups])
    size = np.where(alone, 1, [x.parallelism.data for x in groups]).astype(np.int32)
    numbers = {
        name: np.where(alone, without, [getattr(x.limits, flag) for x in groups]).astype(np.int32)
        for name, flag, without in (
            ("sync_interval", "dp_sync_interval", NEVER_ASKS),
            ("prefill_schedule_interval", "prefill_schedule_interval", 1),
        )
    }
    groups = GroupParams(
        of_rank=np.repeat(np.arange(len(size), dtype=np.int32), size),  # pyright: ignore[reportArgumentType]
        first=(np.cumsum(size) - size).astype(np.int32),  # pyright: ignore[reportArgumentType]
        size=size,  # pyright: ignore[reportArgumentType]
        syncs_first=~alone & [x.limits.dp_syncs_first for x in groups],  # pyright: ignore[reportArgumentType]
        most_captured=np.array([most_captured(x) for x in groups], np.int32),  # pyright: ignore[reportArgumentType]
        alone=alone if alone.any() else None,  # pyright: ignore[reportArgumentType]
        **numbers,  # pyright: ignore[reportArgumentType]
    )
    return Part({"groups": len(size), "group_ranks": int(size.max()), "lone_ranks": bool(alone.any())}, {"groups": groups})


def most_captured(instance: InstanceSpec) -> int:
    """Most tokens of a step for which vLLM captures a CUDA graph by default (`max_cudagraph_capture_size`)."""
    return min(2 * instance.limits.max_num_seqs, CAPTURE_SIZES[-1], instance.limits.max_num_batched_tokens)


def refuse_with_groups(cluster: ClusterSpec) -> None:
    """Raise for what is not simulated together with ranks in lockstep, and for a cadence of prefills without them.

    Raises:
        SimjaxError: instances are groups of ranks, and there are pp stages; or none is, and one has a cadence.
    """
    grouped = [x for x in cluster.instances if x.deployment.grouped]
    if not grouped:
        _refuse_cadence(cluster)
        return
    option = f"data_parallel_size={grouped[0].parallelism.data} with ranks in lockstep ({grouped[0].model.name})"
    stages = max(x.parallelism.pipeline for x in cluster.instances)
    refuse_together(option, (stages > 1, f"pipeline_parallel_size={stages}", "leave one of them out"))


def _refuse_cadence(cluster: ClusterSpec) -> None:
    every = max(x.limits.prefill_schedule_interval for x in cluster.instances)
    if every > 1:
        raise SimjaxError(
            f"scheduler.prefill_schedule_interval={every}: it is simulated for the data-parallel ranks of a mixture of experts only; "
            "leave it out, or give such a model a data_parallel_size of 2 or more"
        )
