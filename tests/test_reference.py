"""The reference scheduler on traces small enough to work out by hand. A step takes 1 s unless a test says otherwise."""

import pytest

from tests.reference.pool import BlockPool
from tests.reference.simulator import simulate
from tests.reference.toy import batches, instance, preemptions, requests, scheduled, tokens

# ---- one instance, synchronous


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_one_request_emits_a_token_a_step(async_scheduling):
    # The idle instance starts at once: prefill 10..11, decodes 11..12 and 12..13. Nothing else is there, so the mode does not matter.
    result = simulate([instance(async_scheduling=async_scheduling)], requests((10.0, 4, 3)))
    (request,) = result.requests
    assert (request.status, request.scheduled_s, request.first_token_s, request.finish_s) == ("finished", 10.0, 11.0, 13.0)
    assert request.token_times_s == (11.0, 12.0, 13.0)
    assert [(step.prefill_tokens, step.decodes, step.blocks) for step in result.steps] == [(4, 0, 4), (0, 1, 5), (0, 1, 6)]


def test_chunked_prefill_spans_steps_and_is_priced_chunk_by_chunk():
    # Budget 4: chunks of 4, 4 and 2 after 0, 4 and 8 tokens, then a decode after 10.
    # A step takes new + before / 10: 4, 4.4, 2.8, 2, so it ends at 4, 8.4, 11.2, 13.2.
    seen = []

    def step_time(batch):
        seen.append(batch)
        return sum(new + before / 10 for new, before in batch)

    result = simulate([instance(max_num_batched_tokens=4, step_time=step_time)], requests((0.0, 10, 2)))
    assert seen == [[(4, 0)], [(4, 4)], [(2, 8)], [(1, 10)]]
    assert [step.end_s for step in result.steps] == pytest.approx([4, 8.4, 11.2, 13.2], rel=1e-12)
    assert [step.blocks for step in result.steps] == [4, 8, 10, 11]  # taken chunk by chunk
    assert result.requests[0].token_times_s == pytest.approx((11.2, 13.2), rel=1e-12)


def test_decodes_come_before_a_prefill_that_takes_what_is_left_of_the_budget():
    # Budget 4. 0..1 A prefills 2. At 1 B (arrived at 0.5) gets 4 - 1 = 3 of its 5 tokens, at 2 the other 2; both end at 3.
    result = simulate([instance(max_num_batched_tokens=4)], requests((0.0, 2, 3), (0.5, 5, 1)))
    assert batches(result) == [((0,), (2,)), ((0, 1), (1, 3)), ((0, 1), (1, 2))]
    assert tokens(result) == [(1.0, 2.0, 3.0), (3.0,)]
    assert scheduled(result) == [0.0, 1.0]
    assert [(step.prefill_tokens, step.decodes, step.running, step.waiting) for step in result.steps] == [
        (2, 0, 1, 0),
        (3, 1, 2, 0),
        (2, 1, 2, 0),
    ]


def test_max_num_seqs_caps_running():
    # One seat: A holds it in 0..2, then B.
    result = simulate([instance(max_num_seqs=1)], requests((0.0, 1, 2), (0.0, 1, 1)))
    assert tokens(result) == [(1.0, 2.0), (3.0,)]
    assert [(step.running, step.waiting) for step in result.steps] == [(1, 1), (1, 1), (1, 0)]


def test_threshold_caps_a_request_in_a_step():
    # Threshold 3 on a prompt of 7: 3, 3, 1 (timed as a decode), though the budget is 100. B fits into the same steps.
    result = simulate([instance(long_prefill_token_threshold=3)], requests((0.0, 7, 1), (0.0, 4, 1)))
    assert batches(result) == [((0, 1), (3, 3)), ((0, 1), (3, 1)), ((0,), (1,))]
    assert tokens(result) == [(3.0,), (2.0,)]
    assert [step.decodes for step in result.steps] == [0, 1, 1]


