"""The reference's state in the middle of a run as the engine's, and what both make of its next event, stage by stage."""

from __future__ import annotations

import dataclasses
import heapq
from copy import deepcopy
from functools import cache, partial
from math import inf
from typing import Any

import jax
import numpy as np

from simjax.engine import tick
from simjax.engine.accounting.leap_log import empty_log
from simjax.engine.arrivals.closed_loop import ClosedLoop
from simjax.engine.arrivals.sessions import SessionCalls
from simjax.engine.handover.passes import NoPasses
from simjax.engine.kv.held_blocks import NoHeldBlocks
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.flight import NoFlight
from simjax.engine.pipeline.line import NoLine
from simjax.engine.programs import Effort
from simjax.engine.rank import Plan, Rank, Slots
from simjax.engine.routing.books import ActiveWork, NoBooks, RouterBooks
from simjax.engine.routing.view import RouterView
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import NoDrafts
from simjax.engine.state import ClusterState, initial_state
from simjax.engine.turn import LATER, Turn
from tests.reference.instance import Live, RefEngine, RefStep
from tests.reference.simulator import Cluster

Seen = dict[str, dict[str, Any]]  # the fields of the turn after every stage of a tick


# ---- the reference up to some moment


def settled(cluster: Cluster, shape: EngineShape) -> Cluster:
    """A copy that knows what follows from the replies on their way, and, without live routing, the ranks of all requests."""
    cluster = deepcopy(cluster)
    while cluster.replies:
        reply_s, _, _, index = heapq.heappop(cluster.replies)
        cluster._answered(reply_s, index)
    while not shape.live_routing and next_send_s(cluster) < inf:
        send(cluster)
    return cluster


def next_send_s(cluster: Cluster) -> float:
    return cluster.sends[0][0] if cluster.sends and cluster.num_sent < len(cluster.requests) else inf


def next_end_s(cluster: Cluster) -> float:
    return min(engine.next_event_s() for engine in cluster.engines)


def send(cluster: Cluster) -> int:
    """Let the next request arrive, and give its index."""
    now, index = heapq.heappop(cluster.sends)
    index = cluster.num_sent if cluster.closed_loop else index
    cluster._route(now, index)
    cluster.num_sent += 1
    return index


def unseen(before: list[Live], engine: RefEngine) -> list[Live]:
    """Requests that finished while a step was formed that did not know of it; the engine may have them in its slots still.

    Args:
        before: requests that ran before the engine's latest event.
        engine: the engine after it.
    """
    formed_unseen = engine.step is not None and engine.step.horizon_s < engine.step.start_s
    preempted = any(request.scheduled_s is not None for request in engine.waiting)
    return [request for request in before if request.finished] if formed_unseen and not preempted else []


# ---- the engine's state


def inject(
    shape: EngineShape,
    params: ClusterParams,
    cluster: Cluster,
    left: dict[int, list[Live]] | None = None,
    before: dict[int, list[Live]] | None = None,
) -> ClusterState:
    """The engine's state for a settled cluster between two events, leaves as numpy arrays.

    Args:
        shape: static sizes, without prefix caching.
        params: parameters of the scenario.
        cluster: the reference.
        left: by rank, finished requests (`unseen`) that are still in the slots.
        before: by rank, the requests that ran before the latest event, in slot order; needed for ranks in `left`.
    """
    left, before = left or {}, before or {}
    ranks = [_rank(shape, engine, left.get(i, []), before.get(i, [])) for i, engine in enumerate(cluster.engines)]
    routed = [[index for index, (_, engine) in cluster.live.items() if engine is mine] for mine in cluster.engines]
    waiting = [[live for live in engine.waiting + engine.incoming if live.scheduled_s is None] for engine in cluster.engines]
    ranks = jax.tree.map(lambda *x: np.stack(x), *ranks)
    head = np.array([len(mine) - len(new) for mine, new in zip(routed, waiting, strict=True)], np.int32)
    queued = [sum(live.prompt_tokens for live in new) if shape.live_routing else 0 for new in waiting]
    ranks = dataclasses.replace(
        ranks, head=head, tail=np.array([len(mine) for mine in routed], np.int32), queued_tokens=np.array(queued, np.int64)
    )
    state = _empty(shape, params)
    routes = np.zeros_like(state.routes)
    for i, mine in enumerate(routed):
        if shape.has_routes:
            routes[i, : len(mine)] = mine
    finished = sum(live.finished for live, _ in cluster.live.values()) - sum(map(len, left.values()))
    view = state.view
    if isinstance(view, RouterView) and cluster.view is not None:
        seen = (np.float64(cluster.view.time_s), np.array(cluster.view.load, np.float64), np.array(cluster.view.kv, np.float64))
        waiting = np.array(cluster.view.waiting, np.int32) if shape.router_books else None
        view = RouterView(*seen, contents=view.contents, waiting=waiting)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(
        state,
        ranks=ranks,
        routes=routes,
        arrivals=_arrivals(shape, params, cluster),
        view=view,
        books=_books(state.books, cluster, left),
        num_sent=np.int32(cluster.num_sent),
        num_finished=np.int32(finished),
        steps=np.int64(sum(len(engine.ended) for engine in cluster.engines)),
    )


