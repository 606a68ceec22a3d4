"""Ranks with a tier behind their KV caches against the reference: times of requests to 1e-9, their loads, and what the tiers did."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from simjax.engine.host.result import Result
from tests.engine.scenario import Limits
from tests.engine.test_against_reference import RTOL, assert_same, leaps, undecided
from tests.engine.test_batch import assert_row_is, lowered, run_stacked
from tests.engine.tiered import Tier, TieredScenario, tiered
from tests.reference.simulator import RefResult, result_of
from tests.reference.tiered import TieredRank

DRAWN = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class _Counts(NamedTuple):
    """What the tier of a rank had done after a pass at `pass_s`."""

    pass_s: float
    evictions: int
    loaded: int
    stored: int
    failed: int


def _watched(rank: TieredRank) -> list[_Counts]:
    """A list that gets the counts of a rank after each of its passes."""
    counts, launch = [_Counts(-np.inf, 0, 0, 0, 0)], rank._launch

    def launched():
        batch = launch()
        counts.append(_Counts(rank.clock, rank.chunks.evictions, rank.counts["loaded"], rank.counts["stored"], rank.chunks.failed))
        return batch

    rank._launch = launched
    return counts


def assert_same_tiers(ours: Result, theirs: RefResult, counts: list[list[_Counts]]) -> None:
    """Compare what requests loaded, and what the tiers did until the last request had finished, with which our runs end."""
    column = lambda name: np.array([getattr(x, name) for x in theirs.requests], float)
    np.testing.assert_array_equal(ours.requests.tier_hit_tokens, column("tier_hit_tokens"))
    for name in ("load_start_s", "load_end_s"):
        times_s = column(name)
        np.testing.assert_allclose(getattr(ours.requests, f"tier_{name}"), np.where(np.isnan(times_s), np.inf, times_s), rtol=RTOL)
    end_s = max(step.end_s for step in theirs.steps)
    for i, passes in enumerate(counts):
        log = ours.instances
        found = (log.tier_evictions[i], log.tier_loaded_blocks[i], log.tier_stored_blocks[i], log.tier_failed_stores[i])
        # The pass at the very end is ours too if no other request leaves with it.
        before, at_end = ([x for x in passes if x.pass_s < end_s + margin_s][-1][1:] for margin_s in (-1e-9, 1e-9))
        assert found in (before, at_end)


def check(scenario: TieredScenario, mode: str = "leap", require: Callable[[bool], object] = assume) -> None:
    """Compare a scenario; `require` deals with one in which rounding decides."""
    cluster = scenario.reference_cluster()
    counts = [_watched(rank) for rank in cluster.engines if isinstance(rank, TieredRank)]
    cluster.run(1_000_000)
    theirs = result_of(cluster)
    require(not undecided(scenario, theirs) and not theirs.ties)
    ours = scenario.run(leap=mode == "leap" and leaps(scenario))
    assert_same(ours, theirs)
    assert_same_tiers(ours, theirs, counts)


@given(scenario=tiered())
@DRAWN
def test_one_rank(scenario: TieredScenario):
    check(scenario)


@given(scenario=tiered(sessions=True))
@DRAWN
def test_sessions(scenario: TieredScenario):
    check(scenario)


@pytest.mark.slow
@given(scenario=tiered(instances=2))
@DRAWN
def test_two_ranks(scenario: TieredScenario):
    check(scenario)


def _decided(so: bool) -> None:
    assert so, "rounding decides this scenario"


def test_a_first_block_stored_behind_later_ones_of_its_request() -> None:
    """A preempted request finds later blocks of its prompt in the tier, which it has used, and stores the first one anew.

    The order of eviction is still from its last block to its first.
    """
    prompt, output = np.array([47, 47, 17, 34, 23, 1, 15, 15, 39]), np.array([8, 6, 28, 35, 8, 26, 34, 39, 1])
    shared_with = ((0, 0), (0, 25), (0, 17), (0, 8), (0, 12), (0, 2), (0, 8), (2, 30), (5, 27))  # an earlier request; leading tokens
    contents: list[np.ndarray] = []
    for k, (of, shared) in enumerate(shared_with):
        own = 100 * (k + 1) + np.arange(prompt[k] + output[k])
        contents.append(np.concatenate([contents[of][:shared] if k else own[:0], own[shared:]]))
    limits = Limits(
        num_blocks=53,
        block_size=3,
        max_num_seqs=11,
        max_num_batched_tokens=34,
        long_prefill_token_threshold=1,
        reserve_full_isl=True,
        async_scheduling=False,
        enable_prefix_caching=True,
        reserve_kv_loads=True,
    )
    tier = Tier(capacity_blocks=4, store_bytes_per_s=3000.0, load_bytes_per_s=3000.0, setup_s=0.0013)
    scenario = TieredScenario((limits,), np.zeros(9), prompt, output, contents=tuple(contents), tiers=(tier,))
    check(scenario, "step", _decided)


@pytest.mark.slow
@given(drawn=st.lists(tiered(), min_size=3, max_size=3))
@settings(max_examples=5, deadline=None)
def test_a_batch_equals_its_single_runs(drawn: list[TieredScenario]):
    """Bit for bit; tiers of any size and links of any speed share a program."""
    batch, state, _ = run_stacked([lowered(scenario) for scenario in drawn])
    for i, scenario in enumerate(drawn):
        alone = scenario.run()
        assert_row_is(batch, state, i, alone)
        for name, values in jax.tree.map(lambda x, i=i: x[i], state.tiers).instance_columns().items():
            np.testing.assert_array_equal(values, getattr(alone.instances, name), err_msg=name)
