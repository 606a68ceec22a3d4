"""A rank whose layers are spread over pipeline stages: vLLM's engine loop with a queue of batches, pass by pass and in real time.

The scheduler is that of `RefEngine`, but tokens count as computed from the call of `schedule()` on, so that the chunks of one prompt follow
each other through the stages. A request whose token is in flight is passed over by a synchronous scheduler; an asynchronous one (vLLM's
second model runner) takes it again after as many calls as there are stages. A preempted request waits until all that it has in flight has
come back, and others overtake it meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import inf

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep


@dataclass(frozen=True)
class RefPipeline:
    """The stages of an instance.

    `stage_times` are step times as of `RefInstance`, one a stage. `send_s` gives the seconds in which so many tokens' hidden states reach
    the next stage; `broadcast_s` is the time until sampled tokens are at the first stage, which an asynchronous scheduler leaves to the
    devices. A pass that runs nothing although requests are left is followed by a sleep of `empty_pass_s`.
    """

    stage_times: tuple[Callable[[list[tuple[int, int]]], float], ...]
    send_s: Callable[[int], float] = lambda tokens: 0.0
    broadcast_s: float = 0.0
    empty_pass_s: float = 0.0

    @property
    def stages(self) -> int:
        return len(self.stage_times)


@dataclass(eq=False)
class FlyingBatch:
    """What a call of `schedule()` sent through the stages; it may be empty. `end_s`: its tokens are sampled."""

    tokens: list[tuple[Live, int]]
    sampled: list[Live]
    end_s: float
    step: RefStep | None


class PipelineRank(RefEngine):
    """A pipelined rank. `generated` counts the tokens that have come back."""

    def __init__(self, index: int, config: RefInstance):
        super().__init__(index, config)
        assert config.pipeline is not None
        self.pipeline = config.pipeline
        self.most_batches = self.pipeline.stages + config.async_scheduling
        self.call = 0
        self.eligible: dict[int, int] = {}  # first call that may decode a request again
        self.ready_s: dict[int, float] = {}  # time from which the first stage has its latest token
        self.queue: deque[FlyingBatch] = deque()  # oldest first
        self.stage_free_s = [-inf] * self.pipeline.stages
        self.clock = -inf
        self.empty_calls = 0  # in a row
        self.just_ended = False  # vLLM schedules once more after the end of a request
        self.out: list[Live] = []
        self.loop = self._loop()
        self.due_s = next(self.loop)

    # ---- for the router and the event loop

    def num_running(self) -> int:
        return len(self.running)

    def kv_tokens(self) -> int:
        """Tokens of the running requests, in flight included, and those that waiting ones need."""
        return self.held_tokens() + sum(live.target for live in self.waiting + self.incoming)

    def held_tokens(self) -> int:
        """Tokens of the running requests, in flight included."""
        return sum(live.computed for live in self.running)

    def next_event_s(self) -> float:
        if self.due_s is not None:
            return self.due_s
        return max(self.incoming[0].queue_s, self.clock) if self.incoming else inf

    def advance(self, now: float) -> list[Live]:
        """Go on with the loop at `now`. Returns the requests that ended."""
        self.due_s = self.loop.send(now)
        self._check()
        out, self.out = self.out, []
        return out

    # ---- the loop. It yields the time at which it goes on; None: when a request is queued.

    def _loop(self) -> Generator[float | None, float, None]:
        while True:
            if (not self._has_requests() and not self.queue) or self._stuck():
                self.clock = yield None
            self.drain(self.clock)
            ran = yield from self._pass()
            if not ran and self._has_requests() and self.pipeline.empty_pass_s > 0:
                self.clock = yield self.clock + self.pipeline.empty_pass_s

    def _pass(self) -> Generator[float, float, bool]:
        """Schedule a batch, and wait for the oldest one if there is no place for a further one. Returns whether the batch ran."""
        ran = False
        if self._has_requests():
            batch = self._call()
            ran = bool(batch.tokens)
            self.queue.append(batch)
            if len(self.queue) < self.most_batches and (ran or self._has_requests()):
                return ran  # filling the queue comes before reading results
        oldest = self.queue.popleft()
        if oldest.end_s > self.clock:
            self.clock = yield oldest.end_s
        self._update(oldest)
        return ran

    def _has_requests(self) -> bool:
        return bool(self.waiting or self.running or self.just_ended)

    def _stuck(self) -> bool:
        """Whether nothing is in flight and calls find nothing to run: a prompt that may not be split exceeds the budget."""
        return self.empty_calls > 2 * self.most_batches

    def _call(self) -> FlyingBatch:
        """`schedule()`, and the batch's way through the stages."""
        self.call += 1
        self.alone = self.is_alone()
        tokens, budget, preempted = self._schedule_running()
        self._look_at(tokens)
        if not preempted:
            tokens += self._schedule_waiting(budget)
        self.just_ended = False
        self.empty_calls = 0 if tokens else self.empty_calls + 1
        if not tokens:
            return FlyingBatch([], [], self.clock, None)
        start_s, end_s = self._through_stages(tokens)
        sampled = self._count(tokens)
        for live, _ in tokens:
            if live.scheduled_s is None:
                live.scheduled_s = start_s
        for live in sampled:
            self.eligible[live.index] = self.call + self.pipeline.stages
            self.ready_s[live.index] = end_s + self.pipeline.broadcast_s
        step = RefStep(
            instance=self.index,
            start_s=start_s,
            end_s=end_s,
            horizon_s=self.clock,
            requests=tuple(live.index for live, _ in tokens),
            new_tokens=tuple(new for _, new in tokens),
            running=len(self.running),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct([live.index for live in self.running]),
        )
        return FlyingBatch(tokens, sampled, end_s, step)

    def _through_stages(self, tokens: list[tuple[Live, int]]) -> tuple[float, float]:
        """Start on the first stage and end on the last one; a stage has one batch at a time."""
        batch, count = self._rows(tokens), sum(new for _, new in tokens)
        start_s = max(self.clock, self.stage_free_s[0])
        if self.config.async_scheduling:  # the device waits for the tokens that it decodes from
            start_s = max([start_s, *(self.ready_s.get(live.index, -inf) for live, _ in tokens)])
        first_s = end_s = start_s
        for stage, time in enumerate(self.pipeline.stage_times):
            come_s = end_s + self.pipeline.send_s(count) if stage else end_s
            end_s = max(come_s, self.stage_free_s[stage]) + time(batch)
            self.stage_free_s[stage] = end_s
        return first_s, end_s

    @staticmethod
    def _rows(tokens: list[tuple[Live, int]]) -> list:
        """What the time of a batch depends on."""
        return [(new, live.computed) for live, new in tokens]

    def _count(self, tokens: list[tuple[Live, int]]) -> list[Live]:
        """Count the tokens of a batch as computed; returns the requests for which it samples."""
        sampled = [live for live, new in tokens if live.computed + new == live.target + self._placeholders(live)]
        for live, new in tokens:
            live.computed += new
        return sampled

    def _update(self, batch: FlyingBatch) -> None:
        """`update_from_output()`: tokens come back, also those of requests that were preempted meanwhile."""
        for live in batch.sampled:
            tokens = self._tokens_of(live)
            live.token_times_s += [self.clock] * tokens
            live.generated += tokens
            if live in self.running:
                self._name_up_to(live, live.target - 1)
            if live.ended:
                self._end(live)
        if batch.step is not None:
            self.ended.append(batch.step)

    def _tokens_of(self, live: Live) -> int:
        """Tokens of a request in the batch that is back."""
        return 1

    def _end(self, live: Live) -> None:
        (self.running if live in self.running else self.waiting).remove(live)
        self.pool.release(live.index)
        self.just_ended = True
        self.out.append(live)

    # ---- the scheduler

    def _placeholders(self, live: Live) -> int:
        return sum(live in batch.sampled for batch in self.queue)

    def _in_flight(self, live: Live) -> bool:
        return any(live is other for batch in self.queue for other, _ in batch.tokens)

    def _wanted(self, request: Live) -> int:
        """Tokens that a request would compute in this call; those with none are passed over."""
        placeholders = self._placeholders(request) if self.config.async_scheduling else 0
        if placeholders and request.generated + placeholders >= request.output_tokens:
            return 0
        return 0 if self._too_early(request) else self._need(request, request.computed - placeholders)

    def _look_at(self, tokens: list[tuple[Live, int]]) -> None:
        """Note what the waiting requests depend on: the running ones in the batch."""

    def _too_early(self, request: Live) -> bool:
        """Whether too few calls have passed since a request was decoded."""
        return self.config.async_scheduling and self.call < self.eligible.get(request.index, 0)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        self.ready_s.pop(victim.index, None)

    def _schedule_waiting(self, budget: int) -> list[tuple[Live, int]]:
        """Admission in FCFS order, but for preempted requests with anything in flight."""
        batch: list[tuple[Live, int]] = []
        flying = [live for live in self.waiting if self._in_flight(live)]
        queue = [live for live in self.waiting if live not in flying]
        while queue and budget > 0 and len(self.running) < self.config.max_num_seqs:
            new = self._admit(queue[0], budget)
            if new == 0:
                break
            live = queue.pop(0)
            self.waiting.remove(live)
            self.running.append(live)
            batch.append((live, new))
            budget -= new
        return batch

    def _check(self) -> None:
        self.pool.check()
        self._check_names()
        assert set(self.pool.held) <= {live.index for live in self.running}, "a request outside running holds blocks"
        assert len(self.running) <= self.config.max_num_seqs
        assert len(self.queue) <= self.most_batches
        assert all(self._placeholders(live) <= 1 for live in self.running)