def _books(books: RouterBooks | NoBooks, cluster: Cluster, left: dict[int, list[Live]]) -> RouterBooks | NoBooks:
    """The router's books: all requests that were routed, but for those that have left the slots."""
    if isinstance(books, NoBooks):
        return books
    rows = []
    for i, mine in enumerate(cluster.engines):
        there = [live for live, engine in cluster.live.values() if engine is mine and (not live.finished or live in left.get(i, []))]
        blocks = [mine.config.blocks(live.prompt_tokens) for live in there]
        rows.append((sum(live.prompt_tokens for live in there), sum(blocks), len(there)))
    tokens, blocks, requests = np.array(rows).T
    return RouterBooks(ActiveWork(tokens.astype(np.int64), blocks.astype(np.int64), requests.astype(np.int32)))  # pyright: ignore[reportArgumentType]


@cache
def _empty_of(shape: EngineShape, structure: Any, shapes: tuple) -> ClusterState:
    zeros = jax.tree.unflatten(structure, [np.zeros(*x) for x in shapes])
    return jax.tree.map(np.array, jax.jit(partial(initial_state, shape))(zeros))


def _empty(shape: EngineShape, params: ClusterParams) -> ClusterState:
    leaves, structure = jax.tree.flatten(params)
    return _empty_of(shape, structure, tuple((np.shape(x), np.asarray(x).dtype) for x in leaves))


def _rank(shape: EngineShape, engine: RefEngine, left: list[Live], before: list[Live]) -> Rank:
    """One rank; its queue is filled in by `inject`."""
    new = {live.index: tokens for live, tokens in engine.batch}
    running = [live for live in before if live in engine.running or live in left] if left else []
    running += [live for live in engine.running if live not in running]
    preempted = [live for live in engine.waiting if live.scheduled_s is not None]
    assert preempted == engine.waiting[: len(preempted)], "a preempted request is not at the head of the queue"
    inside = running + preempted

    def column(values: list[Any], fill: float, dtype: type) -> Any:
        return np.array(values + [fill] * (shape.seats - len(values)), dtype)

    times = [live.token_times_s for live in inside]
    slots = Slots(
        request=column([live.index for live in inside], shape.requests, np.int32),
        num_computed_tokens=column([live.computed for live in inside], 0, np.int32),
        num_tokens=column([live.target for live in inside], 0, np.int32),
        final_tokens=column([live.prompt_tokens + live.output_tokens for live in inside], 0, np.int32),
        num_new_tokens=column([new.get(live.index, 0) for live in inside], 0, np.int32),
        preemptions=column([live.preemptions for live in inside], 0, np.int32),
        scheduled_s=column([live.scheduled_s for live in inside], inf, np.float64),
        first_token_s=column([x[0] if x else inf for x in times], inf, np.float64),
        token_s=column([x[-1] if x else inf for x in times], inf, np.float64),
        held=NoHeldBlocks(),
        flight=NoFlight(),
        drafts=NoDrafts(),
        last_tokens=None,
        answered=column([live.finished for live in inside], False, np.bool_) if shape.fanout else None,
    )
    i32, f64 = np.int32, np.float64
    step, asynchronous, end_s = engine.step, engine.config.async_scheduling, engine.next_event_s()
    start_s, horizon_s, first_s = 0.0, end_s, 0.0
    if step is not None:
        start_s = step.start_s
        horizon_s = start_s if asynchronous else end_s
        first_s = engine.config.step_time([(tokens, live.computed) for live, tokens in engine.batch])
    plan = Plan(
        start_s=f64(start_s),
        end_s=f64(end_s),
        horizon_s=f64(horizon_s),
        first_s=f64(first_s),
        next_s=f64(0),
        slope_s=f64(0),
        steps=i32(step is not None),
        open=np.bool_(True),
        tokens=i32(sum(new.values())),
        running=i32(engine.num_running()),
        preempted=i32(len(preempted)),
        blocks=i32(num_held(engine)),
        kv_tokens=np.int64(sum(live.computed for live in engine.running)),
        preempted_tokens=np.int64(sum(live.target for live in preempted)),
        cached_blocks=None,
    )
    zero = i32(0)
    return Rank(slots, plan, i32(len(running)), i32(len(preempted)), zero, zero, np.int64(0), NoPasses(), NoLine(), None)


