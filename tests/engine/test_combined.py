"""Subsystems together against the reference: every time of every request to 1e-9. More kinds are in `tests.soak`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simjax.engine.shape import EngineShape
from tests.engine.combined import (
    PrioritizedGroups,
    SpeculatingGroupedLegs,
    SpeculatingGroups,
    StagedDrafts,
    UrgentDrafts,
    caches_on_stages,
    check_staged_drafts,
    drafts_and_caches,
    prioritized_groups,
    sessions_with_drafts,
    speculating_grouped_legs,
    speculating_groups,
    staged_drafts,
    urgent_drafts,
)
from tests.engine.grouped import Grouped, Together, mixed_groups
from tests.engine.grouped_legs import SIZES, GroupedLegs, check_grouped_legs, grouped_legs, mixed_legs
from tests.engine.pipelined import Pipelined
from tests.engine.scenario import SHAPE, Limits, Scenario
from tests.engine.speculating import Speculating
from tests.engine.test_against_reference import check_as_shaped
from tests.engine.test_groups import check
from tests.engine.two_legs import one_to_one

LIMITED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
FEWER = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@given(scenario=grouped_legs())
@LIMITED
def test_prefill_and_decode_groups(scenario: GroupedLegs):
    check_grouped_legs(scenario, "leap")


@given(scenario=mixed_groups())
@LIMITED
def test_a_group_beside_a_rank_that_steps_by_itself(scenario: Grouped):
    check(scenario, "leap")


@pytest.mark.slow
@given(scenario=mixed_legs(caching=True))
@LIMITED
def test_a_group_and_a_rank_that_steps_by_itself_hand_over(scenario: GroupedLegs):
    check_grouped_legs(scenario, "leap")


@pytest.mark.slow
@given(scenario=speculating_grouped_legs(caching=True))
@LIMITED
def test_prefill_and_decode_groups_with_drafts_and_prefix_caches(scenario: SpeculatingGroupedLegs):
    check_grouped_legs(scenario, "leap")


@pytest.mark.slow
@given(scenario=prioritized_groups())
@FEWER
def test_groups_by_priority(scenario: PrioritizedGroups):
    check(scenario, "leap")


@given(scenario=caches_on_stages(2, sessions=True))
@LIMITED
def test_cached_sessions_on_pp_stages(scenario: Pipelined):
    check_as_shaped(scenario)


@given(scenario=staged_drafts(2, closed=True))
@LIMITED
def test_drafts_on_pp_stages(scenario: StagedDrafts):
    check_staged_drafts(scenario)


@given(scenario=sessions_with_drafts(2))
@FEWER
def test_sessions_with_drafts(scenario: Speculating):
    check_as_shaped(scenario)


@given(scenario=drafts_and_caches())
@LIMITED
def test_prefix_cache_with_drafts(scenario: Speculating):
    check_as_shaped(scenario)


@pytest.mark.slow
@given(scenario=drafts_and_caches(instances=2, sessions=True))
@FEWER
def test_cached_sessions_with_drafts_on_two_instances(scenario: Speculating):
    check_as_shaped(scenario)


@pytest.mark.slow
@given(scenario=speculating_groups((1, 2), caching=True))
@FEWER
def test_groups_with_prefix_caches_and_drafts(scenario: SpeculatingGroups):
    check(scenario, "leap")


@given(scenario=urgent_drafts(caching=True))
@LIMITED
def test_priorities_with_drafts_and_prefix_caches(scenario: UrgentDrafts):
    check_as_shaped(scenario)


# ---- by hand


def by_hand(async_scheduling: bool) -> GroupedLegs:
    """A request of two tokens on a prefill and a decode group in unit forwards; its transfer takes half of one."""
    limits = (Limits(async_scheduling=async_scheduling),) * 2
    pair = one_to_one(Scenario(limits, np.zeros(1), np.array([4]), np.array([2])), 0.0, 0.5)
    given = {x.name: getattr(pair, x.name) for x in dataclasses.fields(pair)}
    given |= {"limits": limits * 2, "roles": ("prefill", "prefill", "decode", "decode")}
    given |= {name: ((getattr(pair, name)[0][0],) * 4,) * 4 for name in ("bytes_per_token", "setup_s", "path")}
    return GroupedLegs(**given, sizes=SIZES, own=(Together.taking(1.0, 2),) * 2)


@pytest.mark.parametrize(("async_scheduling", "first_token_s"), [(False, 4.002), (True, 6.0)])
def test_a_group_is_told_of_a_load_with_the_forward_that_looked(async_scheduling: bool, first_token_s: float):
    # The load lands at 1.5. Synchronous: dummies from 1 to 2.001 and to 3.002, each after a sleep; the second one has looked, and the
    # first token takes one forward more. Asynchronous: the dummy from 3 to 4 is launched at 2, when it looks, and tells it at 4; the
    # forward that is formed then is that from 5 to 6.
    scenario = by_hand(async_scheduling)
    result, theirs = scenario.run(), scenario.run_reference()
    np.testing.assert_allclose(theirs.requests[0].token_times_s, [first_token_s, first_token_s + 1.0])
    np.testing.assert_allclose(result.requests.finish_s, [first_token_s + 1.0])


def test_what_groups_do_not_go_with_is_no_shape():
    with pytest.raises(ValueError, match="groups"):
        EngineShape(**{**dataclasses.asdict(SHAPE), "ranks": 2, "groups": 1, "group_ranks": 2, "pipeline_stages": 2})
