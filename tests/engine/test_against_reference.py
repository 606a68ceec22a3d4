"""The engine against the pure-Python reference simulator: every request's times to 1e-9."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simjax.engine.host.result import Result, Status
from tests.engine.scenario import RouterPolicy, Scenario
from tests.engine.strategies import of_models, scenarios, sharing
from tests.reference.simulator import RefResult

RTOL = 1e-9  # of design §9; the two sum the same step times in different orders
# These see the caches as they were when an engine's leap began, not as they are in the middle of it.
SEEING = (RouterPolicy.LONGEST_PREFIX, RouterPolicy.WEIGHTED, RouterPolicy.LLM_D, RouterPolicy.DYNAMO)
FEWER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LIMITED = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
    after the same moment, meet exactly. So do scores of a router that are sums of shares.
    """
    if theirs.close_calls:
        return True
    ends_s = np.array([step.end_s for step in theirs.steps])
    # A cluster that stalls does not come to all requests: None is NaN here.
    queued_s = np.array([request.arrival_s for request in theirs.requests], float)[:, None] + [x.api_pre_s for x in scenario.limits]
    return bool(np.any(np.abs(queued_s.reshape(-1, 1) - ends_s) < 1e-9))


def leaps(scenario: Scenario) -> bool:
    """Whether a run may take several steps at once: routers that see the caches of several instances need them one by one."""
    return not (len(scenario.limits) > 1 and scenario.caching and scenario.router in SEEING)


def check(scenario: Scenario, mode: str) -> None:
    check_as_shaped(scenario, leap=mode == "leap" and leaps(scenario))


def check_as_shaped(scenario: Scenario, **changes: bool) -> None:
    """Compare a scenario, run with changes of its shape or with none."""
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    assert_same(scenario.run(**changes), theirs)


MODE = st.sampled_from(["leap", "step"])
# Each mode is a program, and of a large cluster one of ten seconds: such kinds have one here, and both with SLOW=1 and in the soak.
LEAP, STEP = (MODE, MODE) if os.environ.get("SLOW") == "1" else (st.just("leap"), st.just("step"))


@given(scenario=scenarios(), mode=MODE)
@LIMITED
def test_one_instance(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=scenarios(instances=3), mode=MODE)
@LIMITED
def test_three_instances(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=of_models(), mode=LEAP)
@LIMITED
def test_three_instances_of_two_models(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=scenarios(closed=True), mode=LEAP)
@LIMITED
def test_closed_loop(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=scenarios(instances=2, closed=True), mode=MODE)
@LIMITED
def test_closed_loop_on_two_instances(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=scenarios(capped=True), mode=LEAP)
@LIMITED
def test_client_with_a_cap(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=scenarios(instances=3, capped=True), mode=LEAP)
@LIMITED
def test_client_with_a_cap_on_three_instances(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=sharing(), mode=MODE)
@FEWER
def test_prefix_cache(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=sharing(sessions=True), mode=LEAP)
@FEWER
def test_sessions(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=sharing(instances=2), mode=STEP)
@FEWER
def test_prefix_caches_behind_a_router(scenario: Scenario, mode: str):
    check(scenario, mode)


@given(scenario=sharing(instances=2, sessions=True), mode=MODE)
@FEWER
def test_sessions_on_two_instances(scenario: Scenario, mode: str):
    check(scenario, mode)
