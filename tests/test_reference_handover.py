"""Hand-overs in clusters of the reference: connectors, routers, caches and back-pressure by hand, and invariants of all of them."""

from dataclasses import replace

import numpy as np
import pytest

from tests.reference.handover import CONNECTORS
from tests.reference.headroom import Headroom
from tests.reference.simulator import simulate
from tests.reference.toy import caching, handover, instance, preemptions, requests, routes, said

PASS_S = 2.0**-10


def pair(**limits):
    return [instance(role="prefill", **limits), instance(role="decode", **limits)]


def only(result):
    (request,) = result.requests
    return request


def bare(connector):
    """The rules of a connector, without tokens that it keeps free."""
    return {name: Headroom(0) if name == "headroom" else rule for name, rule in CONNECTORS[connector].items()}


# ---- connectors. One prompt of 8 tokens, computed in two steps of 4 tokens and 1 s, then moved at 4 tokens a second.


def handed_over(connector, output_tokens=2):
    ranks = [replace(rank, max_num_batched_tokens=4) for rank in pair()]
    rules = handover(2, bandwidth=4.0, handover_s=0.5, **bare(connector))
    request = only(simulate(ranks, requests((0.0, 8, output_tokens)), handover=rules))
    assert request.transfer_bytes == 8.0
    return request


@pytest.mark.parametrize("connector", ["nixl", "nixl_push"])
def test_nixl_moves_the_prompt_when_the_decode_rank_has_blocks_for_it(connector):
    # At the decode rank 0.5 s after the end of the prefill at 2; 2 s on the way; the pass after the one at 4.5 sees it.
    request = handed_over(connector)
    assert (request.prefill_scheduled_s, request.prefill_finish_s) == (0.0, 2.0)
    assert (request.transfer_start_s, request.transfer_end_s) == (2.5, 4.5)
    assert request.token_times_s == (5.5 + 2 * PASS_S, 6.5 + 2 * PASS_S)


def test_mooncake_moves_it_at_the_end_of_the_prefill():
    request = handed_over("mooncake")
    assert (request.transfer_start_s, request.transfer_end_s) == (2.0, 4.0)
    assert request.token_times_s == (5.0 + 2 * PASS_S, 6.0 + 2 * PASS_S)


def test_p2p_nccl_has_moved_all_but_the_last_layer():
    # 2 s of prefill are enough for all 8 bytes; the last of four layers has only just been computed.
    request = handed_over("p2p_nccl")
    assert (request.transfer_start_s, request.transfer_end_s) == (2.5, 3.0)
    # At 1 byte a second 2 of the 8 bytes have left when the prefill ends.
    slow = handover(2, bandwidth=1.0, **CONNECTORS["p2p_nccl"])
    ranks = [replace(rank, max_num_batched_tokens=4) for rank in pair()]
    request = only(simulate(ranks, requests((0.0, 8, 2)), handover=slow))
    assert (request.transfer_start_s, request.transfer_end_s) == (2.0, 8.0)


def test_sglang_reserves_first_and_carries_the_token():
    # Reserved at 0, so the prefill has it at 0.5 and ends at 2.5. The last 4 tokens are on the way until 3.5.
    request = handed_over("sglang")
    assert (request.arrival_s, request.scheduled_s, request.prefill_finish_s) == (0.0, 0.5, 2.5)
    assert (request.transfer_start_s, request.transfer_end_s) == (2.5, 3.5)
    # The first token is there with the pass that admits it; that step computes the second one.
    assert request.token_times_s == (3.5 + 2 * PASS_S, 4.5 + 2 * PASS_S)
    assert request.decode_scheduled_s == request.first_token_s


def test_a_carried_token_may_be_the_only_one():
    request = handed_over("sglang", output_tokens=1)
    assert (request.decode_scheduled_s, request.finish_s) == (None, 3.5 + 2 * PASS_S)


def test_the_client_sees_both_ranks_api_and_the_hand_over():
    # In: 0.25 s at either rank; out: 0.5 s. Prefill 0.25..1.25, at the router 1.25 + 0.5 + 1, reserved 3, there 5, tokens 0.5 s later.
    ranks = pair(api_pre_s=0.25, api_post_s=0.5)
    request = only(simulate(ranks, requests((0.0, 8, 2)), handover=handover(2, setup_s=2.0, handover_s=1.0)))
    assert (request.scheduled_s, request.prefill_finish_s, request.transfer_start_s) == (0.25, 1.25, 3.0)
    assert request.token_times_s == (6.5 + 2 * PASS_S, 7.5 + 2 * PASS_S)


