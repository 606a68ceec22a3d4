"""Subsystems together against the reference: every time of every request to 1e-9."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.engine.combined import SpeculatingGroups, sessions_in_groups, sessions_on_stages, sessions_with_drafts, speculating_groups
from tests.engine.grouped import Grouped
from tests.engine.grouped_legs import GroupedLegs, check_grouped_legs, grouped_legs
from tests.engine.pipelined import Pipelined
from tests.engine.speculating import Speculating
from tests.engine.test_against_reference import MODE, check_as_shaped
from tests.engine.test_groups import check

LIMITED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
FEWER = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@given(scenario=grouped_legs(closed=True), mode=MODE)
@LIMITED
def test_prefill_and_decode_groups(scenario: GroupedLegs, mode: str):
    check_grouped_legs(scenario, mode)


@given(scenario=speculating_groups())
@LIMITED
def test_groups_with_drafts(scenario: SpeculatingGroups):
    check(scenario, "leap")


@given(scenario=sessions_in_groups())
@FEWER
def test_sessions_in_groups(scenario: Grouped):
    check(scenario, "leap")


@given(scenario=sessions_on_stages(2))
@FEWER
def test_sessions_on_pp_stages(scenario: Pipelined):
    check_as_shaped(scenario)


@given(scenario=sessions_with_drafts(2))
@FEWER
def test_sessions_with_drafts(scenario: Speculating):
    check_as_shaped(scenario)
