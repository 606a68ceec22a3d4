"""The reference cluster (router, closed loop, cut runs) on traces to work out by hand. A step takes 1 s unless a test says otherwise."""

import pytest

from tests.reference.simulator import simulate
from tests.reference.toy import batches, instance, preemptions, requests, routes, scheduled, tokens

# ---- routing


def test_round_robin_skips_instances_that_cannot_hold_the_request():
    # Instance 0 takes up to 5 tokens (4 blocks would do). Requests 0..3 are routed with start 0, 1, 0, 1; request 2 is too long for 0.
    # Request 3 fits nowhere and does not move the start; request 4 starts at 3 mod 2 = 1.
    pair = [instance(max_model_len=5), instance(num_blocks=8)]
    result = simulate(pair, requests((0.0, 1, 1), (0.0, 1, 1), (0.0, 5, 1), (0.0, 9, 1), (0.0, 1, 1)))
    assert routes(result) == [0, 1, 1, -1, 1]
    assert [request.status for request in result.requests] == ["finished", "finished", "finished", "rejected", "finished"]
    # All of prompt + output must fit the pool: 8 blocks hold 7 + 1 but not 8 + 1.
    assert simulate(pair[1:], requests((0.0, 7, 1))).requests[0].status == "finished"


def test_random_starts_at_the_given_uniform():
    result = simulate(
        [instance()] * 3, requests((0.0, 1, 1, 0.0), (0.0, 1, 1, 0.99), (0.0, 1, 1, 0.34), (0.0, 1, 1, 0.33)), policy="random"
    )
    assert routes(result) == [0, 2, 1, 0]


def test_least_loaded_weighs_waiting_fourfold_by_seats():
    # Seats 2 and 1. r0: tie, start 0 -> 0. r1: 4/2 against 0 -> 1. r2: 4/2 against 4/1 -> 0 (all three still wait when they are routed).
    # r3 at 0.5: running 2/2 against 1/1, a tie; start 3 mod 2 -> 1. r4 at 0.75: 2/2 against (1 + 4)/1 -> 0.
    # r5 at 0.8: (2 + 4)/2 against 5/1 -> 0.
    pair = [instance(max_num_seqs=2), instance(max_num_seqs=1)]
    trace = requests((0.0, 1, 1), (0.0, 1, 1), (0.0, 1, 1), (0.5, 1, 1), (0.75, 1, 1), (0.8, 1, 1))
    assert routes(simulate(pair, trace, policy="least_loaded")) == [0, 1, 0, 1, 0, 0]


def test_least_loaded_counts_the_api_stage_as_waiting():
    # Four seats each; on 1 a request spends 10 s in the API first. At 1.5 instance 0 runs r0 and r2: 2/4; on 1 r1 waits: 4/4.
    pair = [instance(max_num_seqs=4), instance(max_num_seqs=4, api_pre_s=10.0)]
    result = simulate(pair, requests((0.0, 1, 9), (0.0, 1, 1), (0.25, 1, 9), (1.5, 1, 1)), policy="least_loaded")
    assert routes(result) == [0, 1, 0, 0]


@pytest.mark.parametrize(("arrival_s", "target"), [(1.0, 0), (1.25, 1)])
def test_routing_comes_before_instance_events_of_the_same_instant(arrival_s, target):
    # r0 runs on 0 until 3, r1 on 1 until 1. At 1 sharp r1 still counts: a tie, start 2 mod 2 = 0.
    result = simulate([instance(), instance()], requests((0.0, 1, 3), (0.0, 1, 1), (arrival_s, 1, 1)), policy="least_loaded")
    assert routes(result) == [0, 1, target]


def test_arrivals_of_one_instant_form_one_step():
    result = simulate([instance()], requests((2.0, 1, 1), (2.0, 1, 1)))
    assert batches(result) == [((0, 1), (1, 1))]


def test_least_kv_counts_tokens_of_ended_steps_and_prompts_that_wait():
    # Pools of 100 and 200 tokens. r0 -> 0 (tie). r1: 50/100 against 0 -> 1. At 0.5 both run their prefill, which does not count yet: a tie,
    # start 2 mod 2 -> 0. r3: r2 waits, 20/100 against 0 -> 1. At 1.5 r2 and r3 are in their first step: 50/100 against 30/200 -> 1.
    # Then r4 waits there: 50/100 against (30 + 40)/200 -> 1. Then r5, too: 50/100 against (30 + 40 + 80)/200 -> 0.
    pair = [instance(num_blocks=10, block_size=10), instance(num_blocks=20, block_size=10)]
    trace = requests((0.0, 50, 9), (0.0, 30, 9), (0.5, 20, 9), (0.75, 20, 9), (1.5, 40, 1), (1.5, 80, 1), (1.5, 1, 1))
    assert routes(simulate(pair, trace, policy="least_kv")) == [0, 1, 0, 1, 1, 1, 0]