ALONE = {"long_prefill_token_threshold": 3, "long_prefill_alone": True, "max_num_batched_tokens": 5}


def test_the_threshold_does_not_hold_for_a_request_that_is_alone():
    # A has 5 of its 15 tokens when B comes. Two requests, one of them waiting: A gets 3 a step and B what is left. At 3 A is alone again.
    result = simulate([instance(**ALONE)], requests((0.0, 15, 1), (0.5, 4, 1)))
    assert batches(result) == [((0,), (5,)), ((0, 1), (3, 2)), ((0, 1), (3, 2)), ((0,), (4,))]
    assert tokens(result) == [(4.0,), (3.0,)]


@pytest.mark.parametrize(("asynchronous", "chunks"), [(False, [3, 5, 4]), (True, [3, 3, 5, 1])])
def test_a_request_whose_last_token_is_in_flight_is_still_there(asynchronous, chunks):
    # B ends with the first step. An asynchronous scheduler forms the second one before it knows.
    result = simulate([instance(**ALONE, async_scheduling=asynchronous)], requests((0.0, 12, 1), (0.0, 1, 1)))
    assert [step.new_tokens[0] for step in result.steps] == chunks
    assert tokens(result) == [(float(len(chunks)),), (1.0,)]


def test_without_chunked_prefill_a_prompt_waits_for_room_and_nobody_overtakes():
    # Budget 4. At 0 A takes 3; B's 3 do not fit the last one, and C (1 token, would fit) stays behind B. At 1: A 1 + B 3. At 2: C.
    limits = {"max_num_batched_tokens": 4, "enable_chunked_prefill": False}
    result = simulate([instance(**limits)], requests((0.0, 3, 2), (0.0, 3, 1), (0.0, 1, 1)))
    assert batches(result) == [((0,), (3,)), ((0, 1), (1, 3)), ((2,), (1,))]


def test_without_chunked_prefill_a_prompt_above_the_budget_blocks_the_queue_for_ever():
    limits = {"max_num_batched_tokens": 4, "enable_chunked_prefill": False}
    result = simulate([instance(**limits)], requests((0.0, 5, 1), (1.0, 1, 1)))
    assert [request.status for request in result.requests] == ["unfinished", "unfinished"]
    # The threshold clips the prompt before it is held against the budget.
    result = simulate([instance(**limits, long_prefill_token_threshold=4)], requests((0.0, 5, 1)))
    assert batches(result) == [((0,), (4,)), ((0,), (1,))]


# ---- blocks


def test_preemption_takes_the_tail_which_recomputes_and_continues():
    # Four blocks of 2. A and B: prompt 2, 4 outputs. Tokens held by each: 2 at 1 s, 3 at 2 s, 4 at 3 s (two blocks each, pool full).
    # At 3 A needs a third block for its fifth token: B is preempted. A step that preempts admits no request: 3..4 is A alone, which
    # finishes.
    # At 4 B recomputes 2 + 3 tokens in one step and emits its fourth token at 5.
    result = simulate([instance(block_size=2, num_blocks=4)], requests((0.0, 2, 4), (0.0, 2, 4)))
    assert tokens(result) == [(1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 5.0)]
    assert batches(result)[3:] == [((0,), (1,)), ((1,), (5,))]
    assert [(step.running, step.waiting, step.blocks) for step in result.steps] == [(2, 0, 2), (2, 0, 4), (2, 0, 4), (1, 1, 3), (1, 0, 3)]
    assert preemptions(result) == [0, 1]
    assert scheduled(result) == [0.0, 0.0]


def test_a_preempted_request_that_recomputes_in_chunks_is_silent_until_it_catches_up():
    # The same with a threshold of 3: at 4 B recomputes 3 of its 5 tokens (more than its prompt, yet no token), at 5 the other 2.
    result = simulate([instance(block_size=2, num_blocks=4, long_prefill_token_threshold=3)], requests((0.0, 2, 4), (0.0, 2, 4)))
    assert tokens(result) == [(1.0, 2.0, 3.0, 4.0), (1.0, 2.0, 3.0, 6.0)]
    assert batches(result)[4:] == [((1,), (3,)), ((1,), (2,))]


