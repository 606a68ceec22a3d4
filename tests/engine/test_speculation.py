"""Ranks with speculative decoding against the reference: every request's times to 1e-9; the draws; and side by side in a batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, settings

from simjax.engine.simulate import simulate
from simjax.engine.speculation.draws import accepted, uniform
from tests.engine.scenario import Limits, Scenario, Timing
from tests.engine.speculating import Speculating, as_speculating, speculating
from tests.engine.test_against_reference import check_as_shaped
from tests.engine.test_batch import assert_row_is, lowered, run_stacked
from tests.engine.test_engine import busy_scenario
from tests.reference import speculation as reference

LIMITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(scenario=speculating())
@LIMITED
def test_one_instance(scenario: Speculating):
    check_as_shaped(scenario)


@given(scenario=speculating(instances=2, closed=True))
@FEWER
def test_closed_loop_on_two_instances(scenario: Speculating):
    check_as_shaped(scenario)


@given(scenario=speculating(instances=2, capped=True))
@FEWER
def test_a_client_with_a_cap_on_two_instances(scenario: Speculating):
    check_as_shaped(scenario)


BUSY = Scenario(busy_scenario().limits, *(getattr(busy_scenario(), name) for name in ("arrival_s", "prompt", "output")))
KINDS = ((True, 64, 2), (False, 64, 5), (True, 24, 1), (False, 24, 3), (True, 64, 0))


def kinds() -> list[Speculating]:
    """Both ways of scheduling, pools that preempt, and 0 to 5 drafts."""
    found = []
    for flag, blocks, drafts in KINDS:
        limits = dataclasses.replace(BUSY.limits[0], async_scheduling=flag, num_blocks=blocks)
        found.append(as_speculating(dataclasses.replace(BUSY, limits=(limits,)), drafts=(drafts,), lookahead=(drafts,)))
    return found


def test_a_batch_equals_its_single_runs():
    designs = [lowered(x) for x in kinds()]
    batch, state, _ = run_stacked(designs)
    for i, design in enumerate(designs):
        assert_row_is(batch, state, i, simulate(design.shape, design.params))


def test_totals_and_logged_steps_hold_every_draft_and_token():
    for scenario in kinds():
        result, cluster = scenario.run(activity=True), scenario.reference_cluster()
        cluster.run(1_000_000)
        (rank,) = cluster.engines
        ours = [int(getattr(result.instances, name)[0]) for name in ("drafts", "draft_tokens", "accepted_tokens")]
        assert isinstance(rank, reference.SpeculatingRank)
        assert ours == [rank.drafts, rank.draft_tokens, rank.accepted_tokens]
        assert (ours[1] > ours[2] > 0) == (scenario.drafts[0] > 0)
        leaps, tokens = result.leaps, [x.token_times_s for x in scenario.run_reference().requests]
        assert leaps is not None and np.all(leaps.steps == 1) and leaps.outputs.sum() == 0
        assert leaps.first_outputs.sum() == scenario.output.sum()
        # A gap for each step that gave a request tokens after its first.
        assert leaps.decodes.sum() + leaps.resumed.sum() == sum(len(set(times)) - 1 for times in tokens)
        gaps_s = leaps.resumed_gap_s.sum() + np.sum(leaps.decodes * leaps.first_step_s)
        np.testing.assert_allclose(gaps_s, sum(times[-1] - times[0] for times in tokens))
        activity = result.instances.prefill_tokens[0] + result.instances.decode_tokens[0]
        assert activity == sum(sum(step.new_tokens) for step in cluster.engines[0].ended)


def test_without_drafts_a_rank_is_as_any_other():
    for flag in (True, False):
        plain = dataclasses.replace(BUSY, limits=(dataclasses.replace(BUSY.limits[0], async_scheduling=flag, num_blocks=24),))
        ours, theirs = as_speculating(plain, drafts=(0,), lookahead=(0,)).run().requests, plain.run_reference().requests
        np.testing.assert_allclose(ours.finish_s, [x.finish_s for x in theirs], rtol=1e-9)
        np.testing.assert_array_equal(ours.preemptions, [x.preemptions for x in theirs])


def test_f1_blocks_hold_drafts_and_lookahead():
    """As in the reference: 3 blocks for the prefill and the first decode, 4 for the next; 2, 3 and 3 without lookahead."""
    for lookahead, blocks in ((2, [3, 3, 4]), (0, [2, 3, 3])):
        limits = (Limits(async_scheduling=False),)
        drawn = {"drafts": (2,), "lookahead": (lookahead,), "rates": (1.0, 0.0, 0.0, 0.0, 0.0)}
        leaps = Speculating(limits, np.zeros(1), np.array([7]), np.array([20]), timing=Timing.drawn(1), **drawn).run().leaps
        assert leaps is not None and leaps.kv_blocks[:3].tolist() == blocks
        assert leaps.first_outputs[:4].tolist() == [1, 2, 2, 2]


def test_draws_are_those_of_the_reference():
    rng = np.random.default_rng(0)
    request, tokens = rng.integers(0, 2**31, 500), rng.integers(0, 2**31, 500)
    with jax.enable_x64(True):
        for seed in (0, 1, 2**31 - 1):
            ours = uniform(jnp.int32(seed), jnp.asarray(request, jnp.int32), jnp.asarray(tokens, jnp.int32))
            theirs = [reference.uniform(seed, *pair) for pair in zip(request.tolist(), tokens.tolist(), strict=True)]
            np.testing.assert_array_equal(ours, theirs)
        rates, drafts = (0.9, 0.5, 0.1), np.arange(500) % 4
        counts = accepted(ours, jnp.array(rates), jnp.asarray(drafts, jnp.int32))
    np.testing.assert_array_equal(counts, [sum(u < q for q in rates[:k]) for u, k in zip(theirs, drafts, strict=True)])