def test_least_kv_counts_all_tokens_of_a_preempted_request():
    # Instance 0 plays the preemption trace above with r0 and r1 (too long for instance 1). r2 finds (2 + 2)/8 there against 0/5.
    # r3 at 0.5: nothing counts while the first steps run; start 3 mod 2 -> 1, where a step takes 10 s: it waits there with 4/5.
    # At 3.5 instance 0 holds 4 tokens of r0 and owes r1 2 + 3: 9/8, more than 4/5 (with r1's prompt alone it would be 6/8, less).
    pair = [instance(block_size=2, num_blocks=4), instance(num_blocks=5, max_model_len=5, step_time=lambda batch: 10.0)]
    trace = requests((0.0, 2, 4), (0.0, 2, 4), (0.0, 1, 1), (0.5, 4, 1), (3.5, 1, 1))
    result = simulate(pair, trace, policy="least_kv")
    assert routes(result) == [0, 0, 1, 1, 1]
    assert preemptions(result)[:2] == [0, 1]


# ---- closed loop, limits


def test_closed_loop_sends_the_next_request_after_the_think_time():
    # Two clients, think 0.5, API 0.25 after a token. r0 ends at 1, is seen at 1.25: r2 is sent at 1.75 and enters at 2.
    # r1 ends at 2, is seen at 2.25: r3 is sent at 2.75 and enters at 3.
    trace = requests((0.0, 1, 1), (0.0, 1, 2), (99.0, 1, 1), (99.0, 1, 1))
    result = simulate([instance(api_post_s=0.25)], trace, concurrency=2, think_s=0.5)
    assert [request.arrival_s for request in result.requests] == [0.0, 0.0, 1.75, 2.75]
    assert scheduled(result) == [0.0, 0.0, 2.0, 3.0]
    assert [request.finish_s for request in result.requests] == [1.25, 2.25, 3.25, 4.25]


def test_closed_loop_without_think_time_misses_the_formation_of_its_own_instant():
    # r0 ends at 1, and r2 is sent at 1: after the step of 1 was formed (with r1), so it enters at 2. r2 ends at 3 together with r1:
    # the engine is idle, so r3 starts at 3.
    trace = requests((0.0, 1, 1), (0.0, 1, 3), (99.0, 1, 1), (99.0, 1, 1))
    result = simulate([instance()], trace, concurrency=2)
    assert [request.arrival_s for request in result.requests] == [0.0, 0.0, 1.0, 3.0]
    assert scheduled(result) == [0.0, 0.0, 2.0, 3.0]


def test_closed_loop_replies_are_served_in_client_time_order():
    # Both end at 1; the client of instance 0 sees it at 1.5, that of instance 1 at 1. So r2 follows instance 1's reply and r3 instance 0's.
    trace = requests((0.0, 1, 1), (0.0, 1, 1), (99.0, 1, 1), (99.0, 1, 1))
    result = simulate([instance(api_post_s=0.5), instance()], trace, concurrency=2)
    assert [request.arrival_s for request in result.requests] == [0.0, 0.0, 1.0, 1.5]
    assert [request.finish_s for request in result.requests] == [1.5, 1.0, 2.5, 2.5]


def test_a_rejected_request_frees_its_client_at_once():
    result = simulate([instance(num_blocks=3)], requests((0.0, 9, 1), (99.0, 1, 1)), concurrency=1, think_s=0.5)
    assert [(request.status, request.arrival_s) for request in result.requests] == [("rejected", 0.0), ("finished", 0.5)]


def test_max_steps_leaves_requests_unfinished():
    result = simulate([instance()], requests((0.0, 1, 2), (0.0, 1, 5), (50.0, 1, 1)), max_steps=3)
    assert [request.status for request in result.requests] == ["finished", "unfinished", "unfinished"]
    assert tokens(result) == [(1.0, 2.0), (1.0, 2.0, 3.0), ()]
    assert len(result.steps) == 3