@pytest.mark.parametrize(("arrival_s", "ties"), [(0.5, 1), (0.5 + 1e-10, 1), (0.5 - 1e-10, 1), (0.5 + 1e-8, 0), (0.5 - 1e-8, 0)])
def test_a_request_that_is_queued_just_when_an_idle_rank_looks_is_a_tie(arrival_s, ties):
    # The decode rank waits for the KV cache of the first and looks every 2**-10 s, also at 0.5, when it gets the second one.
    rules = handover(2, setup_s=2.0, **CONNECTORS["mooncake"])
    result = simulate(pair(), requests((0.0, 8, 2), (arrival_s, 8, 2)), handover=rules)
    assert result.ties == ties


# ---- blocks


def test_a_full_decode_rank_is_felt_by_the_prefill_rank():
    # The decode rank has room for one prompt of 8 and its output, the prefill rank for two prompts: A and B, until 2.
    # A is read at 1.5, which the pass at 2 sees, so C starts with the one after. A is decoded until 5.5; only then is B reserved. It is
    # read at 6, and until that has been seen D waits for the blocks that B and C hold.
    ranks = [instance(role="prefill", num_blocks=16, max_num_batched_tokens=8), instance(role="decode", num_blocks=12)]
    result = simulate(ranks, requests(*[(0.0, 8, 4)] * 4), handover=handover(2, setup_s=0.5))
    a, b, c, d = result.requests
    assert [request.scheduled_s for request in (a, b, c)] == [0.0, 1.0, 2.0 + PASS_S]
    assert a.finish_s == 5.5 + 2 * PASS_S
    assert (b.transfer_start_s, b.transfer_end_s) == (a.finish_s, a.finish_s + 0.5)
    assert d.scheduled_s == b.transfer_end_s + 2 * PASS_S
    for request in result.requests:
        assert np.diff(request.token_times_s).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("reserved", "begins_s", "preempted"), [(False, 1.0, 1), (True, 4.0, 0)])
def test_a_load_may_leave_a_running_prefill_what_it_needs(reserved, begins_s, preempted):
    # Sixteen blocks of 1. The decode rank computes A's 7 tokens itself, 2 a step. B's prefill elsewhere ends at 1, when A is about to
    # hold 4 blocks: 12 are free, but A needs 3 of them, and B's prompt 10. If B takes them, A's last token finds no block at 3.
    limits = {"num_blocks": 16, "long_prefill_token_threshold": 2, "reserve_kv_loads": reserved}
    ranks = [instance(role="prefill"), instance(role="decode", **limits)]
    result = simulate(ranks, requests((0.0, 7, 1), (0.0, 10, 2)), handover=handover(2, setup_s=0.5, local_prefill_tokens=8))
    a, b = result.requests
    assert (b.transfer_start_s, preemptions(result)) == (begins_s, [preempted, 0])
    if reserved:
        assert a.token_times_s == (4.0,) and b.token_times_s == (5.5 + 2 * PASS_S, 6.5 + 2 * PASS_S)


@pytest.mark.parametrize(("watermark_blocks", "later_s"), [(6, 0.0), (7, 6.0)])
def test_a_loaded_request_gets_a_seat_above_the_watermark(watermark_blocks, later_s):
    # Fourteen blocks of 1, of which two loads hold 4 each: 6 are free when A has a seat. B waits for it until A's 6 tokens are there.
    ranks = [instance(role="prefill"), instance(role="decode", num_blocks=14, watermark_blocks=watermark_blocks)]
    a, b = simulate(ranks, requests((0.0, 4, 6), (0.0, 4, 2)), handover=handover(2, setup_s=0.5)).requests
    assert (a.transfer_start_s, b.transfer_start_s, a.decode_scheduled_s) == (1.0, 1.0, 1.5 + 2 * PASS_S)
    assert b.decode_scheduled_s == a.decode_scheduled_s + later_s


def test_an_idle_prefill_rank_keeps_what_has_been_read_until_it_has_work():
    # A's four blocks of five are read at 1.5, and nobody looks. B comes at 9: its first pass sees it, the second one has room.
    ranks = [instance(role="prefill", num_blocks=5), instance(role="decode")]
    result = simulate(ranks, requests((0.0, 4, 2), (9.0, 4, 2)), handover=handover(2, setup_s=0.5))
    assert [request.scheduled_s for request in result.requests] == [0.0, 9.0 + PASS_S]


def test_a_preempted_decode_is_computed_again_where_it_runs():
    # Ten blocks of 1: A and B hold 4 each. At their third token each needs its sixth block: B goes, and comes back when A is done.
    ranks = [instance(role="prefill"), instance(role="decode", num_blocks=10)]
    result = simulate(ranks, requests((0.0, 4, 4), (0.0, 4, 4)), handover=handover(2, setup_s=0.5))
    assert preemptions(result) == [0, 1]
    prompts = [(step.instance, step.requests, step.new_tokens) for step in result.steps if step.prefill_tokens]
    assert prompts == [(0, (0, 1), (4, 4)), (1, (1,), (6,))]
    assert [request.transfer_bytes for request in result.requests] == [4.0, 4.0]


