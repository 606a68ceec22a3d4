"""A literal replay of one vLLM V1 instance, step by step, for experiments for which simjax has no switch.

It shares the step times with simjax and nothing else: without prefix caching and on its own clock it must give simjax's times, which
`causes.py` checks first. Switches: prefix caching (real block hashes), asynchronous scheduling, and a clock that follows measured stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from blocks import BlockPool, Chain
from clock import Measured, Work

Timing = Callable[[Work], float]  # seconds of a step


@dataclass(frozen=True)
class Limits:
    """vLLM's flags of the instance; `num_blocks` counts the usable ones.

    prefix_caching: "off"; "on"; "first" or "again": only first admissions, or only those after a preemption, find blocks.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    async_scheduling: bool = True
    prefix_caching: str = "off"


@dataclass(eq=False)
class Live:
    """A request in the instance."""

    index: int
    prompt: int
    output: int
    chain: Chain
    computed: int = 0
    generated: int = 0
    preemptions: int = 0
    done: bool = False

    @property
    def target(self) -> int:
        return self.prompt + self.generated


@dataclass
class Steps:
    """Every step, one entry each: its end, its predicted time, its contents, and whether its end is measured."""

    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    predicted_s: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def array(self, name: str) -> np.ndarray:
        return np.asarray(getattr(self, name))

    def add(self, *row: object) -> None:
        for name, value in zip(Steps.__dataclass_fields__, row, strict=True):
            getattr(self, name).append(value)


@dataclass(frozen=True)
class Replay:
    """The outcome, as arrays over the R requests, on the instance's clock.

    formed_s: formation of the step that first held the request. first_s, last_s: times of its first and last token. first_step: the step
    that gave the first token. preemptions: number for each request. hit_tokens: cached tokens at its first admission. recomputed_tokens:
    tokens computed again after preemptions, all requests together.
    """

    formed_s: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray
    first_step: np.ndarray
    preemptions: np.ndarray
    hit_tokens: np.ndarray
    recomputed_tokens: int
    steps: Steps


