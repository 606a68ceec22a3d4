"""Every stage of a tick does what the same part of the reference does, from a state in the middle of a run.

A drawn scenario runs in the reference up to some step; its state is injected into the engine (`tests.engine.inject`), and the next event is
taken in both, stage by stage. With prefix caching the engine comes to the same step by its own ticks, for its tables (runs of blocks in a
tree) and the reference's pool (named blocks) describe a cache in different words; what both count is compared.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator
from copy import deepcopy
from math import inf
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.arrivals.sessions import SessionCalls
from simjax.engine.columns import recorded
from simjax.engine.host.result import LeapLog, RequestLog
from simjax.engine.kv.block_pool import BOOKS, END, FIRST, NAMELESS, NEXT, NODE, REF
from simjax.engine.kv.prefix_cache import PrefixCache
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.simulate import start
from simjax.engine.state import ClusterState
from tests.engine.inject import (
    Attempt,
    RefTurn,
    Seen,
    inject,
    next_end_s,
    next_send_s,
    num_held,
    reference_turn,
    send,
    settled,
    stages,
    take_turn,
    tick_once,
    unseen,
)
from tests.engine.scenario import CLIENTS, RouterPolicy, Scenario
from tests.engine.strategies import scenarios, sharing
from tests.engine.test_against_reference import undecided
from tests.reference.instance import RefEngine
from tests.reference.simulator import Cluster

RTOL = 1e-12
FEW = settings(
    max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
EVENTS = 3  # of one scenario, spread over its run


@pytest.fixture(scope="module", autouse=True)
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def close(ours: Any, theirs: Any, what: str) -> None:
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=RTOL, err_msg=what)


# ---- one turn, stage by stage


def in_slots(rank: Any, first: int, count: int) -> list[int]:
    """Slots [first, first + count), but for those of requests that finished."""
    slots = rank.slots
    return [at for at in range(first, first + count) if slots.num_tokens[at] < slots.final_tokens[at]]


def running(rank: Any) -> list[int]:
    return in_slots(rank, 0, int(rank.num_running))


def preempted(rank: Any) -> list[int]:
    return in_slots(rank, int(rank.num_running), int(rank.num_preempted))


def new_tokens(rank: Any) -> list[tuple[int, int]]:
    """(request, new tokens) of the requests in the step being formed."""
    slots = rank.slots
    return [(int(slots.request[at]), int(slots.num_new_tokens[at])) for at in running(rank) if slots.num_new_tokens[at] > 0]


def check_turn(shape: EngineShape, state: ClusterState, ticks: list[Seen], cluster: Cluster) -> RefTurn:
    """Compare the engine's ticks from a state, one turn of a rank, with the next event of the reference."""
    engine = min(cluster.engines, key=lambda engine: engine.next_event_s())
    i, theirs = engine.index, reference_turn(engine)
    check_begin_turn(ticks, i, theirs, cluster)
    check_commit(ticks[0], theirs)
    check_answers(ticks[-1], cluster, i)
    check_departures(shape, ticks, cluster, theirs, i)
    groups = by_horizon(ticks)
    close(list(groups), [attempt.horizon_s for attempt in theirs.attempts], "horizons")
    for attempt, group in zip(theirs.attempts, groups.values(), strict=True):
        check_formation(shape, group, attempt, engine.config.max_num_batched_tokens)
    check_plan(shape, ticks[-1], theirs)
    check_totals(shape, state, ticks, engine, theirs)
    return theirs


def by_horizon(ticks: list[Seen]) -> dict[float, list[Seen]]:
    groups: dict[float, list[Seen]] = {}
    for seen in ticks:
        groups.setdefault(float(seen["begin_turn"]["before"].plan.horizon_s), []).append(seen)
    return groups


def check_begin_turn(ticks: list[Seen], i: int, theirs: RefTurn, cluster: Cluster) -> None:
    """The instance whose event comes first has its turn, and the next ticks continue it."""
    for seen in ticks:
        assert seen["begin_turn"]["i"] == i and bool(seen["begin_turn"]["due"])
        close(seen["begin_turn"]["before"].plan.end_s, theirs.now_s, "time of the turn")
        assert seen["route"]["state"].num_sent == cluster.num_sent


