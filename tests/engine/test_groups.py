"""Ranks in lockstep against the reference: every request's times to 1e-9, and every dummy; the worked examples B1 and B2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from tests.engine.grouped import Grouped, Together, grouped
from tests.engine.scenario import Limits
from tests.engine.test_against_reference import MODE, assert_same, undecided

LIMITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(scenario: Grouped, mode: str) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    ours = scenario.run(leap=mode == "leap")
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.instances.dummy_steps, [len(dummies) for dummies in theirs.dummies])
    seconds = [sum(end - start for start, end in dummies) for dummies in theirs.dummies]
    np.testing.assert_allclose(ours.instances.dummy_s, seconds, rtol=1e-9, atol=1e-12)


@given(scenario=grouped(), mode=MODE)
@LIMITED
def test_one_group_is_the_cluster(scenario: Grouped, mode: str):
    check(scenario, mode)


@given(scenario=grouped(sizes=(2, 3)), mode=MODE)
@LIMITED
def test_two_groups_of_unlike_size(scenario: Grouped, mode: str):
    check(scenario, mode)


@given(scenario=grouped(closed=True), mode=MODE)
@LIMITED
def test_closed_loop(scenario: Grouped, mode: str):
    check(scenario, mode)
