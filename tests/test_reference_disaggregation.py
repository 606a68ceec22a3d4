"""Prefill and decode ranks of the reference: vLLM's own schedules, the hand-solved examples D0 to D4, and invariants."""

import json
from dataclasses import astuple, replace
from math import ceil, inf

import pytest

from tests.data import data_path
from tests.reference.alone import play
from tests.reference.costs import dynamo_cost
from tests.reference.handover import CONNECTORS
from tests.reference.headroom import Headroom
from tests.reference.legs import Leg
from tests.reference.rank import Rank
from tests.reference.simulator import simulate
from tests.reference.toy import batches, caching, handover, instance, preemptions, requests, said

CASES = ["D1 {} a=10.3 X=2.5", "D1 {} a=10.0 X=0.2", "D1 {} a=10.9 X=7", "D1 {} a=10.5 X=0.5", "idle {}"]
CASES += ["D0 {} at=4.5", "D0 {} at=5.5", "D0 {} at=6.5", "SEATS {}", "HOLD {}", "HOLDbusy {}"]
NAMES = [case.format(f"async={mode}") for mode in (False, True) for case in CASES]


# ---- one rank, as vLLM's own scheduler


def recorded(name):
    (row,) = (row for row in json.loads(data_path("vllm_oracle/pd.json").read_text()) if row["name"] == name)
    return row


@pytest.mark.parametrize("name", NAMES)
def test_every_pass_and_time_is_that_of_vllm(name):
    row = recorded(name)
    played, rank = play(row["scenario"])
    for got, wanted in zip(played, row["requests"], strict=True):
        assert astuple(got) == pytest.approx(tuple(wanted[name] for name in got.__dataclass_fields__), rel=0, abs=1e-9)
    for got, (formed_s, start_s, end_s, tokens, *rest) in zip(rank.passes, row["steps"], strict=True):
        assert (got.formed_s, got.start_s, got.end_s) == pytest.approx((formed_s, start_s, end_s), rel=0, abs=1e-9)
        assert {str(request): new for request, new in got.tokens.items()} == tokens
        assert [got.preempted, got.arrived, got.read, got.free_blocks] == rest


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_a_rank_without_loads_and_holds_is_the_instance_of_other_clusters(async_scheduling):
    # With chunks, preemptions and a prompt that waits for blocks; the sleeps of asynchronous passes that run nothing are made negligible.
    limits = {"num_blocks": 9, "block_size": 2, "max_num_seqs": 3, "max_num_batched_tokens": 6, "async_scheduling": async_scheduling}
    rows = [(0.0, 7, 5), (0.5, 4, 6), (0.5, 3, 4), (2.5, 9, 2), (20.25, 5, 3)]
    config = instance(**limits, step_time=lambda batch: 0.25 + 0.125 * sum(new for new, _ in batch))
    legs = [Leg(index, prompt, output, arrival_s) for index, (arrival_s, prompt, output) in enumerate(rows)]
    rank = run_alone(config, legs, empty_pass_s=1e-13)
    result = simulate([config], requests(*rows))
    assert sum(preemptions(result)) > 0
    for leg, wanted in zip(legs, result.requests, strict=True):
        assert leg.token_times_s == pytest.approx(wanted.token_times_s, rel=0, abs=1e-11)
        assert (leg.scheduled_s, leg.preemptions) == (pytest.approx(wanted.scheduled_s, rel=0, abs=1e-11), wanted.preemptions)
    assert [(step.requests, step.new_tokens) for step in rank.ended] == batches(result)


def run_alone(config, legs, empty_pass_s):
    def no_load(leg, blocks, now):
        raise AssertionError("nothing is loaded")

    rank = Rank(0, config, empty_pass_s, no_load)
    for leg in legs:
        rank.enqueue(leg)
    while (now := rank.next_event_s()) < inf:
        rank.advance(now)
    return rank


# ---- the hand-solved examples of vllm-parallel.md


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize(("at_s", "transfer_s", "first_token_s"), [(10.3, 2.5, 16), (10.0, 0.2, 13), (10.9, 7.0, 20), (10.5, 0.5, 14)])
def test_d1_a_hand_over_to_a_rank_with_steps_of_one_second(at_s, transfer_s, first_token_s, async_scheduling):
    # The short prompt is computed by the decode rank itself, which has steps at 0, 1, ... from then on. The long one is computed in the
    # second before `at_s`, reserved at the next boundary, there transfer_s later, seen at the boundary after that and told a step later.
    ranks = [instance(role="prefill"), instance(role="decode", async_scheduling=async_scheduling, block_size=16)]
    rules = handover(2, setup_s=transfer_s, local_prefill_tokens=20)
    result = simulate(ranks, requests((0.0, 10, 40), (at_s - 1.0, 64, 3)), handover=rules)
    short, long = result.requests
    assert (short.prefill_instance, short.token_times_s[:2]) == (-1, (1.0, 2.0))
    assert long.prefill_finish_s == pytest.approx(at_s, rel=1e-12)
    assert long.transfer_start_s == ceil(at_s) and long.transfer_end_s == ceil(at_s) + transfer_s
    assert long.first_token_s == first_token_s + 2 * async_scheduling
    assert long.first_token_s == ceil(long.transfer_end_s) + (4 if async_scheduling else 2)


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_d1_a_hand_over_to_an_idle_rank(async_scheduling):
    # Reserved at once at 1, there at 3.5. The pass at 3.5 does not see it, the one after does, and the next one runs it.
    ranks = [instance(role="prefill"), instance(role="decode", async_scheduling=async_scheduling)]
    (request,) = simulate(ranks, requests((0.0, 64, 3)), handover=handover(2, setup_s=2.5)).requests
    assert request.decode_scheduled_s == 3.5 + 2 * 2.0**-10
    assert request.token_times_s == tuple(request.decode_scheduled_s + step for step in (1, 2, 3))