def check_commit(seen: Seen, theirs: RefTurn) -> None:
    """Requests in the step have computed its tokens; those that caught up got a token, and some their last one."""
    rank, slots = seen["commit"]["rank"], seen["commit"]["rank"].slots
    lives = {live.index: live for live in theirs.committed.running + theirs.committed.waiting}
    for at in range(int(rank.num_running + rank.num_preempted)):
        if (live := lives.get(int(slots.request[at]))) is not None:  # others have finished before
            assert (slots.num_computed_tokens[at], slots.num_tokens[at]) == (live.computed, live.target)
            assert slots.preemptions[at] == live.preemptions
            times_s = live.token_times_s or [inf]
            scheduled_s = inf if live.scheduled_s is None else live.scheduled_s
            ours = [slots.scheduled_s[at], slots.first_token_s[at], slots.token_s[at]]
            close(ours, [scheduled_s, times_s[0], times_s[-1]], "times of a request")
    assert {live.index for live in theirs.committed.running} <= set(slots.request.tolist())
    assert sorted(slots.request[seen["commit"]["emitted"].finished].tolist()) == sorted(theirs.finished)


def check_answers(seen: Seen, cluster: Cluster, i: int) -> None:
    """Clients send their next requests, and calls come due, some time after the answers to the requests that finished."""
    after, arrivals = deepcopy(cluster), seen["record"]["state"].arrivals
    engine = after.engines[i]
    now_s = engine.next_event_s()
    for request in engine.advance(now_s):
        after._reply(now_s + engine.config.api_post_s, i, request.index)
    while after.replies:
        after._answered(after.replies[0][0], heapq.heappop(after.replies)[-1])
    if isinstance(arrivals, ClosedLoop):
        close(
            np.sort(np.repeat(arrivals.send_s, np.where(np.isfinite(arrivals.send_s), arrivals.count, 0))),
            sorted(time_s for time_s, _ in after.sends),
            "clients",
        )
    if isinstance(arrivals, SessionCalls):
        due = {index: time_s for time_s, index in after.sends}
        assert np.flatnonzero(np.isfinite(arrivals.due_s[: len(after.requests)])).tolist() == sorted(due)
        close([arrivals.due_s[index] for index in sorted(due)], [due[index] for index in sorted(due)], "calls")
        missing = [len({q for q, _ in request.waits_for} - set(after.reply_s)) for request in after.requests]
        assert arrivals.missing[: len(missing)].tolist() == missing


def check_departures(shape: EngineShape, ticks: list[Seen], cluster: Cluster, theirs: RefTurn, i: int) -> None:
    """Finished requests that the formation may know of leave, one a tick, and have their outcome; the others keep their order."""
    post_s = theirs.after.config.api_post_s
    lives = {live.index: live for live in theirs.committed.running} | {
        index: live for index, (live, _) in cluster.live.items() if live.finished
    }
    num_finished = int(ticks[0]["route"]["state"].num_finished)
    for seen in ticks:
        before, after, departed = seen["answer"]["rank"], seen["depart"]["rank"], seen["depart"]["departed"]
        slots, inside = before.slots, int(before.num_running + before.num_preempted)
        horizon_s = before.plan.horizon_s
        leaves = [at for at in range(inside) if slots.num_tokens[at] >= slots.final_tokens[at] and slots.token_s[at] <= horizon_s]
        kept = [int(slots.request[at]) for at in range(inside) if at not in leaves[:1]]
        assert bool(departed.some) == bool(leaves)
        assert after.slots.request[: int(after.num_running + after.num_preempted)].tolist() == kept
        if leaves:
            num_finished += 1
            index = int(slots.request[leaves[0]])
            assert departed.request == index
            live = lives[index]
            outcome = dict(zip(recorded(RequestLog, shape), seen["end_turn"]["state"].outcome[index], strict=True))
            assert (outcome["instance"], outcome["preemptions"]) == (i, live.preemptions)
            assert outcome.get("cached_tokens", 0) == live.cached_tokens
            times = (live.scheduled_s, live.token_times_s[0] + post_s, live.token_times_s[-1] + post_s)
            close([outcome[name] for name in ("scheduled_s", "first_token_s", "finish_s")], times, "outcome")
        assert seen["end_turn"]["state"].num_finished == num_finished


