"""Scenarios of ranks that schedule by the priorities of requests, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from simjax.cluster.routers import ROUTERS
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from tests.engine.scenario import RouterPolicy, Scenario
from tests.engine.strategies import SMALL, scenarios, sharing
from tests.reference.instance import RefInstance
from tests.reference.records import RefRequest

RULES = {"0.19": (False, True), "0.28": (False, False), "0.33": (True, False)}
"""What releases do: go on after a request that has preempted itself; leave one out for a victim that had no tokens."""


@dataclass(frozen=True)
class Prioritized(Scenario):
    """`priority` of each request; `policies` and `rules` (as in `RULES`) of each engine."""

    priority: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, int))
    policies: tuple[str, ...] = ("priority",)
    rules: tuple[tuple[bool, bool], ...] = (RULES["0.33"],)

    def shape(self, **changes) -> EngineShape:
        return super().shape(**{"priorities": True, "window": 2, "router_books": False, **changes})

    def params(self) -> ClusterParams:
        params = super().params()
        priority = np.zeros(self.shape().requests, np.int32)
        priority[: len(self.priority)] = self.priority
        goes_on, leaves_out = np.array(self.rules).T
        by_priority = np.array([policy == "priority" for policy in self.policies])
        ranks = dataclasses.replace(params.ranks, by_priority=by_priority, goes_on=goes_on, leaves_out=leaves_out)
        return dataclasses.replace(params, ranks=ranks, requests=dataclasses.replace(params.requests, priority=priority[None]))

    def reference_instances(self) -> list[RefInstance]:
        return [
            dataclasses.replace(instance, scheduling_policy=policy, preempt_self_goes_on=goes_on, preempt_leaves_out=leaves_out)
            for instance, policy, (goes_on, leaves_out) in zip(super().reference_instances(), self.policies, self.rules, strict=True)
        ]

    def reference_requests(self) -> list[RefRequest]:
        each = zip(super().reference_requests(), self.priority.tolist(), strict=True)
        return [dataclasses.replace(request, priority=priority) for request, priority in each]


@st.composite
def prioritized(
    draw: st.DrawFn, instances: int = 1, closed: bool = False, capped: bool = False, sessions: bool = False, caching: bool = False
) -> Prioritized:
    """Scenarios with a few priorities, or one of its own for each request; the pool tight in many."""
    sizes = dataclasses.replace(SMALL, scenario=Prioritized)
    if caching:
        drawn = draw(sharing(instances=instances, sessions=sessions, sizes=sizes))
    elif sessions:
        drawn = draw(sharing(instances=instances, sessions=True, sizes=sizes))
        without = tuple(dataclasses.replace(x, enable_prefix_caching=False) for x in drawn.limits)
        drawn = dataclasses.replace(drawn, limits=without, contents=None, staleness_s=0.0)
    else:
        drawn = draw(scenarios(instances=instances, closed=closed, capped=capped, sizes=sizes))
    rng, count = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), len(drawn.prompt)
    levels = draw(st.sampled_from([1, 2, 3, count]))
    policies = tuple(draw(st.sampled_from(["priority", "priority", "priority", "fcfs"])) for _ in range(instances))
    compares = ROUTERS[drawn.router.name.lower()].compares
    if draw(st.booleans()):  # hardly more blocks than the longest request needs: everybody is in everybody's way
        longest, spare = int((drawn.prompt + drawn.output).max()), draw(st.integers(0, 3))
        tight = tuple(
            dataclasses.replace(x, num_blocks=min(x.num_blocks, -(-longest // x.block_size) + spare), reserve_full_isl=False)
            for x in drawn.limits
        )
        drawn = dataclasses.replace(drawn, limits=tight, arrival_s=drawn.arrival_s * draw(st.sampled_from([0.0, 0.1, 1.0])))
    return dataclasses.replace(
        drawn,
        router=RouterPolicy.LEAST_LOADED if compares else drawn.router,
        priority=rng.integers(0, levels, count) - levels // 2,
        policies=policies,
        rules=tuple(draw(st.sampled_from(list(RULES.values()))) for _ in range(instances)),
    )
