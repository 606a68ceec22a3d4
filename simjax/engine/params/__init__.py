"""The traced part: limits, step times and requests of a cluster, as arrays on the device (numpy ones on the host that builds them).

Requests and step times are tables of which a cluster uses some rows, so that a batch of clusters shares them: the clusters of a batch
differ in a few numbers for each rank.
"""

from simjax.engine.params.balancer import BalancerParams, NoBalancerParams
from simjax.engine.params.cluster import ClusterParams
from simjax.engine.params.groups import GroupParams
from simjax.engine.params.handover import HandoverParams, HeadroomParams
from simjax.engine.params.power import PowerParams
from simjax.engine.params.ranks import RankParams
from simjax.engine.params.requests import PrefixParams, RequestParams, SessionParams
from simjax.engine.params.router import RouterParams
from simjax.engine.params.speculation import NoSpeculationParams, SpeculationParams
from simjax.engine.params.tiers import TierParams

__all__ = [
    "BalancerParams",
    "ClusterParams",
    "GroupParams",
    "HandoverParams",
    "HeadroomParams",
    "NoBalancerParams",
    "NoSpeculationParams",
    "PowerParams",
    "PrefixParams",
    "RankParams",
    "RequestParams",
    "RouterParams",
    "SessionParams",
    "SpeculationParams",
    "TierParams",
]
