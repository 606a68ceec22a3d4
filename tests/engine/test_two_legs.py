"""Prefill and decode ranks: the engine against the pure-Python reference simulator, every time of every request to 1e-9."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from simjax.engine.host.result import Result, Status
from tests.data import data_path
from tests.engine.scenario import Limits, RouterPolicy, Scenario, Timing
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_against_reference import LEAP, MODE, STEP, leaps, undecided
from tests.engine.two_legs import TwoLegs, crowded, one_to_one, two_legs
from tests.reference.simulator import RefResult

RTOL = 1e-9
THRASHING = 5_000  # steps of a scenario
LIMITED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
FEWER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
# Their scores depend on tokens in KV caches, which an asynchronous rank counts at the formation of the next step.
UNEQUAL_VIEWS = (RouterPolicy.LEAST_KV, RouterPolicy.WEIGHTED)


def assert_same(ours: Result, theirs: RefResult) -> None:
    """Hold requests and hand-overs against each other: of a cluster that stalls, with blocks held on both sides, those that finished."""
    done = np.array([request.status == "finished" for request in theirs.requests])
    stalled = any(request.status == "unfinished" for request in theirs.requests)
    assert ours.status == (Status.STALLED if stalled else Status.FINISHED) and ours.handovers is not None
    np.testing.assert_array_equal(ours.requests.finished, done)

    def column(name: str, absent: float) -> np.ndarray:
        values = [getattr(request, name) for request in theirs.requests]
        return np.array([absent if x is None else x for x in values], float)

    if stalled:  # what has not finished is still in the state
        for name in ("first_token_s", "finish_s"):
            np.testing.assert_allclose(getattr(ours.requests, name)[done], column(name, np.inf)[done], rtol=RTOL, err_msg=name)
        return
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(ours.requests, name), column(name, np.inf), rtol=RTOL, err_msg=name)
    for name in ("instance", "preemptions", "cached_tokens"):
        np.testing.assert_array_equal(getattr(ours.requests, name), column(name, -1), err_msg=name)
    np.testing.assert_array_equal(ours.handovers.prefill_instance, column("prefill_instance", -1))
    two = ours.handovers.prefill_instance >= 0
    for name in ("prefill_scheduled_s", "prefill_finish_s", "transfer_start_s", "transfer_end_s", "decode_scheduled_s"):
        np.testing.assert_allclose(getattr(ours.handovers, name)[two], column(name, np.inf)[two], rtol=RTOL, err_msg=name)
    np.testing.assert_allclose(ours.handovers.transfer_bytes[two], column("transfer_bytes", 0)[two], rtol=1e-6)
    np.testing.assert_array_equal(ours.handovers.decode_cached_tokens[two], column("decode_cached_tokens", 0)[two])


def compared(scenario: TwoLegs) -> RefResult:
    """The reference's run, if the engine's can be held against it."""
    theirs = scenario.run_reference(max_steps=THRASHING)
    assume(len(theirs.steps) < THRASHING)  # requests that preempt each other for ever, or nearly so
    answered = scenario.waits is not None or scenario.concurrency > 0  # replies lead to requests
    assume(not theirs.ties and not (answered and undecided(scenario, theirs)))
    return theirs


def check(scenario: TwoLegs, mode: str) -> None:
    assume(scenario.router not in UNEQUAL_VIEWS)
    theirs = compared(scenario)
    assert_same(scenario.run(leap=mode == "leap" and leaps(scenario)), theirs)


@given(scenario=two_legs(scenarios(instances=3)), mode=MODE)
@LIMITED
def test_three_ranks(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=two_legs(scenarios(instances=2, closed=True)), mode=LEAP)
@FEWER
def test_closed_loop(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=two_legs(sharing(instances=3, sessions=True)), mode=STEP)
@FEWER
def test_sessions_with_prefix_caches(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=crowded(scenarios(instances=2)), mode=LEAP)
@FEWER
def test_loads_beside_prefills(scenario: TwoLegs, mode: str):
    check(scenario, mode)


@given(scenario=crowded(scenarios(instances=2), ("sglang",)), mode=MODE)
@FEWER
def test_headroom_of_a_crowded_decode_rank(scenario: TwoLegs, mode: str):
    check(scenario, mode)


# ---- by hand (rules of newer releases as in tests/test_reference_handover.py)

UNIT = Timing(np.zeros(65), np.zeros(17), (1.0, 0.0, 0.0), (1.0, 0.0))
HAND = Limits(num_blocks=100, block_size=1, async_scheduling=False)


def by_hand(limits: Limits, prompt: list[int], output: list[int], second_s: float = 0.0, **rules) -> TwoLegs:
    """Two requests, at 0 and at second_s, on a roomy prefill rank and a decode rank, in unit steps; a transfer takes half a step."""
    plain = Scenario((HAND, limits), np.array([0.0, second_s]), np.array(prompt), np.array(output), timing=UNIT)
    return one_to_one(plain, 0.0, 0.5, **rules)


@pytest.mark.parametrize(("reserved", "begins_s", "preempted"), [(False, 1.0, 1), (True, 4.0, 0)])
def test_a_load_may_leave_a_running_prefill_what_it_needs(reserved: bool, begins_s: float, preempted: int):
    limits = replace(HAND, num_blocks=16, long_prefill_token_threshold=2, reserve_kv_loads=reserved)
    run = by_hand(limits, [7, 10], [1, 2], local_prefill_tokens=8.0).run()
    assert run.handovers is not None and run.requests.preemptions.tolist() == [preempted, 0]
    assert_times(run.handovers.transfer_start_s[1:], [begins_s])
    if reserved:
        assert_times(run.requests.finish_s, [4.0, 6.502])


@pytest.mark.parametrize(("watermark_blocks", "later_s"), [(6, 0.0), (7, 6.0)])
def test_a_loaded_request_gets_a_seat_above_the_watermark(watermark_blocks: int, later_s: float):
    run = by_hand(replace(HAND, num_blocks=14, watermark_blocks=watermark_blocks), [4, 4], [6, 2]).run()
    assert run.handovers is not None
    assert_times(run.handovers.decode_scheduled_s, [1.502, 1.502 + later_s])


@pytest.mark.parametrize(("late_s", "seen_by"), [(-1e-8, 1_500), (1e-8, 1_501)])
def test_an_idle_rank_sees_a_request_in_the_first_pass_after_it_is_queued(late_s: float, seen_by: int):
    # The decode rank reserves first, so the second prompt is computed from that pass on. Until 1.5 the first one is on its way there.
    # At the very time of a pass, which is a sum of sleeps, rounding decides (`RefResult.ties`).
    pass_s = 0.97e-3
    scenario = by_hand(HAND, [4, 4], [2, 2], 1_500 * pass_s + late_s, connector="sglang", empty_pass_s=pass_s)
    run, theirs = scenario.run(), scenario.run_reference()
    assert_times(run.requests.scheduled_s, [0.0, seen_by * pass_s])
    assert_same(run, theirs)
    assert theirs.ties == 0


def test_a_request_that_a_reply_leads_to_at_once_comes_after_the_pass_of_that_time():
    # An asynchronous rank that has sent its last token is asked for a step once more, and only then gets the next request: its queue is
    # empty, and the second request takes as long as the first. Before that pass, it would hear of the transfer one pass later.
    limits = (HAND, replace(HAND, async_scheduling=True))
    plain = Scenario(limits, np.zeros(2), np.array([4, 4]), np.array([1, 1]), concurrency=1, timing=UNIT)
    scenario = one_to_one(plain, 0.0, 0.5, connector="mooncake", empty_pass_s=0.97e-3)
    run = scenario.run()
    assert_times(run.requests.finish_s, [2.5 + 0.00156, 5.0 + 2 * 0.00156])
    assert_same(run, scenario.run_reference())


# ---- vLLM's own scheduler

# All but those in which a rank both decodes and has its prompts read ("HOLDbusy").
CASES = ("D1 async={} a=10.3 X=2.5", "D1 async={} a=10.0 X=0.2", "D1 async={} a=10.9 X=7", "D1 async={} a=10.5 X=0.5", "idle async={}")
CASES += ("D0 async={} at=4.5", "D0 async={} at=5.5", "D0 async={} at=6.5", "SEATS async={}", "HOLD async={}")
RECORDED = [name.format(way) for way in (False, True) for name in CASES]
TOGETHER = 32  # prompts up to this length have no transfer in the recorded scenarios


@pytest.mark.parametrize("name", RECORDED)
def test_vllms_scheduler(name: str):
    """A decode rank that loads, or a prefill rank whose blocks are read, in unit steps: times as vLLM 0.19.0 has them."""
    (case,) = (x for x in json.loads(data_path("vllm_oracle/pd.json").read_text()) if x["name"] == name)
    limits, rows, holds = case["scenario"]["limits"], case["scenario"]["requests"], name.startswith("HOLD")
    recorded = Limits(
        num_blocks=limits["num_gpu_blocks"] - 1,
        async_scheduling=limits["async_scheduling"],
        **{x: limits[x] for x in ("block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len")},
    )
    other = replace(recorded, num_blocks=10_000, max_num_seqs=8, max_num_batched_tokens=4_096, async_scheduling=False)
    arrival_s = np.array([row["arrival_s"] - (1.0 if "load_tokens" in row else 0.0) for row in rows])  # the other rank's step before
    order, shift_s = np.argsort(arrival_s, kind="stable"), -min(arrival_s.min(), 0.0)
    prompt, output = (np.array([rows[r][x] for r in order]) for x in ("prompt", "output"))
    (transfer_s,) = {row.get("load_s", row.get("hold_s")) for row in rows} - {None}
    ranks = (recorded, other) if holds else (other, recorded)
    plain = Scenario(ranks, arrival_s[order] + shift_s, prompt, output, timing=UNIT)
    pass_s, together = case["scenario"].get("empty_pass_s", 0.0), 0 if holds else TOGETHER
    run = one_to_one(plain, 0.0, transfer_s, empty_pass_s=pass_s, local_prefill_tokens=together).run()
    log, moved = run.requests, run.handovers
    assert moved is not None
    theirs = [case["requests"][r] for r in order]
    expected = {x: [row[x] for row in theirs] for x in ("scheduled_s", "first_token_s", "finish_s", "preemptions")}
    if holds:
        assert_times(moved.prefill_scheduled_s - shift_s, expected["scheduled_s"])
        assert_times(moved.prefill_finish_s - shift_s, expected["finish_s"])
        return
    here_s = np.where(moved.prefill_instance >= 0, moved.decode_scheduled_s, log.scheduled_s)
    assert_times(here_s - shift_s, expected["scheduled_s"])
    assert_times(log.first_token_s - shift_s, expected["first_token_s"])
    assert_times(log.finish_s - shift_s, expected["finish_s"])
    np.testing.assert_array_equal(log.preemptions, expected["preemptions"])


def assert_times(ours: np.ndarray, theirs: list[float]) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
