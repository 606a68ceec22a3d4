"""Ranks with pp stages against the reference: every request's times to 1e-9."""

from __future__ import annotations

from hypothesis import HealthCheck, assume, given, settings

from tests.engine.pipelined import Pipelined, pipelined
from tests.engine.test_against_reference import assert_same, undecided

LIMITED = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def check(scenario: Pipelined) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    assert_same(scenario.run(), theirs)


@given(scenario=pipelined())
@LIMITED
def test_one_instance(scenario: Pipelined):
    check(scenario)


@given(scenario=pipelined(instances=2, closed=True))
@LIMITED
def test_closed_loop_on_two_instances(scenario: Pipelined):
    check(scenario)
