"""The reference of pipelined ranks on traces that are worked out by hand (A1 to A5), and against its own rules."""

import pytest

from tests.reference.pipeline import RefPipeline
from tests.reference.simulator import simulate
from tests.reference.toy import batches, instance, preemptions, requests, scheduled, tokens

ONE = lambda batch: 1.0


def pipelined(*seconds: float, async_scheduling: bool = False, **limits):
    """An instance whose stages take so many seconds each."""
    pipeline = RefPipeline(tuple((lambda batch, s=s: s) for s in seconds or (1.0, 1.0)))
    return instance(pipeline=limits.pop("pipeline", pipeline), async_scheduling=async_scheduling, **limits)


@pytest.mark.parametrize(("async_scheduling", "late"), [(False, (4.0, 6.0, 8.0)), (True, (5.0, 7.0, 9.0))])
def test_a1_a_late_request_joins_the_cohort_or_is_one_of_its_own(async_scheduling, late):
    # Synchronous: the second call is empty, and the loop waits for the first batch until 2, where r1 joins r0's decode.
    # Asynchronous: call 3 is r0's decode, formed at 0, and waits for its token until 2; r1 is in call 4, a stage time behind.
    result = simulate([pipelined(async_scheduling=async_scheduling)], requests((0.0, 1, 3), (1.0, 1, 3)))
    assert tokens(result) == [(2.0, 4.0, 6.0), late]


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a2_a_burst_is_one_cohort(async_scheduling):
    result = simulate([pipelined(async_scheduling=async_scheduling)], requests((0.0, 1, 3), (0.0, 1, 3)))
    assert tokens(result) == [(2.0, 4.0, 6.0)] * 2
    assert batches(result) == [((0, 1), (1, 1))] * 3


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a3_the_chunks_of_one_prompt_follow_each_other(async_scheduling):
    result = simulate([pipelined(async_scheduling=async_scheduling, max_num_batched_tokens=4)], requests((0.0, 12, 2)))
    assert [step.start_s for step in result.steps[:3]] == [0.0, 1.0, 2.0]
    assert tokens(result) == [(4.0, 6.0)]


def test_a4_unequal_stages_synchronous():
    result = simulate([pipelined(1.0, 2.0)], requests((0.0, 1, 4), (0.5, 1, 4)))
    assert tokens(result) == [(3.0, 6.0, 9.0, 12.0), (6.0, 9.0, 12.0, 15.0)]


def test_a4_unequal_stages_asynchronous():
    # Two cohorts keep the slower stage busy: a token every 2 * 2 s.
    result = simulate([pipelined(1.0, 2.0, async_scheduling=True)], requests((0.0, 1, 6), (0.5, 1, 6)))
    assert tokens(result) == [(3.0, 6.0, 10.0, 14.0, 18.0, 22.0), (8.0, 12.0, 16.0, 20.0, 24.0, 27.0)]


@pytest.mark.parametrize(
    ("budget", "times"),
    [(100, [(8.0, 16.0, 24.0)] * 4), (2, [(4.0, 8.0, 12.0)] * 2 + [(6.0, 10.0, 14.0)] * 2)],
)
def test_a5_a_burst_collapses_into_one_cohort_which_a_smaller_budget_cures(budget, times):
    by_size = RefPipeline((lambda batch: float(len(batch)),) * 2)
    server = pipelined(pipeline=by_size, async_scheduling=True, max_num_batched_tokens=budget)
    assert tokens(simulate([server], requests(*[(0.0, 1, 3)] * 4))) == times


# ---- more rules


def test_a_boundary_and_the_broadcast_take_time():
    # A token passes 1 + 0.5 + 1 s; an asynchronous decode starts 0.25 s after that. A synchronous one comes with the next call at once.
    pipeline = RefPipeline((ONE, ONE), send_s=lambda count: 0.5 * count, broadcast_s=0.25)
    result = simulate([pipelined(pipeline=pipeline, async_scheduling=True)], requests((0.0, 1, 3)))
    assert tokens(result) == [(2.5, 5.25, 8.0)]
    result = simulate([pipelined(pipeline=pipeline)], requests((0.0, 1, 3)))
    assert tokens(result) == [(2.5, 5.0, 7.5)]


def test_passes_that_run_nothing_sleep():
    # Synchronous, one cohort: every other call is empty. Its pass ends with the batch before, then sleeps for 1/4 s.
    pipeline = RefPipeline((ONE, ONE), empty_pass_s=0.25)
    assert tokens(simulate([pipelined(pipeline=pipeline)], requests((0.0, 1, 3)))) == [(2.0, 4.25, 6.5)]
    # Asynchronous: the sleeps pass while the batch is computed.
    assert tokens(simulate([pipelined(pipeline=pipeline, async_scheduling=True)], requests((0.0, 1, 3)))) == [(2.0, 4.0, 6.0)]


def test_arrivals_are_seen_when_the_inputs_are_drained():
    # Three stages, synchronous: r1 comes at 0.5, when the loop waits for the first batch with two empty ones behind it, though stage 1 is
    # free from 1 on. It is in the call at 3.
    result = simulate([pipelined(1.0, 1.0, 1.0)], requests((0.0, 1, 2), (0.5, 1, 1)))
    assert scheduled(result) == [0.0, 3.0]


def test_decodes_past_the_budget_wait_for_the_next_call():
    # Synchronous, budget 1: r0 and r1 prefill in calls 1 and 2; each decodes in every other call.
    result = simulate([pipelined(max_num_batched_tokens=1)], requests((0.0, 1, 3), (0.0, 1, 3)))
    assert tokens(result) == [(2.0, 4.0, 6.0), (3.0, 5.0, 7.0)]


def test_a_request_may_be_its_own_victim():
    # Three blocks of one token, synchronous, budget 1. At 3 r1's token is back, and there is no block for its decode: it leaves. At 4 r0
    # takes the third block; it ends at 6. Then r1 computes its two tokens in two calls, at 6 and behind that on the first stage at 7.
    result = simulate([pipelined(num_blocks=3, max_num_batched_tokens=1)], requests((0.0, 1, 3), (0.0, 1, 2)))
    assert preemptions(result) == [0, 1]
    assert tokens(result) == [(2.0, 4.0, 6.0), (3.0, 9.0)]


def test_a_preempted_request_waits_for_what_it_has_in_flight_and_is_overtaken():
    # Four blocks of one token, asynchronous, budget 2; calls 1 to 3 are at 0. Call 3 decodes r0 and preempts r1 with its prompt in flight.
    # At 2 that is still so, and r2 takes the free block (call 4, on the first stage 3..4). At 3 r1's token is there, not enough blocks are.
    # r0 ends at 4. r1 computes 2 and 1 tokens (calls 6 and 7, first stage 4..6).
    limits = {"num_blocks": 4, "max_num_batched_tokens": 2, "async_scheduling": True}
    result = simulate([pipelined(**limits)], requests((0.0, 2, 2), (0.0, 2, 2), (0.25, 1, 1)))
    assert preemptions(result) == [0, 1, 0]
    assert tokens(result) == [(2.0, 4.0), (3.0, 7.0), (5.0,)]
    assert batches(result)[2:] == [((0,), (1,)), ((2,), (1,)), ((1,), (2,)), ((1,), (1,))]
