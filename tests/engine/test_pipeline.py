"""Ranks with pp stages against the reference: every request's times to 1e-9; the worked examples; and side by side in a batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from simjax.engine.host.result import Status
from simjax.engine.simulate import simulate
from tests.engine.pipelined import Pipelined, as_pipelined, pipelined
from tests.engine.scenario import MAX_SEQUENCES, MAX_TOKENS, Limits, RouterPolicy, Timing
from tests.engine.test_against_reference import assert_same, check_as_shaped, undecided
from tests.engine.test_batch import assert_row_is, lowered, run_stacked
from tests.engine.test_engine import busy_scenario

LIMITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(scenario=pipelined())
@LIMITED
def test_one_instance(scenario: Pipelined):
    check_as_shaped(scenario)


@given(scenario=pipelined(instances=2, closed=True))
@LIMITED
def test_closed_loop_on_two_instances(scenario: Pipelined):
    check_as_shaped(scenario)


@pytest.mark.parametrize("seed", [4, 10, 11])
def test_a_router_sees_the_tokens_that_are_computed_while_the_loop_sleeps(seed: int):
    rng, n = np.random.default_rng(seed), 30
    sizes = {"max_num_seqs": 13, "max_num_batched_tokens": 24}
    limits = (Limits(num_blocks=42, **sizes), Limits(num_blocks=38, block_size=2, **sizes))
    arrival_s, prompt, output = np.cumsum(rng.exponential(0.01, n)), rng.integers(1, 9, n), rng.integers(2, 9, n)
    clients = {"router": RouterPolicy.LEAST_KV, "concurrency": 6, "think_s": 0.0213}
    scenario = Pipelined(limits, arrival_s, prompt, output, stages=(2, 2), empty_pass_s=7e-3, **clients)
    theirs = scenario.run_reference()
    assert not undecided(scenario, theirs)
    assert_same(scenario.run(), theirs)


# ---- the worked examples of tests/test_reference_pipeline.py


def taking(*seconds: float, each: bool = False) -> tuple[Timing, ...]:
    """Stages that take so many seconds, or so many for each sequence."""
    many = lambda s: s * np.arange(MAX_SEQUENCES + 1) if each else np.where(np.arange(MAX_SEQUENCES + 1) > 0, s, 0.0)
    return tuple(Timing(np.zeros(MAX_TOKENS + 1), many(s), (0.0, 0.0, 0.0), (0.0, 0.0)) for s in seconds)


def example(
    rows: list[tuple[float, int, int]], own: tuple[Timing, ...], async_scheduling: bool, budget: int = 32
) -> list[tuple[float, float]]:
    """First and last token of the requests (arrival_s, prompt, output)."""
    arrival_s, prompt, output = (np.array(x) for x in zip(*rows, strict=True))
    limits = (Limits(async_scheduling=async_scheduling, max_num_batched_tokens=budget),)
    shape = {"stages": (len(own),), "send_s": (0.0, 0.0), "own": own}
    log = Pipelined(limits, arrival_s.astype(float), prompt, output, **shape).run().requests
    return list(zip(log.first_token_s.tolist(), log.finish_s.tolist(), strict=True))


@pytest.mark.parametrize(("async_scheduling", "late"), [(False, (4.0, 8.0)), (True, (5.0, 9.0))])
def test_a1_a_late_request_joins_the_cohort_or_is_one_of_its_own(async_scheduling: bool, late: tuple[float, float]):
    assert example([(0.0, 1, 3), (1.0, 1, 3)], taking(1.0, 1.0), async_scheduling) == [(2.0, 6.0), late]


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a2_a_burst_is_one_cohort(async_scheduling: bool):
    assert example([(0.0, 1, 3)] * 2, taking(1.0, 1.0), async_scheduling) == [(2.0, 6.0)] * 2


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a3_the_chunks_of_one_prompt_follow_each_other(async_scheduling: bool):
    assert example([(0.0, 12, 2)], taking(1.0, 1.0), async_scheduling, budget=4) == [(4.0, 6.0)]


def test_a4_unequal_stages():
    assert example([(0.0, 1, 4), (0.5, 1, 4)], taking(1.0, 2.0), False) == [(3.0, 12.0), (6.0, 15.0)]
    assert example([(0.0, 1, 6), (0.5, 1, 6)], taking(1.0, 2.0), True) == [(3.0, 22.0), (8.0, 27.0)]


@pytest.mark.parametrize(("budget", "times"), [(32, [(8.0, 24.0)] * 4), (2, [(4.0, 12.0)] * 2 + [(6.0, 14.0)] * 2)])
def test_a5_a_burst_collapses_into_one_cohort_which_a_smaller_budget_cures(budget: int, times: list[tuple[float, float]]):
    assert example([(0.0, 1, 3)] * 4, taking(1.0, 1.0, each=True), True, budget) == times


# ---- other ways to run them


def test_a_batch_equals_its_single_runs():
    """Two and three stages, both ways of scheduling and a tight pool side by side."""
    busy = busy_scenario()
    kinds = ((True, 64), (False, 64), (True, 24))
    limits = [dataclasses.replace(busy.limits[0], async_scheduling=flag, num_blocks=blocks) for flag, blocks in kinds]
    drawn = [as_pipelined(dataclasses.replace(busy, limits=(x,)), (stages,)) for x, stages in zip(limits, (2, 3, 3), strict=True)]
    designs = [lowered(x) for x in drawn]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(design.shape, design.params))


def test_a_prompt_that_may_not_be_split_and_exceeds_the_budget_stalls_the_run():
    limits = (Limits(enable_chunked_prefill=False, max_num_batched_tokens=4),)
    result = Pipelined(limits, np.zeros(2), np.array([5, 1]), np.array([1, 1]), empty_pass_s=1e-3).run()
    assert result.status == Status.STALLED and not result.requests.finished.any()


def test_logged_batches_do_not_overlap_and_hold_every_token():
    """What time series are made of: rows one after another, with all gaps between tokens."""
    busy = as_pipelined(busy_scenario(), (3,))
    result, theirs = busy.run(activity=True), busy.run_reference()
    leaps, tokens = result.leaps, [x.token_times_s for x in theirs.requests]
    assert leaps is not None
    end_s = leaps.start_s + leaps.first_step_s
    assert np.all(leaps.start_s[1:] >= end_s[:-1] - 1e-12) and np.all(leaps.first_step_s > 0)
    assert leaps.first_outputs.sum() == busy.output.sum() and leaps.decodes.sum() == 0
    np.testing.assert_allclose(leaps.resumed_gap_s.sum(), sum(x[-1] - x[0] for x in tokens))
    np.testing.assert_allclose(result.instances.busy_s, leaps.first_step_s.sum())
    assert result.instances.prefill_tokens[0] == theirs.activity[0].prefill_tokens
    assert result.instances.decode_tokens[0] == theirs.activity[0].decode_tokens
    assert result.instances.step_sequences_max[0] == max(len(step.requests) for step in theirs.steps)
