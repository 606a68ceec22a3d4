"""Sessions in the reference: requests that wait for others, and a router that keeps a session on its instance. A step takes 1 s."""

from dataclasses import replace

import pytest

from tests.reference.simulator import RefRequest, simulate
from tests.reference.toy import arrivals, cached, caching, instance, requests, routes, said, scheduled


def call(waits_for, prompt_tokens=1, output_tokens=1, arrival_s=0.0, session=-1) -> RefRequest:
    return RefRequest(arrival_s, prompt_tokens, output_tokens, waits_for=tuple(waits_for), session=session)


# ---- when a request is sent


def test_a_chain_waits_for_the_client_and_its_delay():
    # API: 0.125 before, 0.25 after. r0 queues at 0.125 and ends at 2.125, at the client 2.375; r1 is sent 1 s later, at 3.375, whatever its
    # own arrival_s says, queues at 3.5 and ends at 4.5, at the client 4.75; r2 is sent at once.
    trace = [call([], output_tokens=2), call([(0, 1.0)], arrival_s=99.0), call([(1, 0.0)], arrival_s=-5.0)]
    result = simulate([instance(api_pre_s=0.125, api_post_s=0.25)], trace)
    assert arrivals(result) == [0.0, 3.375, 4.75]
    assert scheduled(result) == [0.125, 3.5, 4.875]
    assert [request.finish_s for request in result.requests] == [2.375, 4.75, 6.125]


def test_a_join_waits_for_the_latest_of_reply_and_delay():
    # r0 ends at 1, r1 at 3. r2: max(1 + 5, 3 + 1) = 6. r3: max(1 + 0.5, 3 + 0.75) = 3.75. r4 waits for r2 and r3: max(7 + 1, 4.75 + 3.5).
    trace = requests((0.0, 1, 1), (0.0, 1, 3))
    trace += [call([(0, 5.0), (1, 1.0)]), call([(0, 0.5), (1, 0.75)]), call([(3, 3.5), (2, 1.0)])]
    assert arrivals(simulate([instance()], trace)) == [0.0, 0.0, 6.0, 3.75, 8.25]


def test_a_fork_sends_all_that_wait():
    # r1 and r2 are sent together and share a step, r3 later.
    trace = [call([]), call([(0, 0.5)]), call([(0, 0.5)]), call([(0, 2.0)])]
    result = simulate([instance()], trace)
    assert arrivals(result) == [0.0, 1.5, 1.5, 3.0]
    assert scheduled(result) == [0.0, 1.5, 1.5, 3.0]


def test_without_delay_a_call_misses_the_formation_of_its_own_instant():
    # r0 ends at 1, and r2 is sent at 1: after the step of 1 was formed (with r1), so it enters at 2, and ends with r1 at 3.
    # r3 is sent at 3, when the instance is idle: it starts at once.
    trace = [*requests((0.0, 1, 1), (0.0, 1, 3)), call([(0, 0.0)]), call([(1, 0.0), (2, 0.0)])]
    result = simulate([instance()], trace)
    assert arrivals(result) == [0.0, 0.0, 1.0, 3.0]
    assert scheduled(result) == [0.0, 0.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("api_post_s", "delay_s", "arrival_s", "expected"),
    [
        # r2 is over at 1. r0 and r1 are both sent at 2: in order of their indices.
        (0.0, 1.0, 2.0, [1, 0, 0]),
        # The reply comes at 1.5, before the arrivals of that instant, so r0 is one of them.
        (0.5, 0.0, 1.5, [1, 0, 0]),
        # The reply comes at 1 from the step that ends there, and r1's arrival at 1 before that.
        (0.0, 0.0, 1.0, [0, 1, 0]),
    ],
)
def test_requests_sent_at_one_instant_are_routed_by_index_unless_a_step_lies_between(api_post_s, delay_s, arrival_s, expected):
    # Round robin: r2 is sent first, at 0, to 0; the next goes to 1, and the last to 0.
    trace = [call([(2, delay_s)]), call([], arrival_s=arrival_s), call([])]
    assert routes(simulate([instance(api_post_s=api_post_s)] * 2, trace)) == expected


def test_requests_need_not_be_in_order_of_arrival():
    result = simulate([instance()], requests((5.0, 1, 1), (0.0, 2, 1)))
    assert scheduled(result) == [5.0, 0.0]


