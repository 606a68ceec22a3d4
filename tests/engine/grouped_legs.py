"""Scenarios of prefill and decode ranks that step together, for the engine and for the reference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from simjax.engine.host.result import Status
from simjax.engine.shape import EngineShape
from tests.engine.balanced import API_SERVERS, Balanced
from tests.engine.grouped import Grouped, alike, rules
from tests.engine.scenario import Limits, RouterPolicy
from tests.engine.strategies import SMALL, scenarios, sharing
from tests.engine.test_two_legs import UNEQUAL_VIEWS, assert_same, compared
from tests.engine.two_legs import TwoLegs, crowded, two_legs
from tests.reference.handover import CONNECTORS

SIZES = (2, 2)
"""Ranks of the groups: one prefills and the other decodes."""


@dataclass(frozen=True)
class GroupedLegs(TwoLegs, Grouped):
    """Groups whose ranks have a role."""


@st.composite
def grouped_legs(
    draw: st.DrawFn,
    closed: bool = False,
    tight: bool = False,
    connectors: tuple[str, ...] = tuple(CONNECTORS),
    caching: bool = False,
    sessions: bool = False,
    sizes: tuple[int, int] = SIZES,
) -> GroupedLegs:
    """A group of prefill ranks and one of decode ranks, or the other way round; all ranks of a group schedule alike."""
    of = sharing(sum(sizes), sessions) if caching else scenarios(instances=sum(sizes), closed=closed, sizes=SMALL)
    drawn = draw(crowded(of) if tight else two_legs(of, connectors))
    roles = ("prefill", "decode") if drawn.roles[0] == "prefill" else ("decode", "prefill")
    limits: list[Limits] = []
    for role, size in zip(roles, sizes, strict=True):
        of_role = [x for x, other in zip(drawn.limits, drawn.roles, strict=True) if other == role]
        limits += alike((of_role[0], of_role[-1])[:size], (size,))
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(TwoLegs)}
    ranks = {"limits": tuple(limits), "roles": tuple(role for role, size in zip(roles, sizes, strict=True) for _ in range(size))}
    return GroupedLegs(**{**given, **ranks}, sizes=sizes, **draw(rules()))


@st.composite
def mixed_legs(draw: st.DrawFn, closed: bool = False, caching: bool = False) -> GroupedLegs:
    """A group of ranks and a rank that steps by itself, of which one side prefills and the other decodes; one program."""
    sizes = draw(st.sampled_from([(2, 1), (1, 2)]))
    return dataclasses.replace(draw(grouped_legs(closed, caching=caching, sizes=sizes)), lone=True)


def check_grouped_legs(scenario: GroupedLegs, mode: str) -> None:
    """Compare a scenario, and its dummies unless ranks wait for each other for ever."""
    assume(scenario.router not in UNEQUAL_VIEWS)
    theirs = compared(scenario)
    ours = scenario.run(leap=mode == "leap")
    assert_same(ours, theirs)
    if ours.status == Status.FINISHED:
        np.testing.assert_array_equal(ours.instances.dummy_steps, [len(dummies) for dummies in theirs.dummies])
        seconds = [sum(end - start for start, end in dummies) for dummies in theirs.dummies]
        np.testing.assert_allclose(ours.instances.dummy_s, seconds, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class BalancedGroupedLegs(Balanced, GroupedLegs):
    """Groups of prefill and of decode ranks that balance the load of their ranks themselves."""

    def shape(self, **changes) -> EngineShape:
        return super().shape(router_books=False, **changes)


@st.composite
def balanced_grouped_legs(draw: st.DrawFn) -> BalancedGroupedLegs:
    """A prefill and a decode instance of two ranks each, by the older rule: the newer one looks at tokens, counted otherwise."""
    drawn = draw(grouped_legs())
    given = {x.name: getattr(drawn, x.name) for x in dataclasses.fields(GroupedLegs)}
    given["limits"] = tuple(drawn.limits[2 * (i // 2)] for i in range(4))
    for name in ("router", "decode_router"):
        given[name] = RouterPolicy.ROUND_ROBIN
    return BalancedGroupedLegs(
        **given,
        groups=SIZES,
        api_servers=tuple(draw(st.integers(1, API_SERVERS)) for _ in SIZES),
        publishes=(True, True),
        interval_s=draw(st.sampled_from([0.1, 0.0173, float("inf")])),
    )