def check_formation(shape: EngineShape, ticks: list[Seen], theirs: Attempt, most_tokens: int) -> None:
    """Tokens for the running requests, then preemption from the tail, then admission until something runs out."""
    first = next(seen for seen in ticks if not bool(seen["depart"]["waits"]))
    asked, stay, formed = first["schedule_running"], first["preempt"], ticks[-1]["admit_waiting"]
    assert new_tokens(asked["rank"]) == theirs.asked
    formation = asked["formation"]
    assert (formation.token_budget, formation.seats, formation.blocks) == (theirs.asked_budget, theirs.asked_seats, theirs.asked_blocks)

    rank, formation = stay["rank"], stay["formation"]
    assert new_tokens(rank) == theirs.stay and [int(rank.slots.request[at]) for at in preempted(rank)] == theirs.victims
    assert (formation.token_budget, formation.blocks) == (theirs.budget, theirs.blocks)
    assert bool(formation.preempted) == theirs.preempted

    rank, formation = formed["rank"], formed["formation"]
    slots = rank.slots
    scheduled = [(int(slots.request[at]), int(slots.num_new_tokens[at]), int(slots.num_computed_tokens[at])) for at in running(rank)]
    assert scheduled == theirs.scheduled
    assert (formation.seats, formation.blocks) == (theirs.seats, theirs.step_blocks)
    assert formation.token_budget == most_tokens - sum(new for _, new, _ in theirs.scheduled)
    for seen in ticks:
        assert seen["admit_waiting"]["rank"].num_running - seen["preempt"]["rank"].num_running <= shape.window


def check_plan(shape: EngineShape, seen: Seen, theirs: RefTurn) -> None:
    """The step that was formed, and as many decode steps after it as the plan leaps over; or a sleep until a request comes."""
    rank, engine = seen["plan_next"]["rank"], theirs.after
    plan, step = rank.plan, engine.step
    preempted = [live for live in engine.waiting if live.scheduled_s is not None]
    close(plan.start_s, theirs.now_s, "start")
    assert plan.preempted == len(preempted)
    assert plan.preempted_tokens == sum(live.target for live in preempted)
    assert plan.kv_tokens == sum(live.computed for live in engine.running)
    if step is None:
        assert plan.steps == 0 and bool(plan.open)
        close([plan.end_s, plan.horizon_s], [engine.next_event_s()] * 2, "sleep")
        return
    assert (plan.tokens, plan.running, plan.blocks) == (sum(step.new_tokens), step.running, theirs.attempts[-1].step_blocks)
    close(plan.start_s + plan.first_s, step.end_s, "first step")
    assert plan.steps == 1 or shape.leap
    for _ in range(int(plan.steps) - 1):
        engine.advance(engine.next_event_s())
        assert engine.step is not None and engine.step.requests == step.requests and set(engine.step.new_tokens) == {1}
    assert engine.step is not None
    close(plan.end_s, engine.step.end_s, "end of the plan")
    close(plan.horizon_s, engine.step.start_s if engine.config.async_scheduling else engine.step.end_s, "horizon")


def check_totals(shape: EngineShape, state: ClusterState, ticks: list[Seen], engine: Any, theirs: RefTurn) -> None:
    """The rank is back among the others; ticks, steps and blocks are counted; the step that ended has its row in the log."""
    i, step, last = engine.index, theirs.step, ticks[-1]["record"]["state"]
    for ours, seen in zip(jax.tree.leaves(last.ranks), jax.tree.leaves(ticks[-1]["plan_next"]["rank"]), strict=True):
        np.testing.assert_array_equal(ours[i], seen)
    others = np.arange(shape.ranks) != i
    for ours, before in zip(jax.tree.leaves(last.ranks), jax.tree.leaves(state.ranks), strict=True):
        np.testing.assert_array_equal(ours[others], np.asarray(before)[others])
    assert last.ticks == state.ticks + len(ticks) and last.steps == state.steps + (step is not None)
    peak = np.array(state.peak_blocks)
    if step is not None:
        peak[i] = max(peak[i], state.ranks.plan.blocks[i], num_held(engine))
    np.testing.assert_array_equal(last.peak_blocks, peak)
    logs = [seen["record"]["log"] for seen in ticks]
    assert [int(log.count) for log in logs] == [int(step is not None)] + [0] * (len(ticks) - 1)
    if step is not None:
        rank = ticks[0]["begin_turn"]["before"]
        unseen_left = isinstance(state.kv, PrefixCache) and len(running(rank)) < rank.num_running
        check_row(dict(zip(recorded(LeapLog, shape), logs[0].rows[0], strict=True)), engine, theirs, unseen_left)