def test_a_refusal_is_a_reply():
    # r0 fits nowhere; r1 is sent half a second later.
    result = simulate([instance(num_blocks=3, api_post_s=0.25)], [call([], prompt_tokens=9), call([(0, 0.5)])])
    assert [request.status for request in result.requests] == ["rejected", "finished"]
    assert arrivals(result) == [0.0, 0.5]


def test_what_waits_for_the_unfinished_is_never_sent():
    # The run is cut after three steps: r0 has 3 of its 5 tokens. r2 and r3 wait for each other.
    trace = [call([], output_tokens=5), call([(0, 0.0)]), call([(3, 0.0)]), call([(2, 0.0)])]
    result = simulate([instance()], trace, max_steps=3)
    assert [request.status for request in result.requests] == ["unfinished"] * 4
    assert arrivals(result) == [0.0, None, None, None]
    assert arrivals(simulate([instance()], trace)) == [0.0, 5.0, None, None]


def test_a_session_finds_its_own_words():
    # r0 computes aab, b and c: aa and bb are cached, cc is not (the last c is never computed). r1 hits 4 tokens of its 8 and fills cc, dd.
    # r2 hits all 8, and the 4 that follow are new.
    trace = [
        said(0, "aab", "bcc", session=0),
        said(0, "aabbccdd", "e", session=0, waits_for=((0, 1.0),)),
        said(0, "aabbccddeeff", "g", session=0, waits_for=((1, 1.0),)),
    ]
    result = simulate([caching()], trace)
    assert arrivals(result) == [0.0, 4.0, 6.0]
    assert cached(result) == [0, 4, 8]


# ---- session affinity


def row(arrival_s, session, prompt_tokens=1):
    return RefRequest(arrival_s, prompt_tokens, 9, session=session)


def test_session_affinity_stays_with_the_session_and_is_least_loaded_otherwise():
    # Two seats each. First calls: r0 (session 5) start 0 -> 0; r1 (session 7) 1/2 against 0 -> 1. r2 (7) stays on 1, though a tie's start
    # is 0; r3 (7) stays, though it is (1 + 4)/2 against 1/2. r4 (5) stays on 0. r5 and r6 belong to no session: (1 + 4)/2 on 0 against
    # (1 + 8)/2 -> 0, then (1 + 8)/2 each, start 6 mod 2 -> 0; then r7: 13/2 against 9/2 -> 1, so -1 is no session to stay with.
    sessions = [5, 7, 7, 7, 5, -1, -1, -1]
    trace = [row(index / 16, session) for index, session in enumerate(sessions)]
    result = simulate([instance(max_num_seqs=2)] * 2, trace, policy="session_affinity")
    assert routes(result) == [0, 1, 1, 1, 0, 0, 0, 1]


def test_session_affinity_moves_when_the_session_s_instance_cannot_serve():
    # Instance 1 takes 12 tokens. r0 -> 0; r1 (session 7) -> 1. r2 (7, 10 + 9 tokens) fits 0 only, and that is where r3 (7) follows: r2 was
    # sent last, though r1 still runs on 1, and 0 has (1 + 4)/2 against 1/2. r4 (7) fits nowhere, which changes nothing: r5 (7) -> 0.
    pair = [instance(max_num_seqs=2, num_blocks=50), instance(max_num_seqs=2, max_model_len=12)]
    rows = [(-1, 1), (7, 1), (7, 10), (7, 1), (7, 90), (7, 1)]
    trace = [row(index / 16, session, prompt_tokens) for index, (session, prompt_tokens) in enumerate(rows)]
    result = simulate(pair, trace, policy="session_affinity")
    assert routes(result) == [0, 1, 0, 0, -1, 0]


def test_session_affinity_knows_at_once_where_it_sent_what():
    # One look, at 0, for ever: everything without a session goes round. r1's session is new: start 1. r2 (the same) stays on 1, start 0.
    trace = [row(0.0, -1), row(0.5, 3), row(0.75, 3), row(1.0, -1)]
    result = simulate([instance()] * 2, trace, policy="session_affinity", router_staleness_s=1e9)
    assert routes(result) == [0, 1, 1, 1]


def test_a_recorded_arrival_is_the_earliest_time_of_a_call_that_waits():
    # r0 ends at 1, so that both are free at 2: r1 leaves at its recorded time, r2 at once.
    trace = [call([]), replace(call([(0, 1.0)]), not_before_s=50.0), replace(call([(0, 1.0)]), not_before_s=0.5)]
    assert arrivals(simulate([instance()], trace)) == [0.0, 50.0, 2.0]
