"""The reference of speculative decoding on traces that are worked out by hand (F1), and its draws."""

import numpy as np
import pytest

from tests.reference.instance import Live
from tests.reference.simulator import Cluster, RefRouter, simulate
from tests.reference.speculation import RefSpeculation, SpeculatingRank, uniform
from tests.reference.toy import batches, instance, preemptions, requests, tokens

ONE = lambda batch: 1.0
# Multi-layer MTP on gsm8k (vLLM's pull request 48892): marginal rates of 8 drafts, 4.50 tokens a step.
MTP = (0.762, 0.616, 0.513, 0.424, 0.364, 0.309, 0.272, 0.237)


def speculating(*rates: float, lookahead: int = 0, seed: int = 0, **limits):
    """An instance with a draft for each rate, whose steps take a second."""
    return instance(speculation=RefSpeculation(len(rates), rates, lookahead, ONE, seed), **limits)


def rank_after(steps: int, server, *rows) -> SpeculatingRank:
    """The only rank of a cluster once so many steps have ended."""
    cluster = Cluster([server], requests(*rows), RefRouter("round_robin"), None, 0.0)
    cluster.run(steps)
    (rank,) = cluster.engines
    assert isinstance(rank, SpeculatingRank)
    return rank


@pytest.mark.parametrize(("lookahead", "blocks"), [(2, [3, 3, 4]), (0, [2, 3, 3])])
def test_f1_blocks_hold_drafts_and_lookahead(lookahead, blocks):
    # One of two drafts is accepted each time. The prefill is 7 tokens on 0, the next steps are 3 on 7 and 3 on 9.
    rank = rank_after(0, speculating(1.0, 0.0, lookahead=lookahead, block_size=4), (0.0, 7, 20))
    rank.enqueue(Live(0, 7, 20, 0.0))
    found = []
    for now in (0.0, 1.0, 2.0):
        rank.advance(now)
        (live,) = rank.running
        found.append((rank.scheduled_blocks[0], live.computed, live.target))
    assert found == list(zip(blocks, (0, 7, 9), (7, 8, 10), strict=True))


def test_a_burst_has_one_time():
    # 1 token from the prefill, then 1 + 2 a step, of which the last brings what is left.
    result = simulate([speculating(1.0, 1.0)], requests((0.0, 5, 6)))
    assert batches(result) == [((0,), (5,)), ((0,), (3,)), ((0,), (3,))]
    assert tokens(result) == [(1.0, 2.0, 2.0, 2.0, 3.0, 3.0)]


def test_drafts_take_the_budget_and_are_cut_by_it():
    # r0's drafts leave 1 of 4 tokens for r1, which decodes without any; its own drafts come when r0 has ended.
    result = simulate([speculating(1.0, 1.0, max_num_batched_tokens=4)], requests((0.0, 2, 4), (0.0, 2, 5)))
    assert batches(result) == [((0, 1), (2, 2)), ((0, 1), (3, 1)), ((1,), (3,))]
    assert tokens(result) == [(1.0, 2.0, 2.0, 2.0), (1.0, 2.0, 3.0, 3.0, 3.0)]


def test_an_asynchronous_scheduler_computes_a_step_for_a_request_that_has_ended():
    # At 1 the step after the first decode is formed, when 3 of 5 tokens are not known to come; at 2 all have.
    rank = rank_after(3, speculating(1.0, 1.0, 1.0, 1.0, async_scheduling=True), (0.0, 5, 5))
    assert [step.new_tokens for step in rank.ended] == [(5,), (5,), (5,)] and rank.wasted == 5
    assert rank.routed[0].token_times_s == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_an_asynchronous_scheduler_is_sure_of_the_last_token():
    # The second token comes whatever is accepted, so no third step is formed.
    rank = rank_after(9, speculating(1.0, 1.0, async_scheduling=True), (0.0, 5, 2))
    assert [step.new_tokens for step in rank.ended] == [(5,), (3,)] and rank.wasted == 0


def test_an_asynchronous_scheduler_allocates_for_the_worst_case():
    # At 1 the prefill's token is in flight: 4 tokens on 7. At 2 the decode is, and none of its 3 drafts will be accepted: 4 on 11.
    rank = rank_after(0, speculating(0.0, 0.0, 0.0, async_scheduling=True), (0.0, 7, 9))
    rank.enqueue(Live(0, 7, 9, 0.0))
    asked = []
    for now in (0.0, 1.0, 2.0, 3.0):
        rank.advance(now)
        asked.append(rank.scheduled_blocks[0])
    assert asked == [7, 11, 15, 16]  # at 3: 4 tokens on 8, and 4 in flight


def test_lookahead_brings_a_preemption_earlier():
    rows = ((0.0, 4, 4), (0.0, 4, 4))
    result = {ahead: simulate([speculating(0.0, lookahead=ahead, num_blocks=16)], requests(*rows)) for ahead in (0, 1)}
    assert [preemptions(x) for x in result.values()] == [[0, 0], [0, 1]]


def test_without_drafts_a_rank_is_as_any_other():
    rows = [(0.3 * i, 3 + 5 * (i % 4), 1 + i % 6) for i in range(20)]
    for flag in (False, True):
        limits = {"async_scheduling": flag, "num_blocks": 40, "block_size": 2, "max_num_seqs": 4, "max_num_batched_tokens": 9}
        assert tokens(simulate([speculating(**limits)], requests(*rows))) == tokens(simulate([instance(**limits)], requests(*rows)))


def test_marginal_rates_and_tokens_a_step():
    # 1 + .762 + .616 + ... = 4.497 tokens a step, as the notes' formula has it; the draws come to that, and to each rate.
    speculation = RefSpeculation(8, MTP, 0, ONE, seed=3)
    counts = np.array([speculation.accepted(request, count, 8) for request in range(200) for count in range(100, 350)])
    error = 4 * np.sqrt(0.25 / len(counts))
    for i, rate in enumerate(MTP):
        assert abs(np.mean(counts > i) - rate) < error
    assert abs(1 + counts.mean() - 4.497) < 0.04 and abs(1 + sum(MTP) - 4.497) < 1e-12


def test_draws_are_uniform_in_each_of_their_counters():
    for draws in (
        [uniform(0, 0, count) for count in range(4096)],
        [uniform(0, request, 77) for request in range(4096)],
        [uniform(seed, 5, 77) for seed in range(4096)],
    ):
        counts = np.histogram(draws, 16, (0.0, 1.0))[0]
        assert np.sum((counts - 256) ** 2 / 256) < 40  # chi-square of 15 degrees: 0.0005
        assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.06
