"""Ranks with a tier behind their KV caches against the reference: times of requests to 1e-9, their loads, and what the tiers did."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, assume, given, settings

from simjax.engine.host.result import Result
from tests.engine.test_against_reference import RTOL, assert_same, leaps, undecided
from tests.engine.tiered import TieredScenario, tiered
from tests.reference.simulator import Cluster
from tests.reference.tiered import TieredRank

DRAWN = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_same_tiers(ours: Result, cluster: Cluster) -> None:
    """Compare what requests loaded and what the tiers did but for the last pass of a run, which ends with its last request."""
    outcomes = [cluster.outcome(index) for index in range(len(cluster.requests))]
    column = lambda name: np.array([getattr(x, name) for x in outcomes], float)
    np.testing.assert_array_equal(ours.requests.tier_hit_tokens, column("tier_hit_tokens"))
    for name in ("load_start_s", "load_end_s"):
        theirs = column(name)
        np.testing.assert_allclose(getattr(ours.requests, f"tier_{name}"), np.where(np.isnan(theirs), np.inf, theirs), rtol=RTOL)
    for i, rank in enumerate(cluster.engines):
        assert isinstance(rank, TieredRank)
        assert ours.instances.tier_evictions[i] == rank.chunks.evictions
        assert ours.instances.tier_loaded_blocks[i] == rank.counts["loaded"]
        assert ours.instances.tier_stored_blocks[i] == rank.counts["stored"]
        assert rank.chunks.failed - len(cluster.requests) <= ours.instances.tier_failed_stores[i] <= rank.chunks.failed


def check(scenario: TieredScenario) -> None:
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs) and not theirs.ties)
    ours = scenario.run(leap=leaps(scenario))
    assert_same(ours, theirs)
    cluster = scenario.reference_cluster()
    cluster.run(1_000_000)
    assert_same_tiers(ours, cluster)


@given(scenario=tiered())
@DRAWN
def test_one_rank(scenario: TieredScenario):
    check(scenario)


@given(scenario=tiered(sessions=True))
@DRAWN
def test_sessions(scenario: TieredScenario):
    check(scenario)


@given(scenario=tiered(instances=2))
@DRAWN
def test_two_ranks(scenario: TieredScenario):
    check(scenario)
