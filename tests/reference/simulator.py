"""The cluster: a router and an event loop over instances. `simulate` is the entry point.

Events are handled in time order. At equal times: replies to a closed loop's clients, then arrivals (by request index), then instances
(by index). An instance's event is atomic: the end of its step and the formation that follows. A request sent at the very instant of a
reply is therefore routed after the formation of the instance that replied, and before the events that instances of a higher index have
at that instant.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, inf

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep

POLICIES = ("round_robin", "random", "least_loaded", "least_kv")


@dataclass(frozen=True)
class RefRequest:
    """A request. A closed loop reads `arrival_s` only of the first `concurrency` ones. `uniform` in [0, 1) drives policy "random"."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    uniform: float = 0.0


@dataclass(frozen=True)
class RefOutcome:
    """What became of a request. Times are None, and `instance` -1, for what did not happen.

    `arrival_s`, `first_token_s`, `finish_s` and `token_times_s` are on the client's clock, `scheduled_s` on the engine's.
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


@dataclass(frozen=True)
class RefResult:
    requests: list[RefOutcome]
    steps: list[RefStep]  # every step that ended, in order of start time, then instance


class Cluster:
    """The state of a run."""

    def __init__(
        self, instances: Sequence[RefInstance], requests: Sequence[RefRequest], policy: str, concurrency: int | None, think_s: float
    ):
        assert policy in POLICIES, policy
        assert think_s >= 0 and (concurrency is None or concurrency >= 1)
        assert all(request.prompt_tokens >= 1 and request.output_tokens >= 1 for request in requests)
        self.engines = [RefEngine(index, config) for index, config in enumerate(instances)]
        self.requests = requests
        self.policy = policy
        self.closed_loop = concurrency is not None
        self.think_s = think_s
        # When clients send next; requests are numbered in the order they are sent, whoever sends them.
        self.sends = [request.arrival_s for request in (requests if concurrency is None else requests[:concurrency])]
        heapq.heapify(self.sends)
        self.next_index = 0
        self.replies: list[tuple[float, int, int]] = []  # closed loop: (client time, instance, running number)
        self.num_replies = 0
        self.num_routed = 0
        self.arrival_s: dict[int, float] = {}
        self.live: dict[int, tuple[Live, RefEngine]] = {}  # routed requests

    def run(self, max_steps: int) -> None:
        clock = -inf
        while sum(len(engine.ended) for engine in self.engines) < max_steps:
            reply_s = self.replies[0][0] if self.replies else inf
            send_s = self.sends[0] if self.sends and self.next_index < len(self.requests) else inf
            engine = min(self.engines, key=lambda engine: engine.next_event_s())  # the first of equals: the lowest index
            now = min(reply_s, send_s, engine.next_event_s())
            if now == inf:
                for engine in self.engines:
                    engine.pool.check_all_free()
                return
            assert now >= clock, "time runs backwards"
            clock = now
            if reply_s == now:
                self._send_next(heapq.heappop(self.replies)[0])
            elif send_s == now:
                self._route(heapq.heappop(self.sends), self.next_index)
                self.next_index += 1
            else:
                for _ in engine.advance(now):
                    self._reply(now + engine.config.api_post_s, engine.index)

    def _reply(self, client_s: float, instance: int) -> None:
        if self.closed_loop:
            heapq.heappush(self.replies, (client_s, instance, self.num_replies))
            self.num_replies += 1

    def _send_next(self, client_s: float) -> None:
        """A client got its answer: it sends the next request after its think time."""
        heapq.heappush(self.sends, client_s + self.think_s)

    def _route(self, now: float, index: int) -> None:
        request = self.requests[index]
        self.arrival_s[index] = now
        eligible = [engine for engine in self.engines if engine.config.serves(request.prompt_tokens, request.output_tokens)]
        if not eligible:  # refused at once; it does not count as routed
            self._reply(now, -1)
            return
        count = len(self.engines)
        start = floor(request.uniform * count) if self.policy == "random" else self.num_routed % count
        engine = min(eligible, key=lambda engine: (self._score(engine), (engine.index - start) % count))
        live = Live(index, request.prompt_tokens, request.output_tokens, queue_s=now + engine.config.api_pre_s)
        engine.enqueue(live)
        self.live[index] = (live, engine)
        self.num_routed += 1

    def _score(self, engine: RefEngine) -> float:
        if self.policy == "least_loaded":
            return (4 * engine.num_waiting() + engine.num_running()) / engine.config.max_num_seqs
        if self.policy == "least_kv":
            return engine.kv_tokens() / (engine.config.num_blocks * engine.config.block_size)
        return 0.0

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
        )


def simulate(
    instances: Sequence[RefInstance],
    requests: Sequence[RefRequest],
    policy: str = "round_robin",
    concurrency: int | None = None,
    think_s: float = 0.0,
    max_steps: int = 1_000_000,
) -> RefResult:
    """Run `requests` through a cluster of `instances` behind one router.

    Open loop (`concurrency` None): every request arrives at its `arrival_s`. Closed loop: the first `concurrency` do, and each reply at the
    client sends the next one `think_s` later. The run stops when nothing is left to do or when `max_steps` steps have ended in the cluster.
    """
    cluster = Cluster(instances, requests, policy, concurrency, think_s)
    cluster.run(max_steps)
    steps = sorted((step for engine in cluster.engines for step in engine.ended), key=lambda step: (step.start_s, step.instance))
    return RefResult([cluster.outcome(index) for index in range(len(requests))], steps)