def check_row(row: dict[str, float], engine: Any, theirs: RefTurn, unseen_left: bool) -> None:
    step = theirs.step
    assert step is not None
    emitting = [live for live, new in theirs.batch if live.computed + new == live.target]
    decodes = [live for live in emitting if live.token_times_s and live.token_times_s[-1] == step.start_s]
    resumed = [live for live in emitting if live.token_times_s and live not in decodes]
    prompt = sum(new for live, new in theirs.batch if live not in decodes)
    close([row["start_s"], row["first_step_s"]], [step.start_s, engine.config.step_time(step_batch(theirs))], "times of the step")
    counts = {"steps": 1, "prompt_tokens": prompt, "first_outputs": len(emitting), "decodes": len(decodes), "outputs": 0}
    counts |= {"instance": engine.index, "resumed": len(resumed), "running": step.running}
    counts |= {"preempted": sum(live.scheduled_s is not None for live in engine.waiting)}
    assert {name: row[name] for name in counts} == counts
    # In a prefix cache the blocks of a request that finished unseen count until it leaves the slots, a step later.
    assert row["kv_blocks_last"] == num_held(engine) or (unseen_left and row["kv_blocks_last"] > num_held(engine))
    gaps_s = sum(step.end_s - live.token_times_s[-1] for live in resumed)
    np.testing.assert_allclose(row["resumed_gap_s"], gaps_s, rtol=1e-9, atol=1e-12)


def step_batch(theirs: RefTurn) -> list[tuple[int, int]]:
    return [(new, live.computed) for live, new in theirs.batch]


# ---- the reference up to an event, and the engine with it


@dataclasses.dataclass(frozen=True)
class Case:
    """A scenario whose reference stands after some step, its replies and the arrivals before the next event included."""

    shape: EngineShape
    params: ClusterParams
    cluster: Cluster
    state: ClusterState


def cases(scenario: Scenario, data: st.DataObject, **changes: Any) -> Iterator[Case]:
    """The scenario after a few of its steps, drawn; sometimes requests that finished unseen are still in their slots."""
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    shape, params, cluster = scenario.shape(log_rows=2, **changes), scenario.params(), scenario.reference_cluster()
    for step in sorted({data.draw(st.integers(0, len(theirs.steps) - 1)) for _ in range(EVENTS)}):
        cluster.run(step)
        before, ended = [list(engine.running) for engine in cluster.engines], [len(engine.ended) for engine in cluster.engines]
        cluster.run(step + 1)
        now = settled(cluster, shape)
        lives = {index: live for index, (live, _) in now.live.items()}
        before = {i: [lives[live.index] for live in mine] for i, mine in enumerate(before)}
        left = {i: unseen(before[i], engine) for i, engine in enumerate(now.engines) if len(engine.ended) > ended[i]}
        left = left if data.draw(st.booleans()) else {}
        while shape.live_routing and next_send_s(now) <= next_end_s(now) and next_send_s(now) < inf:
            send(now)
        if next_end_s(now) < inf:
            yield Case(shape, params, now, inject(shape, params, now, left, before))


def check_cases(scenario: Scenario, data: st.DataObject, **changes: Any) -> None:
    for case in cases(scenario, data, **changes):
        ticks = take_turn(case.shape, case.params, case.state)
        check_turn(case.shape, case.state, ticks, case.cluster)


class TestATurn:
    @given(scenario=scenarios(), data=st.data())
    @FEW
    def test_step_by_step(self, scenario: Scenario, data: st.DataObject):
        check_cases(scenario, data, leap=False)

    @given(scenario=scenarios(), data=st.data())
    @FEW
    def test_with_leaps(self, scenario: Scenario, data: st.DataObject):
        check_cases(scenario, data)

    @given(scenario=scenarios(instances=2, closed=True), data=st.data())
    @FEW
    def test_of_two_ranks_with_clients(self, scenario: Scenario, data: st.DataObject):
        check_cases(scenario, data, stale_view=True, clients=CLIENTS)

    @given(scenario=sharing(instances=2, sessions=True), data=st.data())
    @FEW
    def test_of_two_ranks_with_sessions(self, scenario: Scenario, data: st.DataObject):
        check_cases(without_caches(scenario), data, stale_view=True)

    @given(scenario=sharing(), data=st.data())
    @settings(FEW, max_examples=12)  # each runs the engine from the start
    def test_with_a_prefix_cache(self, scenario: Scenario, data: st.DataObject):
        """The engine comes to the event by its own ticks; its cache holds, frees and loses as many blocks as the reference's pool."""
        theirs = scenario.run_reference()
        assume(not undecided(scenario, theirs))
        shape, params, cluster = scenario.shape(log_rows=2, leap=False), scenario.params(), scenario.reference_cluster()
        cluster = settled(cluster, shape)
        state = start(shape, params)
        for step in sorted({data.draw(st.integers(0, len(theirs.steps) - 1)) for _ in range(EVENTS)}):
            cluster.run(step)
            while state.steps < step or not (state.ranks.plan.steps[0] > 0 or state.ranks.plan.open[0]):
                state = tick_once(shape, params, state)
            host = jax.device_get(state)
            check_cache(host, cluster.engines[0])
            ticks = take_turn(shape, params, state)
            check_cache(ticks[-1]["record"]["state"], check_turn(shape, host, ticks, cluster).after)


