"""The cluster: a router and an event loop over instances. `simulate` is the entry point.

Events are handled in time order. At equal times: replies to clients, then arrivals (by request index), then instances (by index). An
instance's event is atomic: the end of its step and the formation that follows. A request sent at the very time of a reply is therefore
routed after the formation of the instance that replied, and before the events that instances of a higher index have at that time. The
router's view follows from that order: of the formations at the time of an arrival it sees only those that led to the arrival.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import floor, inf

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep
from tests.reference.pool import Name, chain_names, count_known

POLICIES = ("round_robin", "random", "least_loaded", "least_kv", "longest_prefix", "session_affinity", "weighted")


@dataclass(frozen=True)
class RefRequest:
    """A request. A closed loop uses `arrival_s` of the first `concurrency` requests only. `uniform` in [0, 1) drives policy "random".

    `content`: the token ids of prompt and output; None: not shared with any other request.
    `waits_for`: pairs (request, delay_s). If there are any, the request is sent at the maximum of "reply at the client + delay_s" over
    them and of `not_before_s`, and `arrival_s` is not used. A refusal counts as an immediate reply. `session`: number shared by the calls
    of a session; -1: none. `model`: number of the model that it is for; -1: any.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    uniform: float = 0.0
    content: tuple[int, ...] | None = None
    waits_for: tuple[tuple[int, float], ...] = ()
    session: int = -1
    not_before_s: float = 0.0
    model: int = -1

    def __post_init__(self) -> None:
        assert self.prompt_tokens >= 1 and self.output_tokens >= 1, self
        assert self.content is None or len(self.content) == self.prompt_tokens + self.output_tokens, "not one token id per token"
        assert all(delay_s >= 0 for _, delay_s in self.waits_for), self


@dataclass(frozen=True)
class RefOutcome:
    """The outcome of a request. Times of events that did not happen are None, and `instance` is -1 if it was not routed.

    `arrival_s`, `first_token_s`, `finish_s` and `token_times_s` are on the client's clock, `scheduled_s` on the instance's.
    `status`: "finished", "unfinished" (the run was cut, or its instance can never schedule it) or "rejected" (no instance can hold it).
    """

    status: str
    instance: int = -1
    arrival_s: float | None = None
    scheduled_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    preemptions: int = 0
    token_times_s: tuple[float, ...] = ()
    cached_tokens: int = 0  # prompt tokens hit at the first admission


@dataclass(frozen=True)
class RefActivity:
    """Totals of one instance over its ended steps; 0 where it took none."""

    busy_s: float
    prefill_tokens: int
    decode_tokens: int
    step_tokens_min: int
    step_tokens_max: int
    step_sequences_min: int
    step_sequences_max: int

    @staticmethod
    def of(steps: Sequence[RefStep]) -> RefActivity:
        tokens, sequences = [sum(step.new_tokens) for step in steps], [step.running for step in steps]
        return RefActivity(
            busy_s=sum(step.end_s - step.start_s for step in steps),
            prefill_tokens=sum(step.prefill_tokens for step in steps),
            decode_tokens=sum(step.decodes for step in steps),
            step_tokens_min=min(tokens, default=0),
            step_tokens_max=max(tokens, default=0),
            step_sequences_min=min(sequences, default=0),
            step_sequences_max=max(sequences, default=0),
        )


@dataclass(frozen=True)
class RefResult:
    activity: list[RefActivity]  # by instance
    requests: list[RefOutcome]
    steps: list[RefStep]  # every step that ended, in order of start time, then instance
    evictions: list[int]  # by instance: number of names of cached blocks that were lost because the block was needed


@dataclass(frozen=True)
class RefRouter:
    """Routing policy. The instance with the lowest score of those that can hold the request wins; ties are broken in turn.

    round_robin, random: no score. least_loaded: (4 waiting + running) / max_num_seqs. least_kv: `kv_tokens` / tokens that the pool holds.
    longest_prefix: minus the hit tokens that the request would have there now.
    session_affinity: the instance of the last sent call of the session; if there is none that can hold the request, as least_loaded.
    weighted: prefix_weight * (1 - hit tokens / prompt tokens) + queue_weight * least_loaded's score + kv_weight * least_kv's.
    The router's view of the instances is that of its last look: at an arrival (even one that is refused) it looks again before deciding,
    if that look is at least `staleness_s` old. Its own decisions it knows at once.
    """

    policy: str = "round_robin"
    prefix_weight: float = 1.0
    queue_weight: float = 1.0
    kv_weight: float = 1.0
    staleness_s: float = 0.0

    def __post_init__(self) -> None:
        assert self.policy in POLICIES, self.policy
        assert self.staleness_s >= 0, self


