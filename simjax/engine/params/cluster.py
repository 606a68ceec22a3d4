"""All parameters of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
from jax import Array

from simjax.engine.params.balancer import BalancerParams, NoBalancerParams
from simjax.engine.params.groups import GroupParams
from simjax.engine.params.handover import HandoverParams
from simjax.engine.params.power import PowerParams
from simjax.engine.params.ranks import RankParams
from simjax.engine.params.requests import RequestParams
from simjax.engine.params.router import RouterParams
from simjax.engine.params.speculation import NoSpeculationParams, SpeculationParams
from simjax.engine.params.tiers import TierParams
from simjax.latency.step_time import StepTime

if TYPE_CHECKING:
    from jaxtyping import Int32


NO_SPECULATION, NO_BALANCER = NoSpeculationParams(), NoBalancerParams()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterParams:
    """Everything a run depends on in addition to its `EngineShape`.

    Attributes:
        ranks: limits of the N ranks; padding is ranks of `max_model_len` 0, which can hold no request.
        router: rule by which requests are spread.
        requests, workload: workloads, and row of the one that this cluster serves.
        step_time: step times; `RankParams.step_time` is the row of each rank.
        handover: hand-overs from prefill to decode ranks; None where every rank runs both phases.
        speculation: speculative decoding.
        groups: groups of ranks that step together; None where every rank steps by itself.
        balancer: load balancers within instances.
        power: power of the ranks' devices; None where it is not simulated.
        tiers: tiers behind the KV caches; None where there are none.
    """

    ranks: RankParams
    router: RouterParams
    requests: RequestParams
    workload: Int32[Array, ""]
    step_time: StepTime
    handover: HandoverParams | None = None
    speculation: SpeculationParams | NoSpeculationParams = NO_SPECULATION
    groups: GroupParams | None = None
    balancer: BalancerParams | NoBalancerParams = NO_BALANCER
    power: PowerParams | None = None
    tiers: TierParams | None = None

    @property
    def served(self) -> Array | int:
        """Row of the workload; a table of one row needs no gather."""
        return 0 if self.requests.count.shape[0] == 1 else self.workload

    def request(self, field: str, index: Array) -> Array:
        """A field of the given requests (int32[...]) of the workload that this cluster serves."""
        return getattr(self.requests, field)[self.served, index]

    def unfolded(self) -> ClusterParams:
        """The same, with constants of several ranks that XLA does not see as such: it (jaxlib 0.10.1) crashes where it folds them."""
        if self.ranks.step_time.shape[-1] == 1:
            return self
        ranks, balancer = jax.lax.optimization_barrier((self.ranks, self.balancer))
        return replace(self, ranks=ranks, balancer=balancer)

    @property
    def request_count(self) -> Array:
        """Number of requests, int32[]."""
        return self.requests.count[self.served]
