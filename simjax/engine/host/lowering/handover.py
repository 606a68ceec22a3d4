"""From the hand-overs of a cluster to the engine's arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS, MOST_NEW_TOKENS
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.transfers import transfer_paths
from simjax.deployment import Role
from simjax.engine.host.lowering.part import Part
from simjax.engine.host.pools import UNBOUNDED
from simjax.engine.params import HandoverParams, HeadroomParams, RouterParams
from simjax.engine.shape import power_of_two
from simjax.workload.workload import Workload

ROLES = (Role.BOTH, Role.PREFILL, Role.DECODE)  # by their number in the engine
ON_THE_WAY_S = 0.5  # for the first try for K: longer than a request is on its way, unless the decode ranks are full
LEAST_ROWS, MOST_ROWS = 8, 256  # in that try
MORE_ROWS = 4  # times as many in the next one, of a run that needs more


def first_rows(workload: Workload) -> int:
    """K of the first try, by the rate at which requests arrive; at once, all of them."""
    known = workload.arrival_s[np.isfinite(workload.arrival_s)]
    span_s = float(np.ptp(known)) if len(known) else 0.0
    expected = len(known) * min(ON_THE_WAY_S / span_s, 1.0) if span_s > 0 else len(known)
    return power_of_two(int(np.clip(np.ceil(expected), LEAST_ROWS, MOST_ROWS)))


def handover_part(cluster: ClusterSpec, workload: Workload, size: int) -> Part:
    """The hand-overs of a cluster as arrays, for a workload padded to `size` requests; nothing where every instance runs both phases.

    Raises:
        SimjaxError: the cluster does not fit its nodes, or two of its instances cannot exchange a KV cache.
    """
    if not cluster.disaggregated:
        return Part()
    rule, paths = cluster.disaggregation, transfer_paths(cluster)
    connector = CONNECTORS[rule.connector]
    links = power_of_two(len(paths.capacity))  # so that clusters share programs; the last link stays the one without bound
    capacity = np.full(links, UNBOUNDED)
    capacity[: len(paths.capacity) - 1] = np.minimum(paths.capacity[:-1], UNBOUNDED)
    headroom: dict[str, Any] = {"tokens": np.int32(rule.num_reserved_decode_tokens), "most_new_tokens": np.int32(MOST_NEW_TOKENS)}
    fields: dict[str, Any] = {
        "role": np.array([ROLES.index(x.role) for x in cluster.ranks], np.int32),
        "bytes_per_token": np.asarray(paths.bytes_per_token, np.float64),
        "setup_s": np.asarray(paths.setup_s, np.float64),
        "per_block_s": np.asarray(paths.per_block_s, np.float64),
        "path": np.where(paths.path == len(paths.capacity) - 1, links - 1, paths.path).astype(np.int32),
        "capacity": capacity,
        "handover_s": np.float64(rule.handover_s),
        "empty_pass_s": np.float64(rule.empty_pass_s),
        "fifo": np.bool_(rule.sharing == "fifo"),
        "decode_first": np.bool_(rule.decode_first),
        "local_prefill_tokens": np.float64(rule.local_prefill_tokens),
        "local_prefill_ratio": np.float64(min(rule.local_prefill_ratio, UNBOUNDED)),
        "reserve": np.int32(connector.reserve),
        "stream": np.int32(connector.stream),
        "carried": np.bool_(connector.carried),
        "at_once": np.bool_(connector.within_steps),
        "layers": np.array([x.model.num_hidden_layers for x in cluster.ranks], np.float64),
        "decode_router": RouterParams.of(
            rule.decode_router,
            (cluster.router_weights.prefix, cluster.router_weights.queue, cluster.router_weights.kv),
            costs=replace(cluster.router_costs, overlap_credit=0.0),
        ),
        "headroom": HeadroomParams(**headroom) if connector.headroom else None,
    }
    sizes = {"handovers": min(first_rows(workload), size), "links": links, "headroom": connector.headroom}
    return Part(sizes, {"handover": HandoverParams(**fields)})
