"""The part of the engine's arrays that load balancers within instances have."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.cluster.balancer import SNAPSHOT_S
from simjax.cluster.routers import ROUTERS
from simjax.cluster.spec import ClusterSpec
from simjax.engine.params import BalancerParams
from simjax.errors import SimjaxError


def most_api_servers(cluster: ClusterSpec) -> int:
    """A: API servers of the instance that has most; 0 where none balances the load of its ranks itself."""
    return max(cluster.balancer.api_servers(x.parallelism.data) for x in cluster.instances) if cluster.balances else 0


def balancer_params(cluster: ClusterSpec, seed: int) -> BalancerParams | None:
    """The load balancers of the instances as arrays; None where there are none."""
    if not cluster.balances:
        return None
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
    return BalancerParams(**fields)


def refuse_with_balancer(cluster: ClusterSpec) -> None:
    """Raise for a router that names the rank of a request, where instances choose it.

    Raises:
        SimjaxError: there is one.
    """
    for option, name in (("cluster.router", cluster.router), ("disaggregation.decode_router", cluster.disaggregation.decode_router)):
        if cluster.balances and ROUTERS[name].cost and (option == "cluster.router" or cluster.disaggregated):
            raise SimjaxError(f"{option}={name} chooses among the ranks of instances itself: set cluster.data_parallel_external_lb=true")
