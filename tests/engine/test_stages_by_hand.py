"""Stages on small states that are solved by hand: a step takes 10 ms a token, the step in progress began at 1 s, a block has 4 tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.engine.accounting.leap_log import NoLog
from simjax.engine.arrivals.arrivals import answer
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.columns import recorded
from simjax.engine.host.result import LeapLog, RequestLog
from simjax.engine.params import ClusterParams
from simjax.engine.rank import Plan
from simjax.engine.routing.choice import in_turn
from simjax.engine.routing.scores import eligible
from simjax.engine.scheduler.commit import commit
from simjax.engine.scheduler.plan import cut_short
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState
from simjax.engine.turn import Turn, begin_turn
from tests.engine.inject import Seen, inject, stages, take_turn
from tests.engine.scenario import Limits, Scenario, Timing
from tests.reference.instance import Live, RefStep

START_S = 1.0
TIMING = Timing(0.01 * np.arange(65), np.zeros(17), decode_s=(0.0, 0.0, 0.0), mixed_s=(0.0, 0.0))
ROOMY = Limits(num_blocks=64, block_size=4, max_num_seqs=8, max_num_batched_tokens=32, async_scheduling=False)


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@dataclass(frozen=True)
class Request:
    """A request in a rank: `new` tokens are in the step in progress, and each of the `generated` ones appeared when it began."""

    prompt: int
    output: int
    computed: int = 0
    generated: int = 0
    new: int = 0
    queued_s: float = 0.0


def decoding(prompt: int, output: int, generated: int) -> Request:
    """A request in the middle of its output."""
    return Request(prompt, output, prompt + generated - 1, generated, new=1)


Rank = tuple[Sequence[Request], Sequence[Request]]  # running requests, and those in the queue
Given = tuple[EngineShape, ClusterParams, ClusterState]


def given(limits: Limits, *ranks: Rank, leap: bool = False, **changes: Any) -> Given:
    """A cluster with these requests, numbered rank by rank, running ones first."""
    rows = [row for running, queue in ranks for row in (*running, *queue)]
    arrival_s, prompt, output = (np.array([getattr(row, name) for row in rows]) for name in ("queued_s", "prompt", "output"))
    scenario = Scenario((limits,) * len(ranks), arrival_s, prompt, output, timing=TIMING, **changes)
    cluster, index = scenario.reference_cluster(), 0
    cluster.sends, cluster.num_sent = [], len(rows)
    for engine, (running, queue) in zip(cluster.engines, ranks, strict=True):
        for row in (*running, *queue):
            live = Live(index, row.prompt, row.output, row.queued_s, computed=row.computed, generated=row.generated)
            live.token_times_s = [START_S] * row.generated
            cluster.live[index], cluster.arrival_s[index] = (live, engine), row.queued_s
            index += 1
            if row in queue:
                engine.incoming.append(live)
                continue
            live.scheduled_s = START_S
            engine.running.append(live)
            engine.batch.append((live, row.new))
            assert engine.pool.grow(live.index, engine.config.blocks(row.computed + row.new))
        if running:
            end_s = START_S + engine.config.step_time([(new, live.computed) for live, new in engine.batch])
            engine.step = RefStep(engine.index, START_S, end_s, START_S, (), (), len(running), len(queue), 0)
    shape, params = scenario.shape(log_rows=2, leap=leap), scenario.params()
    return shape, params, inject(shape, params, cluster)


def after(stage: str, ticks: list[Seen], field: str = "rank") -> Any:
    return ticks[-1][stage][field]


def slots(rank: Any, field: str, count: int) -> list:
    return getattr(rank.slots, field)[:count].tolist()


def eagerly(case: Given, *to: Callable[..., Turn]) -> Turn:
    """The turn after some stages, for programs that no other test compiles."""
    shape, params, state = case[0], *jax.tree.map(jnp.asarray, case[1:])
    turn = Turn(state, NoLog())
    for stage in to:
        turn = stage(shape, params, turn)
    return turn


# The step in progress: a chunk that leaves prompt tokens, a chunk that ends its prompt, the last token of an output. 9 tokens, 90 ms.
THREE = [Request(10, 5, computed=4, new=4), Request(6, 5, computed=2, new=4), decoding(5, 3, generated=2)]


def test_commit_computes_the_tokens_of_the_step():
    seen = stages(*given(ROOMY, (THREE, [])))["commit"]
    rank, emitted = seen["rank"], seen["emitted"]
    assert slots(rank, "num_computed_tokens", 3) == [8, 6, 7]
    assert slots(rank, "num_tokens", 3) == [10, 7, 8]  # the second has its first token, the third its last
    assert emitted.finished.nonzero()[0].tolist() == [2]
    np.testing.assert_allclose(rank.slots.token_s[:3], [inf, 1.09, 1.09])
    np.testing.assert_allclose(rank.slots.first_token_s[:3], [inf, 1.09, 1.0])


def test_the_log_and_the_totals_show_the_step():
    shape, params, state = given(ROOMY, (THREE, []))
    seen = stages(shape, params, state)["record"]
    row = dict(zip(recorded(LeapLog, shape), seen["log"].rows[0], strict=True))
    counts = {"steps": 1, "prompt_tokens": 8, "first_outputs": 2, "decodes": 1, "resumed": 0, "running": 3, "preempted": 0}
    assert {name: row[name] for name in counts} == counts and seen["log"].count == 1
    assert (row["start_s"], row["first_step_s"]) == (1.0, pytest.approx(0.09))
    assert row["kv_blocks_last"] == 6  # 8, 6 and 7 tokens
    assert (seen["state"].ticks, seen["state"].steps, seen["state"].peak_blocks[0]) == (1, 1, 6)


def test_a_finished_request_departs():
    """The third; the other two form the next step with 2 + 1 tokens, and hold ceil(10/4) + ceil(7/4) blocks."""
    shape, params, state = given(replace(ROOMY, api_post_s=0.5), (THREE, []))
    ticks = take_turn(shape, params, state)
    departed, rank, formation = after("depart", ticks, "departed"), after("depart", ticks), after("schedule_running", ticks, "formation")
    assert departed.some and departed.request == 2 and rank.num_running == 2 and slots(rank, "request", 3) == [0, 1, shape.requests]
    assert (formation.seats, formation.blocks) == (2, 5)
    end = after("end_turn", ticks, "state")
    outcome = dict(zip(recorded(RequestLog, shape), end.outcome[2], strict=True))
    assert end.num_finished == 1 and outcome["instance"] == 0
    np.testing.assert_allclose([outcome[x] for x in ("scheduled_s", "first_token_s", "finish_s")], [1.0, 1.5, 1.59])


def test_a_finished_request_stays_while_the_scheduler_does_not_know_of_it():
    """An asynchronous scheduler forms the step of 1.09 s with what it knew at 1 s: the third holds its seat and 2 blocks."""
    ticks = take_turn(*given(replace(ROOMY, async_scheduling=True), (THREE, [])))
    assert len(ticks) == 1 and not after("depart", ticks, "departed").some
    formation = after("schedule_running", ticks, "formation")
    assert (formation.seats, formation.blocks) == (3, 7) and formation.holding
    assert after("end_turn", ticks, "state").num_finished == 0


# Two that decode, and one that has computed nothing of its 20 tokens but the 2 of the step in progress.
PROMPT_LAST = [decoding(5, 9, generated=1), decoding(5, 9, generated=1), Request(20, 5, computed=0, new=2)]


@pytest.mark.parametrize("threshold, new, left", [(0, [1, 1, 6], 0), (3, [1, 1, 3], 3)])
def test_running_requests_get_their_tokens(threshold: int, new: list[int], left: int):
    """Of 8 tokens the last request gets what is left, but no more than the threshold."""
    limits = replace(ROOMY, max_num_batched_tokens=8, long_prefill_token_threshold=threshold)
    ticks = take_turn(*given(limits, (PROMPT_LAST, [])))
    assert slots(after("schedule_running", ticks), "num_new_tokens", 3) == new
    assert after("schedule_running", ticks, "formation").token_budget == left


@pytest.mark.parametrize(
    "asynchronous, queue, new",
    [
        (False, [], 8),  # as many tokens as the step has: it is alone
        (False, [Request(6, 9, queued_s=2.0)], 8),
        (False, [Request(6, 9)], 3),
        (True, [], 3),  # the one that has finished is still there
    ],
)
def test_the_threshold_does_not_hold_for_a_request_that_is_alone(asynchronous: bool, queue: list[Request], new: int):
    """One request has its last token with the step in progress, the other one is in its prompt."""
    limits = replace(ROOMY, max_num_batched_tokens=8, long_prefill_token_threshold=3, long_prefill_alone=True)
    running = [decoding(5, 3, generated=2), Request(20, 5, computed=0, new=2)]
    ticks = take_turn(*given(replace(limits, async_scheduling=asynchronous), (running, queue)))
    rank = after("schedule_running", ticks)
    assert slots(rank, "num_new_tokens", 2) == ([0, new] if asynchronous else [new, 0])


@pytest.mark.parametrize(
    "queue, chunks", [([Request(6, 9)], [6]), ([Request(6, 9)] * 2, [3, 3]), ([Request(6, 9), Request(6, 9, queued_s=2.0)], [6])]
)
def test_a_waiting_request_may_be_alone(queue: list[Request], chunks: list[int]):
    limits = replace(ROOMY, long_prefill_token_threshold=3, long_prefill_alone=True)
    rank = after("admit_waiting", take_turn(*given(limits, ([decoding(5, 2, generated=1)], queue))))
    assert slots(rank, "num_new_tokens", len(chunks)) == chunks and rank.num_running == len(chunks)


def test_the_tail_is_preempted():
    """Three requests fill two blocks each, and each needs a third one; of 6 blocks that leaves two requests."""
    ticks = take_turn(*given(replace(ROOMY, num_blocks=6), ([decoding(7, 9, generated=1)] * 3, [])))
    assert after("schedule_running", ticks, "formation").blocks == 9
    rank, formation = after("preempt", ticks), after("preempt", ticks, "formation")
    assert (rank.num_running, rank.num_preempted) == (2, 1)
    assert slots(rank, "preemptions", 3) == [0, 0, 1] and slots(rank, "num_computed_tokens", 3) == [8, 8, 0]
    assert (formation.blocks, formation.seats, formation.token_budget, formation.preempted) == (6, 2, 30, 1)
    assert after("admit_waiting", ticks).num_running == 2  # nothing is admitted after a preemption


QUEUE = [Request(5, 9), Request(4, 9), Request(6, 9)]


@pytest.mark.parametrize(
    "changes, chunks",
    [
        ({}, [5, 4, 1]),  # of 11 tokens the running request has 1
        ({"enable_chunked_prefill": False}, [5, 4]),  # the third would have to be split
        ({"max_num_seqs": 2}, [5]),
        ({"num_blocks": 4}, [5]),  # 2 blocks for the running request, 2 for the first
        ({"num_blocks": 6}, [5, 4]),  # the third must find room for its whole prompt, 2 blocks
        ({"num_blocks": 6, "reserve_full_isl": False}, [5, 4, 1]),  # its first chunk needs 1
        ({"num_blocks": 8, "watermark_blocks": 2}, [5, 4]),  # which leaves 3 of 8
        ({"num_blocks": 8, "watermark_blocks": 1}, [5, 4, 1]),
    ],
)
def test_waiting_requests_join(changes: dict, chunks: list[int]):
    limits = replace(ROOMY, **{"max_num_batched_tokens": 11, **changes})
    ticks = take_turn(*given(limits, ([decoding(4, 9, generated=2)], QUEUE)))
    rank = after("admit_waiting", ticks)
    assert rank.num_running == 1 + len(chunks) and rank.head == 1 + len(chunks)
    assert slots(rank, "num_new_tokens", 4) == [1, *chunks] + [0] * (3 - len(chunks))
    np.testing.assert_allclose(rank.slots.scheduled_s[1 : 1 + len(chunks)], 1.01)


def test_a_formation_continues_when_more_join_than_the_window_shows():
    """Six requests, a window of four: the step that starts at 1.01 s is formed in two ticks."""
    ticks = take_turn(*given(ROOMY, ([decoding(4, 9, generated=1)], [Request(2, 2)] * 6)))
    assert [int(seen["admit_waiting"]["rank"].num_running) for seen in ticks] == [5, 7]
    assert after("plan_next", ticks).plan.tokens == 13 and after("plan_next", ticks).plan.start_s == 1.01


def test_a_plan_of_one_step():
    """The next step has 2 + 1 tokens, 30 ms from 1.09 s; an asynchronous scheduler forms the one after it when it starts."""
    plan = after("plan_next", take_turn(*given(ROOMY, (THREE, [])))).plan
    assert plan.steps == 1
    np.testing.assert_allclose([plan.start_s, plan.end_s, plan.horizon_s], [1.09, 1.12, 1.12])
    plan = after("plan_next", take_turn(*given(replace(ROOMY, async_scheduling=True), (THREE, [])))).plan
    np.testing.assert_allclose([plan.start_s, plan.end_s, plan.horizon_s], [1.09, 1.12, 1.09])


@pytest.mark.parametrize(
    "asynchronous, queued_s, steps, end_s, horizon_s",
    [
        (False, inf, 5, 1.18, 1.18),  # until the first request finishes
        (True, inf, 5, 1.18, 1.15),
        (False, 1.1, 3, 1.12, 1.12),  # the first step that ends after the next request is queued
        (True, 1.1, 4, 1.15, 1.12),  # and the one that is formed by then
    ],
)
def test_a_leap(asynchronous: bool, queued_s: float, steps: int, end_s: float, horizon_s: float):
    """Three requests decode, 30 ms a step from 1.03 s; one of them needs 5 more tokens, the others more."""
    running = [decoding(5, 7, generated=1), decoding(5, 20, generated=1), decoding(5, 20, generated=1)]
    queue = [Request(3, 3, queued_s=queued_s)] if queued_s < inf else []
    plan = after("plan_next", take_turn(*given(replace(ROOMY, async_scheduling=asynchronous), (running, queue), leap=True))).plan
    assert plan.steps == steps
    np.testing.assert_allclose([plan.start_s, plan.end_s, plan.horizon_s], [1.03, end_s, horizon_s])


def test_a_rank_without_requests_sleeps_until_one_is_queued():
    """The only request finishes at 1.01 s; the next comes at 3 s."""
    ticks = take_turn(*given(ROOMY, ([decoding(5, 2, generated=1)], [Request(3, 3, queued_s=3.0)])))
    plan = after("plan_next", ticks).plan
    assert (plan.steps, plan.end_s, plan.horizon_s) == (0, 3.0, 3.0) and plan.open


def test_the_rank_whose_plan_ends_first_has_its_turn():
    """The steps in progress have 3 and 2 tokens."""
    one = [decoding(5, 9, generated=1)]
    turn = eagerly(given(ROOMY, (one * 3, []), (one * 2, [])), begin_turn)
    assert turn.i == 1 and turn.due and turn.now_s == 1.02 and turn.rank.num_running == 2


def test_a_client_sends_its_next_request():
    """The second request finishes at 1.02 s; its answer takes 0.25 s, and the client thinks for 0.5 s."""
    limits, running = replace(ROOMY, api_post_s=0.25), [decoding(5, 9, generated=1), decoding(5, 2, generated=1)]
    case = given(limits, (running, []), concurrency=2, think_s=0.5)
    arrivals = eagerly(case, begin_turn, commit, answer).state.arrivals
    assert isinstance(arrivals, ClosedLoop)
    sends = np.isfinite(np.asarray(arrivals.send_s))
    np.testing.assert_allclose(arrivals.send_s[sends], [1.77])
    np.testing.assert_array_equal(arrivals.count[sends], [1])


@pytest.mark.parametrize(
    "score, turn, chosen",
    [([0.5, 0.2, 0.2], 0, 1), ([0.5, 0.2, 0.2], 2, 2), ([0.1, 0.2, 0.2], 2, 0), ([0.0, 0.0, 0.0], 4, 1)],
)
def test_the_lowest_score_wins_and_of_equals_the_next_in_turn(score: list[float], turn: int, chosen: int):
    _, params, _ = given(ROOMY, *[([decoding(5, 9, generated=1)], [])] * 3)
    params = jax.tree.map(jnp.asarray, params)
    able, draw = jnp.ones(3, bool), jnp.asarray(0.0)
    assert in_turn(jnp.array(score), able, params.router.random, draw, jnp.asarray(turn, jnp.int32)) == chosen


def test_a_rank_that_cannot_hold_a_request_takes_no_part_in_its_round():
    """Only the first and the third take a request of 14 tokens: the turns are among these two."""
    shape, params, _ = given(ROOMY, *[([decoding(5, 9, generated=1)], [])] * 3)
    short = replace(params.ranks, max_model_len=np.array([100, 13, 100], np.int32))
    params = jax.tree.map(jnp.asarray, replace(params, ranks=short))
    request = jnp.asarray(0, jnp.int32)
    able = eligible(shape, params, request)
    turns = [jnp.asarray(turn, jnp.int32) for turn in range(4)]
    chosen = [int(in_turn(jnp.zeros(3), able, params.router.random, jnp.asarray(0.0), turn)) for turn in turns]
    assert chosen == [0, 2, 0, 2]


@pytest.mark.parametrize("asynchronous, steps, end_s, horizon_s", [(False, 3, 1.09, 1.09), (True, 4, 1.12, 1.09)])
def test_an_arrival_cuts_a_plan_short(asynchronous: bool, steps: int, end_s: float, horizon_s: float):
    """Five steps of 30 ms from 1 s; a request is queued at 1.07 s."""
    f64, i32 = (lambda x: jnp.asarray(x, jnp.float64)), (lambda x: jnp.asarray(x, jnp.int32))
    zero = i32(0)
    times = (f64(1.0), f64(1.15), f64(1.15), f64(0.03), f64(0.03), f64(0.0))
    plan = Plan(*times, i32(5), jnp.asarray(True), zero, zero, zero, zero, zero.astype(jnp.int64), zero.astype(jnp.int64), None)
    cut = cut_short(plan, f64(1.07), jnp.asarray(asynchronous))
    assert cut.steps == steps
    np.testing.assert_allclose([cut.end_s, cut.horizon_s], [end_s, horizon_s])
