"""The reference cluster (router, closed loop, cut runs) on traces to work out by hand. A step takes 1 s unless a test says otherwise."""

import pytest

from tests.reference.simulator import simulate
from tests.reference.toy import batches, cached, caching, instance, preemptions, requests, routes, said, scheduled, tokens

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


# ---- routing by what is cached, in blocks of 2


def test_longest_prefix_finds_the_content():
    # r0 and r1: nothing is cached, start 0 and 1. r2: bb is on 1, though the start is 0. r3: aa is on 0 (r0 is over, its block is free),
    # though the start is 1. r4: nothing, start 0. r5: one block, of which the last token must be computed: no hit anywhere, start 1.
    # r6: aa is on both now, bb follows it nowhere: start 0.
    prompts = [(0.0, "aaz"), (0.5, "bbz"), (0.75, "bby"), (1.5, "aab"), (2.5, "ccz"), (3.0, "aa"), (4.5, "aabbz")]
    result = simulate([caching(), caching()], [said(arrival_s, prompt, "x") for arrival_s, prompt in prompts], policy="longest_prefix")
    assert routes(result) == [0, 1, 1, 0, 0, 1, 0]
    assert cached(result) == [0, 0, 2, 2, 0, 0, 2]


@pytest.mark.parametrize(("arrival_s", "target"), [(0.0, 1), (0.25, 0)])
def test_longest_prefix_sees_formations_of_earlier_times_only(arrival_s, target):
    # r0's blocks get their names when its step is formed at 0, which comes after all routing at 0.
    result = simulate([caching(), caching()], [said(0, "aaz", "x"), said(arrival_s, "aay", "x")], policy="longest_prefix")
    assert routes(result) == [0, target]


def test_longest_prefix_counts_tokens_not_blocks():
    # Blocks of 4, of 2, and no cache; r0 to r2 of one instant go to one each. r3: 4 * (6 // 4) = 4, 2 * (6 // 2) = 6, 0 -> 1.
    # r4: 4 and 4 of its first four tokens, start 4 mod 3 -> 1. r5: the same, start 2 -> 0 comes next, as 2 has no hits.
    trio = [caching(block_size=4), caching(), caching(enable_prefix_caching=False)]
    prompts = ["aabbccz", "aabbccz", "aabbccz", "aabbccy", "aabbx", "aabbx"]
    trace = [said(arrival_s, prompt, "x") for arrival_s, prompt in zip((0, 0, 0, 1.5, 1.5, 1.5), prompts, strict=True)]
    result = simulate(trio, trace, policy="longest_prefix")
    assert routes(result) == [0, 1, 2, 1, 1, 0]
    assert cached(result) == [0, 0, 0, 6, 4, 4]


@pytest.mark.parametrize(
    ("arrival_s", "weights", "target"),
    [
        (0.5, (1, 1, 1), 0),  # 0.2 + 0.25 + 0 = 0.45 against 1
        (0.5, (0, 1, 1), 1),  # 0.25 against 0
        (0.5, (1, 4, 1), 1),  # 0.2 + 1 against 1
        (0.5, (1, 0, 10), 0),  # 0.2 + 0 against 1: the first step has not ended
        (1.5, (1, 0, 10), 1),  # 0.2 + 0.9 against 1
        (1.5, (1, 0, 8), 0),  # 0.2 + 0.72 against 1
    ],
)
def test_weighted_adds_prefix_queue_and_kv(arrival_s, weights, target):
    # r0 (9 tokens, nothing cached) goes to 0 and runs there from 0 to 9. r1 has 10 tokens, of which 0 has 8: 1 - 8/10 = 0.2; 1 has none: 1.
    # Running 1 of 4 seats: 0.25. From 1 to 2 9 tokens of the pool's 100 are computed: 0.09.
    names = ("prefix_weight", "queue_weight", "kv_weight")
    pair = [caching(max_num_seqs=4, num_blocks=50)] * 2
    trace = [said(0, "aabbccddz", "123456789"), said(arrival_s, "aabbccddyy", "x")]
    result = simulate(pair, trace, policy="weighted", **dict(zip(names, weights, strict=True)))
    assert routes(result) == [0, target]


def test_weighted_scales_to_each_instance_and_breaks_ties_in_turn():
    # Nothing is cached or computed: only the queue counts, 4 waiting / seats. r0: start 0. r1: 1 + 4/2 against 1 -> 1.
    # r2: 1 + 4/2 against 1 + 4/4, plus the prompts that wait: 3/20 against 3/20 -> 1. r3: 3/20 + 4/2 against 6/20 + 8/4 -> 0.
    # r4: 6/20 + 8/2 against 6/20 + 8/4 -> 1.
    pair = [caching(max_num_seqs=2, num_blocks=10), caching(max_num_seqs=4, num_blocks=10)]
    result = simulate(pair, [said(0, "aab", "x")] * 5, policy="weighted")
    assert routes(result) == [0, 1, 1, 0, 1]
    # With weights of 0 all are equal, and it is round robin.
    result = simulate(pair, [said(0, "aab", "x")] * 5, policy="weighted", prefix_weight=0, queue_weight=0, kv_weight=0)
    assert routes(result) == [0, 1, 0, 1, 0]