def test_a_request_may_be_its_own_victim():
    # Three blocks of 2. At 1 A takes the third block for its third token; B finds none and is itself the tail: it gives its block back.
    # At 2 one block is free, and B (2 + 1 tokens, two blocks) waits until A finishes at 3.
    result = simulate([instance(block_size=2, num_blocks=3)], requests((0.0, 2, 3), (0.0, 2, 3)))
    assert batches(result) == [((0, 1), (2, 2)), ((0,), (1,)), ((0,), (1,)), ((1,), (3,)), ((1,), (1,))]
    assert tokens(result) == [(1.0, 2.0, 3.0), (1.0, 4.0, 5.0)]
    assert preemptions(result) == [0, 1]


def test_preempted_requests_resume_in_their_old_order_before_newcomers():
    # Nine blocks of 1, threshold 4, budget 8. At 0 A takes 4 of its 8 tokens, B and C 2 each: one block is left.
    # At 1 A needs 4 more: C and then B go. A ends at 2. Then B and C (three tokens each) and, with the budget left, D, which came at 0.5.
    limits = {"num_blocks": 9, "long_prefill_token_threshold": 4, "max_num_batched_tokens": 8}
    result = simulate([instance(**limits)], requests((0.0, 8, 1), (0.0, 2, 2), (0.0, 2, 2), (0.5, 3, 1)))
    assert batches(result) == [((0, 1, 2), (4, 2, 2)), ((0,), (4,)), ((1, 2, 3), (3, 3, 2)), ((3,), (1,))]
    assert tokens(result) == [(2.0,), (1.0, 3.0), (1.0, 3.0), (4.0,)]
    assert preemptions(result) == [0, 1, 1, 0]


@pytest.mark.parametrize(("reserve_full_isl", "scheduled_s", "preempted"), [(True, 4.0, 0), (False, 0.0, 1)])
def test_full_isl_reservation(reserve_full_isl, scheduled_s, preempted):
    # Ten blocks of 1, budget 6. A (prompt 4) leaves six blocks; B's prompt has seven tokens.
    # Reserved: B waits for the whole seven, until A is done at 4. Not: B starts with 2 tokens at 0; at 1 it wants 5 more where A (now 5)
    # leaves 3 beside B's own 2, so it preempts itself. Its next chunk of 5 finds 4 blocks at 2 and 3 at 3.
    # From 4 on both are equal: 6 tokens, then 1.
    limits = {"num_blocks": 10, "max_num_batched_tokens": 6, "reserve_full_isl": reserve_full_isl}
    result = simulate([instance(**limits)], requests((0.0, 4, 4), (0.0, 7, 1)))
    assert tokens(result) == [(1.0, 2.0, 3.0, 4.0), (6.0,)]
    assert scheduled(result) == [0.0, scheduled_s]
    assert preemptions(result) == [0, preempted]


@pytest.mark.parametrize(("watermark_blocks", "scheduled_s"), [(2, 0.0), (3, 4.0)])
def test_an_admission_beside_a_running_request_leaves_the_watermark(watermark_blocks, scheduled_s):
    # Ten blocks of 1. A's 4 leave six, B's 4 two of them. Nothing runs when A comes, nor when it is done at 4: then nothing is left free.
    result = simulate([instance(num_blocks=10, watermark_blocks=watermark_blocks)], requests((0.0, 4, 4), (0.0, 4, 1)))
    assert scheduled(result) == [0.0, scheduled_s]
    assert preemptions(result) == [0, 0]