def test_d0_loads_take_blocks_and_decodes_are_preempted():
    # Thirteen blocks of 16, three decodes of a prompt of 10; three prompts of 64 come at 5.5, and their KV cache needs 4.2 s.
    # At 6 two of them take four blocks each and the third finds two, though nine seats are free. At 7 each decode needs its second block:
    # the third one gets none and is the tail.
    limits = {"num_gpu_blocks": 14, "block_size": 16, "max_num_seqs": 12, "max_num_batched_tokens": 256, "async_scheduling": False}
    price = {"token_s": 0.0, "sequence_s": 0.0, "decode_s": [1, 0, 0], "mixed_s": [1, 0]}
    loads = [{"arrival_s": 5.5, "prompt": 64, "output": 3, "load_s": 4.2}] * 3
    rows = [{"arrival_s": 0.0, "prompt": 10, "output": 30}] * 3 + loads
    played, rank = play({"limits": limits, "price": price, "empty_pass_s": 1e-3, "requests": rows})
    by_time = {seen.formed_s: seen for seen in rank.passes}
    assert [by_time[time].free_blocks for time in (5.0, 6.0)] == [10, 2]
    assert by_time[7.0].preempted == [2] and by_time[7.0].tokens == {0: 1, 1: 1}
    assert by_time[11.0].arrived == [3, 4]  # there at 10.2
    assert by_time[12.0].tokens == {0: 1, 1: 1, 3: 1, 4: 1}
    assert [request.preemptions for request in played] == [0, 0, 1, 0, 1, 0]


def test_d2_the_cost_of_dynamo():
    def costs(queued_prompt_tokens):
        shared = {"prompt_tokens": 160, "block_size": 16}
        first = dynamo_cost(**shared, queued_prompt_tokens=queued_prompt_tokens, device_blocks=8, decode_blocks=10)
        return first, dynamo_cost(**shared, queued_prompt_tokens=0, device_blocks=0, decode_blocks=3)

    assert costs(0) == (12, 13)
    assert costs(64) == (16, 13)


def test_d3_a_prompt_that_is_mostly_cached_stays_on_the_decode_rank():
    rules = handover(2, local_prefill_tokens=2048, local_prefill_ratio=0.7)
    assert rules.prefills_locally(1000, hit_tokens=14 * 64)
    assert not rules.prefills_locally(200, hit_tokens=0)
    assert not handover(2).prefills_locally(1, hit_tokens=0)
    # In a cluster: the second turn has 2 of 10 tokens that the decode rank does not know, the third request shares nothing.
    chat = [said(0.0, "abcdef", "gh"), said(20.0, "abcdefghij", "kl"), said(40.0, "uvw", "xyz")]
    result = simulate([caching(role="prefill"), caching(role="decode")], chat, handover=replace(rules, local_prefill_ratio=0.5))
    assert [request.prefill_instance for request in result.requests] == [0, -1, 0]
    assert [request.cached_tokens for request in result.requests] == [0, 6, 0]


@pytest.mark.parametrize(("num_blocks", "waits"), [(4000, True), (4935, True), (4936, False)])
def test_d4_the_reservation_of_sglang(num_blocks, waits):
    # Two requests of 1,000 prompt and 500 generated tokens run. 512 tokens for each of them, and 512 beside the 400 of the new prompt, are
    # more than the 1,000 of 4,000 that are free, though 400 fit: it waits until the two have ended, with 600 tokens each.
    ranks = [instance(role="prefill", num_blocks=3000, max_num_batched_tokens=2000), instance(role="decode", num_blocks=num_blocks)]
    asked = requests((0.0, 1000, 600), (0.0, 1000, 600), (499.5, 400, 256))
    first, second, new = simulate(ranks, asked, handover=handover(2, **CONNECTORS["sglang"])).requests
    assert first.finish_s == second.finish_s
    before = [sum(time <= new.scheduled_s for time in request.token_times_s) for request in (first, second)]
    assert before == ([600, 600] if waits else [500, 500])


@pytest.mark.parametrize(("most_new_tokens", "waits"), [(4096, True), (30, False)])
def test_room_is_kept_for_one_running_request_to_end(most_new_tokens, waits):
    # Of 85 tokens the first one may come to need 10 + 60: with the 10 + g that it has, 60 - g of the 75 - g that are free. 20 are too many.
    ranks = [instance(role="prefill"), instance(role="decode", num_blocks=85)]
    rules = handover(2, **CONNECTORS["sglang"] | {"headroom": Headroom(0, most_new_tokens)})
    first, new = simulate(ranks, requests((0.0, 10, 60), (5.0, 20, 2)), handover=rules).requests
    assert (new.scheduled_s >= first.finish_s) == waits
