"""The part of the engine's arrays that load balancers within instances have."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.cluster.balancer import SNAPSHOT_S
from simjax.cluster.routers import ROUTERS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.host.lowering.part import Part
from simjax.engine.params import BalancerParams
from simjax.errors import SimjaxError


def balancer_part(cluster: ClusterSpec, seed: int) -> Part:
    """The load balancers of the instances as arrays; nothing where there are none."""
    if not cluster.balances:
        return Part()
    rule, of = cluster.balancer, np.array(cluster.instance_of_rank)
    size = np.array([x.parallelism.data for x in cluster.instances])
    first = (np.cumsum(size) - size)[of]
    fields: dict[str, Any] = {
        "first": first.astype(np.int32),
        "number": (np.arange(len(of)) - first).astype(np.int32),
        "size": size[of].astype(np.int32),
        "api_servers": np.array([rule.api_servers(x.parallelism.data) for x in cluster.ranks], np.int32),
        "publishes": np.array([rule.publishes_dense or x.model.is_moe for x in cluster.ranks]),
        "weighs_in_flight": np.bool_(rule.weighs_in_flight),
        "interval_s": np.float64(SNAPSHOT_S),
        "seed": np.int32(seed & 0x7FFFFFFF),
    }
    return Part({"api_servers": int(fields["api_servers"].max())}, {"balancer": BalancerParams(**fields)})


def refuse_with_balancer(cluster: ClusterSpec) -> None:
    """Raise for a router that names the rank of a request, where instances choose it.

    Raises:
        SimjaxError: there is one.
    """
    for option, name in (("cluster.router", cluster.router), ("disaggregation.decode_router", cluster.disaggregation.decode_router)):
        if cluster.balances and ROUTERS[name].cost and (option == "cluster.router" or cluster.disaggregated):
            raise SimjaxError(f"{option}={name} chooses among the ranks of instances itself: set cluster.data_parallel_external_lb=true")