@dataclass(frozen=True)
class View:
    """The router's view of the instances, by index, at its last look."""

    time_s: float
    load: list[float]
    kv: list[float]
    known: list[frozenset[Name]]  # names in the prefix cache

    @staticmethod
    def of(engines: Sequence[RefEngine], now: float) -> View:
        return View(
            time_s=now,
            load=[(4 * engine.num_waiting() + engine.num_running()) / engine.config.max_num_seqs for engine in engines],
            kv=[engine.kv_tokens() / (engine.config.num_blocks * engine.config.block_size) for engine in engines],
            known=[frozenset(engine.pool.named) for engine in engines],
        )


class Cluster:
    """The state of a run."""

    def __init__(
        self,
        instances: Sequence[RefInstance],
        requests: Sequence[RefRequest],
        router: RefRouter,
        concurrency: int | None,
        think_s: float,
        max_concurrency: int | None = None,
        ramp_s: float = 0.0,
    ):
        assert max_concurrency is None or (max_concurrency >= 1 and concurrency is None and not any(x.waits_for for x in requests))
        assert think_s >= 0 and (concurrency is None or concurrency >= 1)
        assert concurrency is None or not any(request.waits_for for request in requests), "a closed loop or sessions, not both"
        self.engines = [RefEngine(index, config) for index, config in enumerate(instances)]
        self.requests = requests
        self.router = router
        self.closed_loop = concurrency is not None
        self.think_s = think_s
        self.max_concurrency, self.ramp_s, self.last_reply_s = max_concurrency, ramp_s, -inf
        # What clients will send, and when. In a closed loop any client may send any request: they are numbered in the order they are sent.
        self.sends = [(request.arrival_s, index) for index, request in enumerate(requests[:concurrency]) if not request.waits_for]
        heapq.heapify(self.sends)
        self.num_sent = 0
        self.followers: dict[int, list[int]] = {index: [] for index in range(len(requests))}
        for index, request in enumerate(requests):
            for before in {before for before, _ in request.waits_for}:
                self.followers[before].append(index)
        self.replies: list[tuple[float, int, int, int]] = []  # (client time, instance, running number, request)
        self.num_replies = 0
        self.reply_s: dict[int, float] = {}
        self.num_routed = 0
        self.view: View | None = None
        self.home: dict[int, RefEngine] = {}  # the instance of the last sent call, by session
        self.arrival_s: dict[int, float] = {}
        self.live: dict[int, tuple[Live, RefEngine]] = {}  # routed requests

    def run(self, max_steps: int) -> None:
        clock = -inf
        while sum(len(engine.ended) for engine in self.engines) < max_steps:
            reply_s = self.replies[0][0] if self.replies else inf
            send_s = self._next_send_s()
            engine = min(self.engines, key=lambda engine: engine.next_event_s())  # on ties the lowest index
            now = min(reply_s, send_s, engine.next_event_s())
            if now == inf:
                for engine in self.engines:
                    engine.pool.check_all_free()
                return
            assert now >= clock, "time runs backwards"
            clock = now
            if reply_s == now:
                _, _, _, index = heapq.heappop(self.replies)
                self._answered(now, index)
            elif send_s == now:
                _, index = heapq.heappop(self.sends)
                self._route(now, self.num_sent if self.closed_loop else index)
                self.num_sent += 1
            else:
                for request in engine.advance(now):
                    self._reply(now + engine.config.api_post_s, engine.index, request.index)

    def _next_send_s(self) -> float:
        """When the next request is sent. With a cap that is when its time has come and fewer requests are in flight than the cap allows.

        The cap is 1 at first and one more every `ramp_s / max_concurrency`, so it allows one more than `in_flight` from
        `in_flight * ramp_s / max_concurrency` on; and a number in flight that has just fallen did so at the last reply.
        """
        if not self.sends or self.num_sent == len(self.requests):
            return inf
        due_s, _ = self.sends[0]
        if self.max_concurrency is None:
            return due_s
        in_flight = self.num_sent - len(self.reply_s)
        if in_flight == self.max_concurrency:
            return inf
        return max(due_s, self.last_reply_s, self.ramp_s * in_flight / self.max_concurrency)

    def _reply(self, client_s: float, instance: int, index: int) -> None:
        heapq.heappush(self.replies, (client_s, instance, self.num_replies, index))
        self.num_replies += 1

    def _answered(self, now: float, index: int) -> None:
        """A client gets a reply: it sends the requests that wait for it, or, in a closed loop, the next request after its think time."""
        self.reply_s[index] = self.last_reply_s = now
        if self.closed_loop:
            heapq.heappush(self.sends, (now + self.think_s, 0))
        for follower in self.followers[index]:
            waits_for = self.requests[follower].waits_for
            if all(before in self.reply_s for before, _ in waits_for):
                answers = [self.reply_s[before] + delay_s for before, delay_s in waits_for]
                heapq.heappush(self.sends, (max(*answers, self.requests[follower].not_before_s), follower))

    def _route(self, now: float, index: int) -> None:
        request = self.requests[index]
        self.arrival_s[index] = now
        if self.view is None or now - self.view.time_s >= self.router.staleness_s:
            self.view = View.of(self.engines, now)
        eligible = [engine for engine in self.engines if engine.config.serves(request.prompt_tokens, request.output_tokens)]
        eligible = [engine for engine in eligible if request.model in (-1, engine.config.model)]
        if not eligible:  # refused at once; it does not count as routed
            self._reply(now, -1, index)
            return
        count = len(eligible)  # an instance that cannot hold the request takes no part in its round
        # Instances of one model take turns among themselves: a request's turn is its place among those that name the same model.
        several = len({engine.config.model for engine in self.engines}) > 1
        turn = sum(other.model == request.model for other in self.requests[:index]) if several else self.num_routed
        start = floor(request.uniform * count) if self.router.policy == "random" else turn % count
        scores = {engine: self._score(engine, index, self.view) for engine in eligible}
        engine = min(eligible, key=lambda engine: (scores[engine], (eligible.index(engine) - start) % count))
        if self.router.policy == "session_affinity" and self.home.get(request.session) in eligible:
            engine = self.home[request.session]
        if request.session >= 0:
            self.home[request.session] = engine
        names = self._names(index, engine) if engine.config.enable_prefix_caching else []
        live = Live(index, request.prompt_tokens, request.output_tokens, now + engine.config.api_pre_s, names)
        engine.enqueue(live)
        self.live[index] = (live, engine)
        self.num_routed += 1

    def _score(self, engine: RefEngine, index: int, view: View) -> float:
        router, prompt_tokens = self.router, self.requests[index].prompt_tokens
        if router.policy in ("least_loaded", "session_affinity"):
            return view.load[engine.index]
        if router.policy == "least_kv":
            return view.kv[engine.index]
        if router.policy == "longest_prefix":
            return -self._hit_tokens(engine, index, view)
        if router.policy == "weighted":
            missed = 1 - self._hit_tokens(engine, index, view) / prompt_tokens
            return router.prefix_weight * missed + router.queue_weight * view.load[engine.index] + router.kv_weight * view.kv[engine.index]
        return 0.0

    def _hit_tokens(self, engine: RefEngine, index: int, view: View) -> int:
        """Hit tokens of a new request, as the instance would look them up."""
        block_size = engine.config.block_size
        names = self._names(index, engine)[: (self.requests[index].prompt_tokens - 1) // block_size]
        return count_known(names, view.known[engine.index]) * block_size

    def _names(self, index: int, engine: RefEngine) -> list[Name]:
        request = self.requests[index]
        token_ids: tuple[Hashable, ...] | None = request.content
        if token_ids is None:
            token_ids = tuple((index, position) for position in range(request.prompt_tokens + request.output_tokens))
        return chain_names(token_ids, engine.config.block_size)

    def outcome(self, index: int) -> RefOutcome:
        if index not in self.arrival_s:
            return RefOutcome("unfinished")
        if index not in self.live:
            return RefOutcome("rejected", arrival_s=self.arrival_s[index])
        live, engine = self.live[index]
        tokens = tuple(time + engine.config.api_post_s for time in live.token_times_s)
        return RefOutcome(
            status="finished" if live.finished else "unfinished",
            instance=engine.index,
            arrival_s=self.arrival_s[index],
            scheduled_s=live.scheduled_s,
            first_token_s=tokens[0] if tokens else None,
            finish_s=tokens[-1] if live.finished else None,
            preemptions=live.preemptions,
            token_times_s=tokens,
            cached_tokens=live.cached_tokens,
        )


def simulate(
    instances: Sequence[RefInstance],
    requests: Sequence[RefRequest],
    policy: str = "round_robin",
    concurrency: int | None = None,
    think_s: float = 0.0,
    max_steps: int = 1_000_000,
    *,
    prefix_weight: float = 1.0,
    queue_weight: float = 1.0,
    kv_weight: float = 1.0,
    router_staleness_s: float = 0.0,
    max_concurrency: int | None = None,
    ramp_s: float = 0.0,
) -> RefResult:
    """Run `requests` through a cluster of `instances` behind one router (see `RefRouter`).

    Open loop (`concurrency` None): every request arrives at its `arrival_s`, or after those that it waits for; with `max_concurrency` a
    client whose requests wait, in order, while as many are in flight, a cap that grows evenly from 1 over `ramp_s`. Closed loop: the first
    `concurrency` requests arrive at theirs, and each reply at the client sends the next one `think_s` later. The run stops when there are
    no more events or when `max_steps` steps have ended in the cluster.
    """
    router = RefRouter(policy, prefix_weight, queue_weight, kv_weight, router_staleness_s)
    cluster = Cluster(instances, requests, router, concurrency, think_s, max_concurrency, ramp_s)
    cluster.run(max_steps)
    steps = sorted((step for engine in cluster.engines for step in engine.ended), key=lambda step: (step.start_s, step.instance))
    outcomes = [cluster.outcome(index) for index in range(len(requests))]
    activity = [RefActivity.of(engine.ended) for engine in cluster.engines]
    return RefResult(activity, outcomes, steps, [engine.pool.evictions for engine in cluster.engines])
