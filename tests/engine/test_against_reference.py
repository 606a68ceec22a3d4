"""The engine against the pure-Python reference simulator: every request's times to 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from simjax.engine.host.result import Result, Status
from simjax.engine.params import RouterPolicy
from tests.engine.scenario import Scenario
from tests.engine.strategies import scenarios, sharing
from tests.reference.simulator import RefResult

RTOL = 1e-9  # of design §9; the two sum the same step times in different orders
# These see the caches as they were when an engine's leap began, not as they are in the middle of it.
SEEING = (RouterPolicy.LONGEST_PREFIX, RouterPolicy.WEIGHTED)
FEWER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_same(ours: Result, theirs: RefResult) -> None:
    column = lambda name: np.array([getattr(request, name) for request in theirs.requests], float)
    assert ours.status == Status.FINISHED
    log = ours.requests
    np.testing.assert_array_equal(log.instance, column("instance"))
    np.testing.assert_array_equal(log.preemptions, column("preemptions"))
    np.testing.assert_array_equal(log.cached_tokens, column("cached_tokens"))
    np.testing.assert_array_equal(ours.instances.evicted_blocks, theirs.evictions)
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(log, name), column(name), rtol=RTOL, err_msg=name)
    assert ours.steps == len(theirs.steps)


def undecided(scenario: Scenario, theirs: RefResult) -> bool:
    """Whether a request is queued just when a step ends, give or take rounding: then the order of two float sums decides who comes first.

    Closed loops make such ties: a request sent one think time after a step that took d, and a step of the same d, begun one think time
    after the same moment, meet exactly.
    """
    ends_s = np.array([step.end_s for step in theirs.steps])
    queued_s = np.array([request.arrival_s for request in theirs.requests])[:, None] + [x.api_pre_s for x in scenario.limits]
    return bool(np.any(np.abs(queued_s.reshape(-1, 1) - ends_s) < 1e-9))


def check(scenario: Scenario, leap: bool) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    assert_same(scenario.run(leap=leap), theirs)


@pytest.mark.parametrize("leap", [True, False], ids=["leap", "step"])
class TestAgainstReference:
    @given(scenario=scenarios())
    @LIMITED
    def test_one_instance(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=scenarios(instances=3))
    @LIMITED
    def test_three_instances(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=scenarios(closed=True))
    @LIMITED
    def test_closed_loop(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=scenarios(instances=2, closed=True))
    @LIMITED
    def test_closed_loop_on_two_instances(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=sharing())
    @FEWER
    def test_prefix_cache(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=sharing(sessions=True))
    @FEWER
    def test_sessions(self, scenario: Scenario, leap: bool):
        check(scenario, leap)

    @given(scenario=sharing(instances=2))
    @FEWER
    def test_prefix_caches_behind_a_router(self, scenario: Scenario, leap: bool):
        assume(not (leap and scenario.router in SEEING))
        check(scenario, leap)

    @given(scenario=sharing(instances=2, sessions=True))
    @FEWER
    def test_sessions_on_two_instances(self, scenario: Scenario, leap: bool):
        assume(not (leap and scenario.router in SEEING))
        check(scenario, leap)