class Instance:
    """The state of the replay. `running` is in admission order, `waiting` has the preempted ones at its head."""

    def __init__(self, limits: Limits, timing: Timing, queued_s: np.ndarray, requests: list[Live], clock: Measured | None):
        self.limits, self.timing, self.clock = limits, timing, clock
        self.pool = BlockPool(limits.num_blocks, limits.prefix_caching != "off")
        self.queued_s, self.requests, self.arrived = queued_s, requests, 0
        self.running: list[Live] = []
        self.waiting: list[Live] = []
        self.steps = Steps()
        self.formed_s, self.first_s, self.last_s = (np.full(len(requests), np.nan) for _ in range(3))
        self.first_step, self.hit_tokens = np.zeros(len(requests), int), np.zeros(len(requests), int)
        self.recomputed_tokens = 0

    def run(self) -> Replay:
        now, previous = float(self.queued_s[0]), None
        while self.arrived < len(self.requests) or self.waiting or self.running:
            horizon = now if previous is None or not self.limits.async_scheduling else previous
            if not self.limits.async_scheduling:
                self._let_go()
            batch = self._form(horizon)
            left = self._let_go()  # an asynchronous scheduler learns of finished requests only after it has formed the step
            if not batch:
                if horizon == now and not left and self.arrived < len(self.requests):
                    now = max(now, float(self.queued_s[self.arrived]))
                previous = None  # nothing to schedule: look again with up-to-date knowledge
                continue
            if self.clock is not None and not self.steps.end_s:
                now += self.clock.startup_s
            previous, now = now, self._execute(batch, now)
        preemptions = np.array([request.preemptions for request in self.requests])
        times = (self.formed_s, self.first_s, self.last_s)
        return Replay(*times, self.first_step, preemptions, self.hit_tokens, self.recomputed_tokens, self.steps)

    def _let_go(self) -> bool:
        finished = [request for request in self.running if request.done]
        for request in finished:
            self.running.remove(request)
            self.pool.release(request.index)
        return bool(finished)

    def _form(self, horizon: float) -> list[tuple[Live, int]]:
        slack = 0.0 if self.clock is None else self.clock.slack_s
        while self.arrived < len(self.requests) and self.queued_s[self.arrived] <= horizon + slack:
            self.waiting.append(self.requests[self.arrived])
            self.arrived += 1
        batch, budget, preempted = self._schedule_running()
        if not preempted:
            batch += self._schedule_waiting(budget, horizon)
        return batch

    def _remember(self, request: Live, new: int) -> None:
        """Register the blocks that the step will fill; they can be found at once, even by requests admitted to the same step."""
        full = (request.computed + new) // self.limits.block_size
        self.pool.remember(request.index, request.chain, min(full, len(request.chain)))

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def _schedule_running(self) -> tuple[list[tuple[Live, int]], int, bool]:
        batch: list[tuple[Live, int]] = []
        budget, preempted, slot = self.limits.max_num_batched_tokens, False, 0
        while slot < len(self.running) and budget > 0:
            request = self.running[slot]
            slot += 1
            if request.done:
                continue
            new, victim = min(request.target - request.computed, budget), None
            while victim is not request and not self.pool.grow(request.index, self._blocks(request.computed + new)):
                victim, preempted = self._preempt(), True
            if victim is request:
                break
            self._remember(request, new)
            batch.append((request, new))
            budget -= new
        return batch, budget, preempted

    def _preempt(self) -> Live:
        """Preempt the last admitted request; one that has finished without the scheduler's knowledge leaves for good."""
        victim = self.running.pop()
        self.pool.release(victim.index)
        if not victim.done:
            victim.computed, victim.preemptions = 0, victim.preemptions + 1
            self.waiting.insert(0, victim)
        return victim

    def _schedule_waiting(self, budget: int, horizon: float) -> list[tuple[Live, int]]:
        batch: list[tuple[Live, int]] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            again = request.preemptions > 0
            looks = self.limits.prefix_caching in ("on", "again" if again else "first")
            hit = self.pool.hit(request.chain, (request.target - 1) // self.limits.block_size) if looks else []
            if self.pool.lacks(hit, self._blocks(request.target)):
                break
            found = len(hit) * self.limits.block_size
            new = min(request.target - found, budget)
            self.pool.start(request.index, hit)
            assert self.pool.grow(request.index, self._blocks(found + new))
            request.computed = found
            self._remember(request, new)
            if again:
                self.recomputed_tokens += request.target - found
            else:
                self.formed_s[request.index], self.hit_tokens[request.index] = horizon, found
            self.running.append(self.waiting.pop(0))
            batch.append((request, new))
            budget -= new
        return batch

    def _execute(self, batch: list[tuple[Live, int]], now: float) -> float:
        """Run a formed step and return its end."""
        work = [(new, request.computed) for request, new in batch]
        predicted_s = self.timing(work)
        answered = [request for request, new in batch if request.computed + new == request.target]
        end, known = now + predicted_s, False
        if self.clock is not None:
            given = [float(self.clock.first_s[r.index]) for r in answered if r.generated == 0]
            given += [float(self.clock.last_s[r.index]) for r in answered if r.generated + 1 == r.output]
            end, known = self.clock.end(now, predicted_s, work, given)
        for request, new in batch:
            request.computed += new
        for request in answered:
            self._give_token(request, end)
        tokens, chunks = sum(new for new, _ in work), sum(new > 1 for new, _ in work)
        self.steps.add(now, end, predicted_s, tokens, chunks, known, work)
        return end

    def _give_token(self, request: Live, end: float) -> None:
        request.generated += 1
        if request.generated == 1:
            self.first_s[request.index], self.first_step[request.index] = end, len(self.steps.end_s)
        if self.clock is None:
            request.done = request.generated == request.output
        else:
            request.done = self.clock.leaves(request.index, request.generated, request.output, end)
        if request.done:
            self.last_s[request.index] = end


def replay(
    limits: Limits,
    timing: Timing,
    queued_s: np.ndarray,
    lengths: tuple[np.ndarray, np.ndarray],
    chains: Sequence[Chain] | None = None,
    clock: Measured | None = None,
) -> Replay:
    """Replay requests, in queue order, through one instance.

    Args:
        limits: flags of the instance.
        timing: function that gives the seconds of a step.
        queued_s: float64[R], time at which each request reached the instance.
        lengths: int[R] each, prompt and output tokens.
        chains: block hashes of each request's prompt and output, for prefix caching.
        clock: measured stamps to follow.
    """
    known = chains or [()] * len(queued_s)
    requests = [Live(i, int(p), int(o), known[i]) for i, (p, o) in enumerate(zip(*lengths, strict=True))]
    return Instance(limits, timing, queued_s, requests, clock).run()