def test_chat_turns_hit_on_either_side():
    # Blocks of 2. The decode rank knows the old prompt and, of the output, all but the last token; the prefill rank only the old prompt.
    chat = [said(0.0, "abcd", "efghi"), said(40.0, "abcdefghijkl", "mn")]
    first, second = simulate([caching(role="prefill"), caching(role="decode")], chat, handover=handover(2)).requests
    assert (first.prefill_cached_tokens, first.decode_cached_tokens, first.transfer_bytes) == (0, 0, 4.0)
    assert (second.cached_tokens, second.prefill_cached_tokens, second.decode_cached_tokens) == (4, 4, 8)
    assert second.transfer_bytes == 4.0


def test_loaded_blocks_are_known_once_the_scheduler_has_seen_the_load():
    # The same prompt twice, both on their way at once: nothing of the second is known when it is reserved. A third one comes later.
    prompts = [said(0.0, "abcdef", "g"), said(0.0, "abcdef", "g"), said(30.0, "abcdef", "g")]
    ranks = [caching(role="prefill"), caching(role="decode")]
    result = simulate(ranks, prompts, handover=handover(2, setup_s=2.0))
    assert [request.decode_cached_tokens for request in result.requests] == [0, 0, 4]
    assert [request.transfer_bytes for request in result.requests] == [6.0, 6.0, 2.0]


# ---- routers


def test_both_routers_take_turns():
    ranks = [instance(role=role) for role in ("decode", "prefill", "decode", "prefill", "decode")]
    result = simulate(ranks, requests(*[(float(index), 4, 2) for index in range(6)]), handover=handover(5))
    assert [request.prefill_instance for request in result.requests] == [1, 3] * 3
    assert routes(result) == [0, 2, 4, 0, 2, 4]


def test_a_rank_of_both_roles_serves_alone():
    ranks = [instance(role="both"), *pair()]
    result = simulate(ranks, requests((0.0, 4, 2), (0.0, 4, 2)), handover=handover(3))
    assert [request.prefill_instance for request in result.requests] == [-1, 1]
    assert routes(result) == [0, 2]
    assert result.requests[0].token_times_s == (1.0, 2.0) and result.requests[0].transfer_start_s is None


def test_a_decode_rank_can_be_picked_when_the_request_arrives():
    # A runs on rank 1 until 10, B on rank 2 until 4. C arrives at 3.5, when both have one request, so the turn decides; its prefill ends at
    # 4.5, when rank 2 has none.
    ranks = [instance(role="prefill"), *[instance(role="decode") for _ in range(2)]]
    rows = requests((0.0, 4, 9), (1.0, 4, 2), (3.5, 4, 2))
    late = simulate(ranks, rows, handover=handover(3, decode_policy="least_loaded"))
    early = simulate(ranks, rows, handover=handover(3, decode_policy="least_loaded", decode_first=True))
    assert routes(late) == [1, 2, 2]
    assert routes(early) == [1, 2, 1]


def test_a_load_counts_as_waiting():
    # A is on its way to rank 1 for 20 s; B is done on rank 2. Without A's load the turn would give C to rank 1.
    ranks = [instance(role="prefill"), *[instance(role="decode") for _ in range(2)]]
    rules = replace(handover(3, decode_policy="least_loaded"), setup_s=[[0.0, 20.0, 0.0]] * 3)
    result = simulate(ranks, requests((0.0, 4, 1), (1.0, 4, 1), (6.0, 4, 1)), handover=rules)
    assert routes(result) == [1, 2, 2]


def test_a_second_leg_comes_before_an_arrival_of_the_same_time():
    # Both reach the decode rank at 2, and it has blocks for one of them. B is short enough to be computed there.
    ranks = [instance(role="prefill"), instance(role="decode", num_blocks=6)]
    result = simulate(ranks, requests((0.0, 4, 1), (2.0, 3, 1)), handover=handover(2, handover_s=1.0, local_prefill_tokens=4))
    a, b = result.requests
    assert (a.prefill_instance, a.transfer_start_s, b.prefill_instance) == (0, 2.0, -1)
    assert b.scheduled_s == a.finish_s


def test_a_request_needs_a_rank_for_either_leg():
    # Five blocks: the prompt of 6 fits no prefill rank, the prompt of 4 with 9 outputs no decode rank.
    ranks = [instance(role="prefill", num_blocks=5), instance(role="decode", num_blocks=10)]
    result = simulate(ranks, requests((0.0, 6, 1), (0.0, 4, 9), (0.0, 5, 6)), handover=handover(2))
    assert [request.status for request in result.requests] == ["rejected", "rejected", "finished"]