def without_caches(scenario: Scenario) -> Scenario:
    limits = tuple(dataclasses.replace(x, enable_prefix_caching=False) for x in scenario.limits)
    router = {RouterPolicy.LONGEST_PREFIX: RouterPolicy.SESSION_AFFINITY}.get(scenario.router, scenario.router)
    return dataclasses.replace(scenario, limits=limits, contents=None, router=router)


def check_cache(state: ClusterState, engine: RefEngine) -> None:
    """The free queue, of blocks with a name and without, and the blocks that were lost.

    A request that finished unseen leaves a step later. Blocks that were never used are at the head of the reference's queue.
    """
    assert isinstance(state.kv, PrefixCache)
    pool, theirs, rank = jax.tree.map(lambda x: x[0], state.kv.pool), engine.pool, jax.tree.map(lambda x: x[0], state.ranks)
    assert pool.books[BOOKS.index("num_evicted")] == theirs.evictions
    if len(running(rank)) == rank.num_running:
        queue, run = [], pool.runs[0, NEXT]
        while run > 0:
            assert pool.runs[run, REF] == 0
            queue += [pool.runs[run, NODE] != NAMELESS] * (pool.runs[run, END] - pool.runs[run, FIRST])
            run = pool.runs[run, NEXT]
        assert len(queue) == pool.books[BOOKS.index("num_free")]
        wanted = [theirs.names[block] is not None for block in theirs.free]
        assert queue == wanted[len(wanted) - len(queue) :] and not any(wanted[: len(wanted) - len(queue)])


# ---- the router


def check_route(case: Case) -> None:
    """The rank that the reference chooses gets the request, and its plan ends when the request may join."""
    cluster = deepcopy(case.cluster)
    arrival_s, index = next_send_s(cluster), send(cluster)
    live, chosen = cluster.live[index]
    after = stages(case.shape, case.params, case.state)["route"]["state"]
    before, i = case.state, chosen.index
    assert after.num_sent == cluster.num_sent
    wanted = np.array(before.routes)
    wanted[i, before.ranks.tail[i]] = index
    last = case.shape.requests + case.shape.window - 1
    np.testing.assert_array_equal(after.routes[:, :last], wanted[:, :last])
    mine = np.arange(case.shape.ranks) == i
    np.testing.assert_array_equal(after.ranks.tail, before.ranks.tail + mine)
    np.testing.assert_array_equal(after.ranks.queued_tokens, before.ranks.queued_tokens + mine * live.prompt_tokens)
    close(after.arrivals.arrived_s[index], arrival_s, "arrival")
    assert cluster.view is not None
    assert after.view.seen_s == cluster.view.time_s
    close(after.view.load, cluster.view.load, "load")
    close(after.view.kv_load, cluster.view.kv, "KV load")
    np.testing.assert_array_equal(after.ranks.plan.end_s, [engine.next_event_s() for engine in cluster.engines])
    if isinstance(after.arrivals, ClosedLoop):
        assert after.arrivals.count[np.isfinite(after.arrivals.send_s)].sum() == len(cluster.sends)


def arrivals_of(scenario: Scenario, data: st.DataObject, **changes: Any) -> Iterator[Case]:
    """The scenario just before some of its arrivals."""
    theirs = scenario.run_reference()
    assume(not undecided(scenario, theirs))
    shape, params, cluster = scenario.shape(log_rows=2, **changes), scenario.params(), scenario.reference_cluster()
    for step in sorted({data.draw(st.integers(0, len(theirs.steps) - 1)) for _ in range(EVENTS)}):
        cluster.run(step)
        now = settled(cluster, shape)
        sent = 0
        while next_send_s(now) <= next_end_s(now) and next_send_s(now) < inf and sent < EVENTS:
            yield Case(shape, params, now, inject(shape, params, now))
            send(now)
            sent += 1


class TestARoute:
    @given(scenario=scenarios(instances=2, closed=True), data=st.data())
    @FEW
    def test_of_a_client(self, scenario: Scenario, data: st.DataObject):
        for case in arrivals_of(scenario, data, stale_view=True, clients=CLIENTS):
            check_route(case)

    @given(scenario=sharing(instances=2, sessions=True), data=st.data())
    @FEW
    def test_of_a_call_of_a_session(self, scenario: Scenario, data: st.DataObject):
        for case in arrivals_of(without_caches(scenario), data, stale_view=True):
            check_route(case)
