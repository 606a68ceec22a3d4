"""Clusters whose instances balance the load of several ranks themselves, for both simulators from one description."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from simjax.cluster.routers import ROUTERS
from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import Result
from simjax.engine.params import BalancerParams, ClusterParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import RouterPolicy, Scenario
from tests.engine.strategies import scenarios
from tests.engine.two_legs import TwoLegs, two_legs
from tests.reference.balancer import RefBalancer
from tests.reference.simulator import RefResult

API_SERVERS = 4
ROUTERS_OF_INSTANCES = [x for x in RouterPolicy if not ROUTERS[x.name.lower()].cost]
GROUPS = ((4,), (2, 2), (3, 1), (1, 3), (2, 1, 1))
"""Instances of four ranks."""


@dataclass(frozen=True)
class Balanced(Scenario):
    """A scenario whose engines are ranks of instances: `groups` of them, which follow each other and share their limits."""

    groups: tuple[int, ...] = ()
    api_servers: tuple[int, ...] = ()
    publishes: tuple[bool, ...] = ()
    weighs_in_flight: bool = False
    interval_s: float = 0.1
    seed: int = 0

    @property
    def instance(self) -> np.ndarray:
        """The instance of each rank."""
        return np.repeat(np.arange(len(self.groups)), self.groups)

    def shape(self, **changes) -> EngineShape:
        """One program, whatever the routers."""
        shape = dataclasses.replace(super().shape(), live_routing=True, several_ranks=True, api_servers=API_SERVERS)
        return dataclasses.replace(shape, **({"stale_view": True, "router_books": True} | changes))

    def params(self) -> ClusterParams:
        params, size = super().params(), np.array(self.groups)
        first = (np.cumsum(size) - size)[self.instance]
        i32 = lambda values: np.array(values, np.int32)
        balancer = BalancerParams(
            first=i32(first),
            number=i32(np.arange(len(first)) - first),
            size=i32(size[self.instance]),
            api_servers=i32(np.array(self.api_servers)[self.instance]),
            publishes=np.array(self.publishes)[self.instance],
            weighs_in_flight=np.bool_(self.weighs_in_flight),
            interval_s=np.float64(self.interval_s),
            seed=np.int32(self.seed),
        )
        return dataclasses.replace(params, ranks=dataclasses.replace(params.ranks, instance=i32(self.instance)), balancer=balancer)

    def run(self, **changes) -> Result:
        return by_rank(super().run(**changes))

    def reference_balancer(self) -> RefBalancer:
        return RefBalancer(self.groups, self.api_servers, self.publishes, self.weighs_in_flight, self.interval_s, self.seed)

    def run_reference(self, **more) -> RefResult:
        return super().run_reference(balancer=self.reference_balancer(), **more)


@dataclass(frozen=True)
class BalancedLegs(Balanced, TwoLegs):
    """The same with prefill and decode instances."""


@st.composite
def balancing(draw, of: st.SearchStrategy[Scenario] | None = None, kind: type[Balanced] = Balanced) -> Balanced:
    """A scenario of four ranks in instances with a few API servers, whose snapshots are more or less old."""
    drawn = draw(scenarios(instances=4) if of is None else of)
    groups = draw(st.sampled_from(GROUPS))
    first = np.cumsum((0, *groups))[:-1]
    spread = np.repeat(first, groups)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(drawn)}
    capacity = max(min(x.num_blocks * x.block_size + 1, x.max_model_len) for x in (drawn.limits[i] for i in first))
    roomiest = max(drawn.limits, key=lambda x: min(x.num_blocks * x.block_size + 1, x.max_model_len))
    longest = int((drawn.prompt + drawn.output).max())
    alike = [drawn.limits[i] for i in spread]
    if longest > capacity:  # some instance can hold every request
        alike = [roomiest if i == spread[0] else x for i, x in zip(spread, alike, strict=True)]
    given["limits"] = tuple(alike)
    if drawn.router not in ROUTERS_OF_INSTANCES:
        given["router"] = draw(st.sampled_from(ROUTERS_OF_INSTANCES))
    return kind(
        **given,
        groups=groups,
        api_servers=tuple(draw(st.integers(1, API_SERVERS)) for _ in groups),
        publishes=tuple(draw(st.booleans()) or draw(st.booleans()) for _ in groups),
        weighs_in_flight=draw(st.booleans()),
        interval_s=draw(st.sampled_from([0.1, 0.0173, 0.31, float("inf")])),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


@st.composite
def balancing_legs(draw) -> BalancedLegs:
    """Instances of prefill and decode ranks: the roles are those of the first ranks."""
    drawn = draw(two_legs(scenarios(instances=4)))
    roles = drawn.roles
    groups = draw(st.sampled_from([(2, 2), (3, 1), (1, 3), (2, 1, 1)]))
    first = np.repeat(np.cumsum((0, *groups))[:-1], groups)
    one_role = ("prefill", "decode", "both")[: len(groups)]
    shuffled = one_role if draw(st.booleans()) else one_role[::-1]
    roles = tuple(shuffled[i] for i in np.repeat(np.arange(len(groups)), groups))
    alike = tuple(drawn.limits[i] for i in first)
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(drawn)} | {"roles": roles, "limits": alike}
    return BalancedLegs(
        **given,
        groups=groups,
        api_servers=tuple(draw(st.integers(1, API_SERVERS)) for _ in groups),
        publishes=tuple(draw(st.booleans()) or draw(st.booleans()) for _ in groups),
        weighs_in_flight=draw(st.booleans()),
        interval_s=draw(st.sampled_from([0.1, 0.0173, float("inf")])),
        seed=draw(st.integers(0, 2**31 - 1)),
    )
