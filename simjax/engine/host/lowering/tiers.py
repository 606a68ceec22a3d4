"""From the KV tiers of a cluster to the engine's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.impossible import refuse_together
from simjax.engine.host.lowering.part import Part
from simjax.engine.params import RankParams, TierParams
from simjax.engine.shape import seat_bucket
from simjax.errors import SimjaxError
from simjax.model import kv_bytes_per_token
from simjax.tiering import CONNECTORS
from simjax.tiering.tier import Tiering

EXACT = "vllm-offload"  # the connector whose rules the engine has
FIRST_COPIES = 64  # pieces of copies of the first try
FEWEST_PLACES = 64  # slots of the first try for requests that do not run
EMPTY_PASS_S = 1e-3  # vLLM's sleep between passes that run nothing


def tier_part(cluster: ClusterSpec, caching: Sequence[bool], by_priority: bool) -> Part:
    """The tiers of the ranks as arrays; nothing where there are none.

    Args:
        cluster: the instances.
        caching: whether each rank has a prefix cache.
        by_priority: whether ranks schedule by the priorities of requests.

    Raises:
        SimjaxError: not one block fits, or the engine does not simulate the rules of the tiers, or these together with what there is.
    """
    tiering = cluster.tiering
    if tiering is None:
        return Part()
    _refuse(cluster, tiering, caching, by_priority)
    ranks = cluster.ranks
    devices = np.array([x.parallelism.tensor for x in ranks], np.float64)
    block_bytes = np.array(
        [
            x.limits.block_size * kv_bytes_per_token(x.model, x.parallelism.tensor, x.deployment.kv_cache_dtype) * x.parallelism.tensor
            for x in ranks
        ],
        np.float64,
    )
    blocks = [tiering.chunks(of_block, x.limits.block_size) for x, of_block in zip(ranks, block_bytes, strict=True)]
    each = np.ones(len(ranks))
    fields: dict[str, Any] = {
        "capacity_blocks": np.minimum(blocks, 2**31 - 1).astype(np.int32),
        "block_bytes": block_bytes,
        "store_bytes_per_s": tiering.store_bytes_per_s * devices,
        "load_bytes_per_s": tiering.load_bytes_per_s * devices,
        "setup_s": tiering.setup_s * each,
        "per_block_s": tiering.per_block_s * each,
        "load_after_step": np.full(len(ranks), tiering.rules.load_after_step),
        "empty_pass_s": np.float64(EMPTY_PASS_S),
    }
    return Part({"kv_tiers": True, "tier_jobs": FIRST_COPIES}, {"tiers": TierParams(**fields)})


def with_places(instances: RankParams, cluster: ClusterSpec, requests: int) -> RankParams:
    """The ranks with slots for requests that load and for those that others overtake."""
    seats = np.array([seat_bucket(x.limits.max_num_seqs) for x in cluster.ranks])
    slots = np.minimum(seats + np.maximum(seats // 2, FEWEST_PLACES), requests) + 16
    return replace(instances, slots=np.maximum(instances.slots, slots.astype(np.int32)))


def _refuse(cluster: ClusterSpec, tiering: Tiering, caching: Sequence[bool], by_priority: bool) -> None:
    """Raise for rules of KV tiers that the engine does not simulate, and for what is not simulated together with them."""
    rules, exact = tiering.rules, CONNECTORS[EXACT]
    if tiering.connector != EXACT:
        raise SimjaxError(f"kv_tiers.connector={tiering.connector}: its rules are not simulated yet; kv_tiers.connector={EXACT} is")
    for name in ("scope", "load", "policy", "store_threshold", "prompt_only", "free_stores", "least_load_tokens"):
        if getattr(rules, name) != getattr(exact, name):
            raise SimjaxError(f"kv_tiers.{name}={getattr(rules, name)} is not simulated yet; kv_tiers.{name}={getattr(exact, name)} is")
    if any(tiering.blocks_per_chunk(x.limits.block_size) > 1 for x in cluster.ranks):
        raise SimjaxError(
            f"kv_tiers.chunk_tokens={rules.chunk_tokens}: chunks of several blocks are not simulated yet; kv_tiers.chunk_tokens=0 is"
        )
    stages = max(x.parallelism.pipeline for x in cluster.instances)
    methods = [x.speculation.method for x in cluster.instances if x.speculation is not None]
    option = f"kv_tiers.connector={tiering.connector}"
    apart = "leave one of them out"
    refuse_together(
        option,
        (not all(caching), "ranks without prefix caching", "scheduler.enable_prefix_caching=true"),
        (any(x.limits.async_scheduling for x in cluster.ranks), "scheduler.async_scheduling=true", "scheduler.async_scheduling=false"),
        (cluster.disaggregated, "prefill and decode instances", apart),
        (stages > 1, f"pipeline_parallel_size={stages}", apart),
        (bool(methods), f"speculation.method={next(iter(methods), None)}", apart),
        (by_priority, "scheduler.scheduling_policy=priority", apart),
        (any(x.parallelism.data > 1 and x.model.num_moe_layers > 0 for x in cluster.instances), "ranks in lockstep", apart),
    )
