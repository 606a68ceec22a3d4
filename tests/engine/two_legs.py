"""Clusters of prefill and decode ranks for both simulators, from one description."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from simjax.cluster.disaggregation import CONNECTORS
from simjax.cluster.routers import ROUTERS
from simjax.engine.host.lower_handover import ROLES, UNBOUNDED
from simjax.engine.params import ClusterParams, HandoverParams, RouterParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import RouterPolicy, Scenario

LINKS = 8
ROWS = 32


@dataclass(frozen=True)
class TwoLegs(Scenario):
    """A scenario whose ranks have roles ("both", "prefill", "decode").

    Pairs are [prefill rank, decode rank]; `path` has link numbers, -1 for none; `capacity` is over the links.
    """

    roles: tuple[str, ...] = ()
    connector: str = "nixl"
    bytes_per_token: tuple[tuple[float, ...], ...] = ()
    setup_s: tuple[tuple[float, ...], ...] = ()
    per_block_s: float = 0.0
    path: tuple[tuple[tuple[int, ...], ...], ...] = ()
    capacity: tuple[float, ...] = ()
    handover_s: float = 0.0
    empty_pass_s: float = 1e-3
    fifo: bool = False
    decode_first: bool = False
    local_prefill_tokens: float = 0.0
    local_prefill_ratio: float = 1e9
    layers: float = 4.0
    decode_router: RouterPolicy = RouterPolicy.LEAST_LOADED
    decode_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    extra: dict = field(default_factory=dict)

    def shape(self, **changes) -> EngineShape:
        shape = dataclasses.replace(super().shape(), live_routing=True, handovers=ROWS, links=LINKS)
        if self.staleness_s > 0:
            shape = dataclasses.replace(shape, stale_view=True)
        return dataclasses.replace(shape, **changes)

    def params(self) -> ClusterParams:
        n, connector = len(self.limits), CONNECTORS[self.connector]
        path = np.full((n, n, 4), LINKS - 1, np.int32)
        for p in range(n):
            for d in range(n):
                for h, link in enumerate(self.path[p][d]):
                    path[p, d, h] = LINKS - 1 if link < 0 else link
        capacity = np.full(LINKS, UNBOUNDED)
        capacity[: len(self.capacity)] = np.minimum(self.capacity, UNBOUNDED)
        handover = HandoverParams(
            role=np.array([[x.value for x in ROLES].index(role) for role in self.roles], np.int32),
            bytes_per_token=np.array(self.bytes_per_token, float),
            setup_s=np.array(self.setup_s, float),
            per_block_s=np.full((n, n), self.per_block_s),
            path=path,
            capacity=capacity,
            handover_s=np.float64(self.handover_s),
            empty_pass_s=np.float64(self.empty_pass_s),
            fifo=np.bool_(self.fifo),
            decode_first=np.bool_(self.decode_first),
            local_prefill_tokens=np.float64(self.local_prefill_tokens),
            local_prefill_ratio=np.float64(self.local_prefill_ratio),
            reserve=np.int32(connector.reserve),
            stream=np.int32(connector.stream),
            carried=np.bool_(connector.carried),
            layers=np.full(n, self.layers),
            decode_router=RouterParams.of(self.decode_router.name.lower(), self.decode_weights),
        )
        return dataclasses.replace(super().params(), handover=handover)


def one_to_one(scenario: Scenario, seconds_per_token: float, setup_s: float = 0.0, **changes) -> TwoLegs:
    """A scenario of one prefill and one decode rank, whose transfers take a time a token on a link of their own and a fixed one."""
    given = {x.name: getattr(scenario, x.name) for x in dataclasses.fields(Scenario)}
    assert ROUTERS and len(scenario.limits) == 2
    defaults = {
        "roles": ("prefill", "decode"),
        "bytes_per_token": ((seconds_per_token,) * 2,) * 2,
        "setup_s": ((setup_s,) * 2,) * 2,
        "path": (((0,),) * 2,) * 2,
        "capacity": (1.0,),
    }
    return TwoLegs(**(given | defaults | changes))