def test_full_isl_reservation_counts_generated_tokens():
    # As in the trace where B is its own victim, with a threshold of 2: at 2 the free block would hold B's prompt and its first chunk, but
    # not its three tokens. B comes back at 3, when A is done: 2 tokens, then 1.
    limits = {"block_size": 2, "num_blocks": 3, "long_prefill_token_threshold": 2}
    result = simulate([instance(**limits)], requests((0.0, 2, 3), (0.0, 2, 3)))
    assert tokens(result) == [(1.0, 2.0, 3.0), (1.0, 5.0, 6.0)]
    assert batches(result)[2:] == [((0,), (1,)), ((1,), (2,)), ((1,), (1,)), ((1,), (1,))]


def test_blocks_are_taken_from_the_head_and_come_back_last_first():
    pool = BlockPool(4)
    assert pool.grow(7, 2) and pool.grow(8, 1)
    assert not pool.grow(8, 3) and pool.held == {7: [0, 1], 8: [2]}
    pool.release(7)
    assert list(pool.free) == [3, 1, 0]
    assert pool.grow(8, 3) and pool.held == {8: [2, 3, 1]}


# ---- asynchronous scheduling


def test_async_a_busy_step_sees_arrivals_up_to_the_start_of_the_step_before():
    # As in the decode-and-prefill trace, but the step that starts at 1 was formed at 0, before B came (0.5): B enters at 2.
    result = simulate([instance(max_num_batched_tokens=4, async_scheduling=True)], requests((0.0, 2, 3), (0.5, 5, 1)))
    assert batches(result) == [((0,), (2,)), ((0,), (1,)), ((0, 1), (1, 3)), ((1,), (2,))]
    assert [(step.start_s, step.horizon_s) for step in result.steps] == [(0.0, 0.0), (1.0, 0.0), (2.0, 1.0), (3.0, 2.0)]
    assert tokens(result) == [(1.0, 2.0, 3.0), (4.0,)]


def test_async_horizon_includes_its_end():
    # B queues exactly when the step before starts: seen.
    result = simulate([instance(async_scheduling=True)], requests((0.0, 1, 4), (1.0, 1, 1)))
    assert scheduled(result) == [0.0, 2.0]


def test_async_an_engine_without_schedulable_work_goes_idle_and_forms_again_at_once():
    # The second step, formed at 0, would be empty (B came at 0.5), so the instance is idle at 1 and starts B then. C finds it idle at 3.25.
    result = simulate([instance(async_scheduling=True)], requests((0.0, 1, 1), (0.5, 1, 1), (3.25, 1, 1)))
    assert scheduled(result) == [0.0, 1.0, 3.25]
    assert [step.horizon_s for step in result.steps] == [0.0, 1.0, 3.25]


@pytest.mark.parametrize(("async_scheduling", "c_scheduled_s"), [(False, 1.0), (True, 2.0)])
def test_async_a_finished_request_holds_its_seat_for_one_formation(async_scheduling, c_scheduled_s):
    # Two seats: A finishes at 1, B at 3. Asynchronous: the step that starts at 1 was formed with A still seated, so C enters at 2.
    limits = {"max_num_seqs": 2, "async_scheduling": async_scheduling}
    result = simulate([instance(**limits)], requests((0.0, 1, 1), (0.0, 1, 3), (0.0, 1, 1)))
    assert tokens(result)[:2] == [(1.0,), (1.0, 2.0, 3.0)]
    assert scheduled(result)[2] == c_scheduled_s
    assert result.steps[1].running == (1 if async_scheduling else 2)  # the finished one is not counted