def test_hits_count_as_kv_tokens_from_admission():
    # Pools of 100 and 100. r0 and r1 end at 1. r2 (5 tokens, 4 hit) is admitted on 0 at 2: at 2.5 it counts 4 there, before its step ends.
    # r3: 4/100 against 0 -> 1, though the start is 3 mod 2 = 1 anyway; r4 (start 0) finds r3 waiting on 1: 4/100 against 1/100 -> 1.
    pair = [caching(num_blocks=50)] * 2
    trace = [said(0, "aabbc", "x"), said(0, "zzzzz", "x"), said(2, "aabbd", "x"), said(2.5, "y", "x"), said(2.5, "y", "x")]
    result = simulate(pair, trace, policy="least_kv")
    assert cached(result)[2] == 4
    assert routes(result) == [0, 1, 0, 1, 1]


# ---- routing by an old view


@pytest.mark.parametrize(
    ("router_staleness_s", "expected"),
    [
        # Fresh. r2 at 2: 1/4 against 0 -> 1. r3 at 2.5: 1/4 each, start 1. r4 at 3: 1/4 against (1 + 4)/4 -> 0 (1 forms its step later).
        # r5 at 4: 2/4 each, start 1.
        (0.0, [0, 1, 1, 1, 0, 1]),
        # Looks at 0, at 2 (exactly 2 s old) and at 4. r1: 0 against 0, start 1. r2, r3, r4: as at 2, 1/4 against 0 -> 1.
        # r5: 1/4 against 3/4 -> 0.
        (2.0, [0, 1, 1, 1, 1, 0]),
        # Looks at 0 and at 3. r2 and r3: 0 against 0, start 0 and 1. r4 at 3: on 0 r0 and r2 run, on 1 r3 does: 2/4 against 1/4 -> 1.
        # r5 the same, though r4 runs by then: 1.
        (3.0, [0, 1, 0, 1, 1, 1]),
        # A single look: round robin.
        (100.0, [0, 1, 0, 1, 0, 1]),
    ],
)
@pytest.mark.parametrize("router", [{"policy": "least_loaded"}, {"policy": "weighted", "prefix_weight": 0, "kv_weight": 0}])
def test_a_router_looks_again_when_its_view_is_old(router_staleness_s, expected, router):
    # r1 runs from 0.25 to 1.25, all others for 9 s.
    pair = [instance(max_num_seqs=4)] * 2
    trace = requests((0.0, 1, 9), (0.25, 1, 1), (2.0, 1, 9), (2.5, 1, 9), (3.0, 1, 9), (4.0, 1, 9))
    assert routes(simulate(pair, trace, router_staleness_s=router_staleness_s, **router)) == expected


@pytest.mark.parametrize(
    ("router_staleness_s", "expected"),
    [
        # Fresh. r1: aa is on 0. r2: nothing, start 0; it waits there for r1's step. r3 at 2: before the step with r2 is formed; start 1.
        (0.0, [0, 0, 0, 1]),
        # Looks at 0 and at 2. r1: nothing, start 1. r2: nothing, start 0, where it starts at 1.5. r3: bb is on 0.
        (2.0, [0, 1, 0, 0]),
        # Looks at 0 only: round robin.
        (9.0, [0, 1, 0, 1]),
    ],
)
def test_a_view_of_the_caches_gets_old(router_staleness_s, expected):
    trace = [said(0, "aaz", "x"), said(1, "aay", "x"), said(1.5, "bbz", "x"), said(2, "bby", "x")]
    result = simulate([caching(), caching()], trace, policy="longest_prefix", router_staleness_s=router_staleness_s)
    assert routes(result) == expected


@pytest.mark.parametrize(("router_staleness_s", "expected"), [(0.0, [0, 1, 1]), (9.0, [0, 1, 0])])
def test_a_view_of_the_kv_scores_gets_old(router_staleness_s, expected):
    # At 2.75 r0 has 5 + 1 tokens on 0 and r1 one on 1. At 0 there were none: start 2 mod 2 = 0.
    trace = requests((0.0, 5, 9), (1.5, 1, 9), (2.75, 1, 1))
    assert routes(simulate([instance()] * 2, trace, policy="least_kv", router_staleness_s=router_staleness_s)) == expected


def test_a_refused_request_makes_the_router_look():
    # r0 runs on 0, r1 on 1 until 1.25. r2 comes at 1 and is too long; the look at 1 finds 1/4 and 1/4, and is what r3 goes by at 1.5:
    # start 2 mod 2 = 0. A look at 1.5 would have shown 1/4 and 0.
    pair = [instance(max_num_seqs=4, num_blocks=20)] * 2
    trace = requests((0.0, 1, 9), (0.25, 1, 1), (1.0, 50, 1), (1.5, 1, 1))
    assert routes(simulate(pair, trace, policy="least_loaded", router_staleness_s=1.0)) == [0, 1, -1, 0]
    assert routes(simulate(pair, [*trace[:2], trace[3]], policy="least_loaded", router_staleness_s=1.0)) == [0, 1, 1]


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
    # the instance is idle, so r3 starts at 3.
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
