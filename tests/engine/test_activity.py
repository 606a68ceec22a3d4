"""Busy seconds, tokens by phase and extremes of the steps: against the reference's steps, and against the engine's own log."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings

from simjax.engine.columns import columns
from simjax.engine.host.result import InstanceLog, Result
from simjax.engine.state import initial_state
from simjax.metrics.steps import leap_durations
from tests.engine.scenario import Scenario
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_against_reference import leaps, undecided
from tests.engine.test_engine import busy_scenario

NAMES = [x.name for x in columns(InstanceLog) if x.needs == "activity"]


def check(scenario: Scenario) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    ours = scenario.run(activity=True, leap=leaps(scenario)).instances
    for name in NAMES:
        expected = [getattr(each, name) for each in theirs.activity]
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=1e-9 if name.endswith("_s") else 0, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios(instances=3))
def test_three_instances(scenario):
    check(scenario)


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios(instances=1, closed=True))
def test_closed_loop(scenario):
    check(scenario)


@settings(max_examples=25, deadline=None)
@given(scenario=sharing(instances=2))
def test_prefix_caches(scenario):
    check(scenario)


def busy_of(result: Result) -> np.ndarray:
    durations, leaps = leap_durations(result.leaps), result.leaps
    return np.array([durations[leaps.instance == i].sum() for i in range(len(result.instances.num_blocks))])


@settings(max_examples=25, deadline=None)
@given(scenario=scenarios(instances=2))
def test_it_agrees_with_the_log_with_and_without_leaps(scenario):
    whole, single = scenario.run(activity=True), scenario.run(activity=True, leap=False)
    np.testing.assert_allclose(whole.instances.busy_s, busy_of(whole), rtol=1e-9)
    for name in NAMES:
        np.testing.assert_allclose(getattr(whole.instances, name), getattr(single.instances, name), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_runs_without_it_are_zero(name, quiet_run):
    assert (getattr(quiet_run.instances, name) == 0).all()


@pytest.fixture(scope="module")
def quiet_run() -> Result:
    return busy_scenario().run()


def test_the_state_has_no_array_of_it() -> None:
    scenario = busy_scenario()
    with jax.enable_x64(True):
        on, off = (jax.eval_shape(lambda p, a=a: initial_state(scenario.shape(activity=a), p), scenario.params()) for a in (True, False))
    assert len(jax.tree.leaves(on)) == len(jax.tree.leaves(off)) + len(NAMES)