def _arrivals(shape: EngineShape, params: ClusterParams, cluster: Cluster) -> Any:
    arrived_s = np.full(shape.requests, inf)
    for index, arrival_s in cluster.arrival_s.items():
        arrived_s[index] = arrival_s
    flying = [index for index, (live, _) in cluster.live.items() if not live.finished]
    if shape.clients:
        send_s, client = np.full(shape.clients, inf), np.zeros(shape.requests, np.int32)
        send_s[: len(cluster.sends)] = sorted(time_s for time_s, _ in cluster.sends)
        client[flying] = len(cluster.sends) + np.arange(len(flying))  # clients have no identity in the reference
        return ClosedLoop(send_s, client, arrived_s)  # pyright: ignore[reportArgumentType]
    if not shape.fanout:
        return _empty(shape, params).arrivals
    sessions = params.requests.sessions
    assert sessions is not None
    due_s, ready_s, home = np.full(shape.requests, inf), np.zeros(shape.requests), np.full(shape.requests, -1, np.int32)
    missing = np.array(sessions.predecessors[0])
    for time_s, index in cluster.sends:
        due_s[index] = time_s
    for index, request in enumerate(cluster.requests):
        answers = [cluster.reply_s[q] + delay_s for q, delay_s in request.waits_for if q in cluster.reply_s]
        ready_s[index] = max(answers, default=0.0) if not request.waits_for else max(*answers, request.not_before_s, 0.0)
        missing[index] -= len(answers)
        if (engine := cluster.home.get(request.session)) is not None:
            home[sessions.session[0, index]] = engine.index
    return SessionCalls(due_s, ready_s, missing, arrived_s, home, None)  # pyright: ignore[reportArgumentType]


# ---- one turn of a rank, in both