@pytest.mark.parametrize(("async_scheduling", "c_scheduled_s"), [(False, 1.0), (True, 3.0)])
def test_async_a_finished_request_holds_its_blocks_for_one_formation(async_scheduling, c_scheduled_s):
    # Two blocks of 4: A (prompt 4, finished at 1) and B (prompt 3, 3 outputs) hold one each. Synchronous: C takes A's block at 1.
    # Asynchronous: A still holds it at 1; at 2 B's fifth token takes it. At 3 B, finished, still holds both: nothing is schedulable,
    # so the instance is idle, B is released and C starts at 3.
    # Synchronous, C is done at 2, so B gets its second block then and also ends at 3.
    limits = {"num_blocks": 2, "block_size": 4, "async_scheduling": async_scheduling}
    result = simulate([instance(**limits)], requests((0.0, 4, 1), (0.0, 3, 3), (0.0, 4, 1)))
    assert tokens(result)[:2] == [(1.0,), (1.0, 2.0, 3.0)]
    assert scheduled(result)[2] == c_scheduled_s
    assert preemptions(result) == [0, 0, 0]
    assert result.steps[1].blocks == (1 if async_scheduling else 2)  # the finished one's are not counted


def test_async_the_tail_is_the_victim_even_when_it_has_finished():
    # Two blocks of 2, a step takes as many seconds as it has tokens. A and H (prompt 2 each) run in 0..4, where H finishes.
    # At 4 A wants a second block, and H, the tail, is not known to have finished: it is preempted, which frees its block for good,
    # and A decodes in 4..5, just as a synchronous instance, which has released H.
    limits = {"num_blocks": 2, "block_size": 2, "step_time": lambda batch: float(sum(new for new, _ in batch))}
    for async_scheduling in (True, False):
        result = simulate([instance(**limits, async_scheduling=async_scheduling)], requests((0.0, 2, 2), (0.0, 2, 1)))
        assert tokens(result) == [(4.0, 5.0), (4.0,)]
        assert preemptions(result) == [0, int(async_scheduling)]  # in vain, and vLLM counts it


def test_async_a_finished_victim_keeps_others_out_for_a_step():
    # Three blocks: A (prompt 2) and H (prompt 4) hold them all in 0..6, where H finishes; C waits. At 6 A wants a second block and preempts
    # H, so that formation admits nobody, though one block is left. A decodes in 6..7, and C enters at 7.
    limits = {"num_blocks": 3, "block_size": 2, "step_time": lambda batch: float(sum(new for new, _ in batch)), "async_scheduling": True}
    result = simulate([instance(**limits)], requests((0.0, 2, 3), (0.0, 4, 1), (0.0, 1, 1)))
    assert scheduled(result) == [0.0, 0.0, 7.0]
    assert preemptions(result) == [0, 1, 0] and result.requests[1].in_vain


def test_async_preemption_goes_on_past_a_finished_tail():
    # Three blocks of 2: A, B, H hold one each; H finishes at 1. A's third token takes H's block; B, now the tail, finds none for its own
    # and preempts itself. B (three tokens, two blocks) finds one free block at 2, and at 3 (A finished but held) still one; idle, it starts
    # at 3.
    limits = {"num_blocks": 3, "block_size": 2, "async_scheduling": True}
    result = simulate([instance(**limits)], requests((0.0, 2, 3), (0.0, 2, 3), (0.0, 2, 1)))
    assert preemptions(result) == [0, 1, 1]
    assert tokens(result) == [(1.0, 2.0, 3.0), (1.0, 4.0, 5.0), (1.0,)]


# ---- time outside the instance


def test_api_time_delays_queueing_and_what_the_client_sees():
    # Queue times 0.25 and 0.35. The step of 0.25..1.25 is followed by one formed at 0.25, which does not see B; B enters at 2.25.
    limits = {"api_pre_s": 0.25, "api_post_s": 0.5, "async_scheduling": True}
    result = simulate([instance(**limits)], requests((0.0, 1, 3), (0.1, 1, 1)))
    assert scheduled(result) == [0.25, 2.25]
    assert tokens(result) == [(1.75, 2.75, 3.75), (3.75,)]
    assert [request.first_token_s for request in result.requests] == [1.75, 3.75]
    assert [step.waiting for step in result.steps] == [1, 1, 0]  # B waits, in the API stage first