def _stages(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Seen:
    turn, seen = Turn(state, empty_log(shape)), {}
    for stage in tick.STAGES:
        turn = stage(shape, params, turn)
        fields = {x.name: getattr(turn, x.name) for x in dataclasses.fields(turn)}
        seen[stage.__name__] = {name: value for name, value in fields.items() if value is not LATER and name != "limits"}
    return seen


@cache
def _jitted_stages() -> Callable[..., Seen]:
    return jax.jit(_stages, static_argnums=0, compiler_options=Effort.BRIEF.options())


def stages(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Seen:
    """One tick: the fields of the turn after every stage, on the host."""
    return jax.device_get(_jitted_stages()(shape, params, state))


def tick_once(shape: EngineShape, params: ClusterParams, state: ClusterState) -> ClusterState:
    """The state after one tick, on the device."""
    return _jitted_stages()(shape, params, state)["record"]["state"]


def take_turn(shape: EngineShape, params: ClusterParams, state: ClusterState) -> list[Seen]:
    """The ticks until the rank that is due next has a step, or sleeps."""
    ticks: list[Seen] = []
    while len(ticks) < 60:
        ticks.append(stages(shape, params, state))
        state, i = ticks[-1]["record"]["state"], int(ticks[-1]["begin_turn"]["i"])
        plan = state.ranks.plan
        if plan.steps[i] > 0 or plan.open[i]:
            return ticks
    raise AssertionError("the turn does not end")


def num_held(engine: RefEngine) -> int:
    return engine.pool.num_blocks - engine.pool.num_free


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One formation of the reference.

    Attributes:
        horizon_s: it sees requests queued up to this time.
        asked: (request, new tokens) of the running ones if the KV cache had room for all, with `asked_budget` tokens left, `asked_seats`
            seats taken and `asked_blocks` blocks held.
        stay, budget, blocks: (request, new tokens) of those that stay when the tail has been preempted, tokens left, blocks held.
        victims: preempted requests in their order at the head of the queue.
        preempted: whether a request was preempted in this formation.
        scheduled: (request, new tokens, computed tokens) of the whole step.
        seats, step_blocks: seats and blocks taken once it is formed.
    """

    horizon_s: float
    asked: list[tuple[int, int]]
    asked_budget: int
    asked_seats: int
    asked_blocks: int
    stay: list[tuple[int, int]]
    budget: int
    blocks: int
    victims: list[int]
    preempted: bool
    scheduled: list[tuple[int, int, int]]
    seats: int
    step_blocks: int


@dataclasses.dataclass(frozen=True)
class RefTurn:
    """The next event of one instance, taken apart.

    Attributes:
        now_s: time of the event.
        step: step that ended, None if the instance slept; with its `batch` of (request before it, new tokens).
        committed: the instance just after the step; `finished`: requests that got their last token.
        attempts: formations at this event.
        after: the instance after the event.
    """

    now_s: float
    step: RefStep | None
    batch: list[tuple[Live, int]]
    committed: RefEngine
    finished: list[int]
    attempts: list[Attempt]
    after: RefEngine


def reference_turn(engine: RefEngine) -> RefTurn:
    """What `RefEngine.advance` does, with copies from between its parts."""
    now_s, step, batch = engine.next_event_s(), engine.step, deepcopy(engine.batch)
    after = deepcopy(engine)
    after.advance(now_s)
    working, sampled, attempts = deepcopy(engine), [], []
    if step is not None:
        sampled = working._end_step()
    finished = [request for request in sampled if request.finished]
    committed = deepcopy(working)
    if step is not None and engine.config.async_scheduling:
        working.in_flight = sampled
        attempts.append(_attempt(working, step.start_s))
        working.in_flight = []
    working._settle(sampled)
    if not (attempts and attempts[0].scheduled):
        attempts.append(_attempt(working, now_s))
    return RefTurn(now_s, step, batch, committed, [request.index for request in finished], attempts, after)


def _attempt(engine: RefEngine, horizon_s: float) -> Attempt:
    """The parts of `RefEngine._form`; the engine is changed as by them."""
    engine.drain(horizon_s)
    engine.alone = engine.is_alone()
    roomy = deepcopy(engine)
    more = 10_000
    roomy.pool.free.update(dict.fromkeys(range(roomy.pool.num_blocks, roomy.pool.num_blocks + more)))
    roomy.pool.refs += [0] * more
    roomy.pool.names += [None] * more
    roomy.pool.num_blocks += more
    asked, asked_budget, _ = roomy._schedule_running()
    batch, budget, preempted = engine._schedule_running()
    stay, blocks = [(live.index, new) for live, new in batch], num_held(engine)
    victims = [live.index for live in engine.waiting if live.scheduled_s is not None]
    if not preempted:
        batch += engine._schedule_waiting(budget)
    return Attempt(
        horizon_s=horizon_s,
        asked=[(live.index, new) for live, new in asked],
        asked_budget=asked_budget,
        asked_seats=len(roomy.running),
        asked_blocks=num_held(roomy),
        stay=stay,
        budget=budget,
        blocks=blocks,
        victims=victims,
        preempted=preempted,
        scheduled=[(live.index, new, live.computed) for live, new in batch],
        seats=len(engine.running),
        step_blocks=num_held(engine),
    )
