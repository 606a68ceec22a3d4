"""A literal replay of one vLLM V1 engine, a step at a time, for experiments that the product's engine has no switch for.

It shares the step costs with simjax and nothing else: without prefix caching and on its own clock it must give simjax's times (the study
checks that first). Switches: prefix caching (real block hashes), asynchronous scheduling, and a clock that is set to the measured time
whenever a step ends that gave some request its first or last token (`Measured`): the schedule then is the measured one, and the times
between two such anchors test the step costs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from experiments.validation.blocks import BlockPool, Chain

Work = list[tuple[int, int]]  # (new, computed) of the requests in a step
Late = Callable[[int, int], float]  # by scheduled tokens and chunks -> seconds
Price = Callable[[Work], tuple[float, float]]  # -> seconds, of which attention


@dataclass(frozen=True)
class Limits:
    """vLLM's flags of the engine; `num_blocks` are the usable ones."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    async_scheduling: bool = True
    prefix_caching: bool = False


@dataclass(frozen=True)
class Measured:
    """What was measured, in seconds on the simulation's clock, and how it guides a replay.

    With it the clock is set to every known end of a step, and a request leaves at the measured time of its last token. When the first
    tokens come is left to the scheduler: it is the test.

    first_s, last_s: float64[R], when the engine gave each request its first and its last token.
    ends_s: float64[B], increasing: all moments known to be the end of a step (the engine takes requests in only between steps).
    late_s: by how much a step with so many scheduled tokens and chunks is later than its price; only used to count the steps between
        two known moments, which a biased price would miscount.
    startup_s: how long the very first step waited to be launched (kernels that were compiled or loaded only then).
    slack_s: a request whose queue stamp is this much after a formation was still seen by it (the stamp comes from the scheduler itself).
    """

    first_s: np.ndarray
    last_s: np.ndarray
    ends_s: np.ndarray
    late_s: Late = lambda tokens, chunks: 0.0
    startup_s: float = 0.0
    slack_s: float = 2e-3
    by_count: bool = True

    def end(self, now_s: float, price_s: float, work: Work, given_s: np.ndarray) -> tuple[float, bool]:
        """When the step ends, and whether that is known: the next known end unless it is much later than expected."""
        if self.by_count and len(given_s):
            return float(np.median(given_s)), float(np.ptp(given_s)) < self.slack_s
        chunks = sum(new > 1 for new, _ in work)
        expected = now_s + price_s + self.late_s(sum(new for new, _ in work), chunks)
        at = int(np.searchsorted(self.ends_s, now_s + self.slack_s))
        known = at < len(self.ends_s) and self.ends_s[at] < expected + (0.3 if chunks else 0.5) * price_s
        return (float(self.ends_s[at]) if known else expected), known


@dataclass(eq=False)
class Live:
    """A request inside the engine."""

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
    """Every step, one entry each: start, end and predicted duration (of which attention), what was in it, whether the end is measured."""

    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    price_s: list[float] = field(default_factory=list)
    attention_s: list[float] = field(default_factory=list)
    horizon_s: list[float] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)
    chunks: list[int] = field(default_factory=list)
    decodes: list[int] = field(default_factory=list)
    decode_kv: list[int] = field(default_factory=list)
    known: list[bool] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)

    def array(self, name: str) -> np.ndarray:
        return np.asarray(getattr(self, name))


@dataclass(frozen=True)
class Replay:
    """What happened: times float64[R] on the engine's clock, counts, and the steps.

    formed_s: when the step that first held a request was formed. tokens: given until the end. first_step: the step that gave the first of them. hit_tokens: found in the cache at first admission; rehit_tokens,
    recomputed_tokens: found, and computed again, after preemptions.
    """

    scheduled_s: np.ndarray
    formed_s: np.ndarray
    first_s: np.ndarray
    last_s: np.ndarray
    tokens: np.ndarray
    first_step: np.ndarray
    preemptions: np.ndarray
    hit_tokens: np.ndarray
    rehit_tokens: int
    recomputed_tokens: int
    steps: Steps


class Engine:
    """The state of the replay. `running` is in admission order, `waiting` has the preempted ones at its head."""

    def __init__(self, limits: Limits, price: Price, queued_s: np.ndarray, requests: list[Live], measured: Measured | None):
        self.limits, self.price = limits, price
        self.pool = BlockPool(limits.num_blocks, limits.prefix_caching)
        self.queued_s, self.requests, self.arrived = queued_s, requests, 0
        self.running: list[Live] = []
        self.waiting: list[Live] = []
        self.steps = Steps()
        blank = np.full(len(requests), np.nan)
        self.scheduled_s, self.formed_s, self.first_s, self.last_s = blank.copy(), blank.copy(), blank.copy(), blank.copy()
        self.hit_tokens = np.zeros(len(requests), np.int64)
        self.rehit_tokens = self.recomputed_tokens = 0
        self.clock = measured
        self.tokens = np.zeros(len(requests), np.int64)
        self.first_step = np.zeros(len(requests), np.int64)

    def run(self) -> Replay:
        now, previous = float(self.queued_s[0]), None
        while self.arrived < len(self.requests) or self.waiting or self.running:
            horizon = now if previous is None or not self.limits.async_scheduling else previous
            batch = self._form(now, horizon)
            finished = [r for r in self.running if r.done]
            for request in finished:  # an asynchronous scheduler hears of them after it has formed the step
                self.running.remove(request)
                self.pool.release(request.index)
            if not batch:
                if horizon == now and not finished and self.arrived < len(self.requests):
                    now = max(now, float(self.queued_s[self.arrived]))
                previous = None  # nothing was in sight: look again with open eyes
                continue
            if self.clock is not None and not self.steps.end_s:
                now += self.clock.startup_s
            previous, now = now, self._execute(batch, now, horizon)
        preemptions = np.array([r.preemptions for r in self.requests])
        times = (self.scheduled_s, self.formed_s, self.first_s, self.last_s)
        return Replay(
            *times, self.tokens, self.first_step, preemptions, self.hit_tokens, self.rehit_tokens, self.recomputed_tokens, self.steps
        )

    def _form(self, now: float, horizon: float) -> list[tuple[Live, int]]:
        if not self.limits.async_scheduling:
            for request in [r for r in self.running if r.done]:
                self.running.remove(request)
                self.pool.release(request.index)
        slack = 0.0 if self.clock is None else self.clock.slack_s
        while self.arrived < len(self.requests) and self.queued_s[self.arrived] <= horizon + slack:
            self.waiting.append(self.requests[self.arrived])
            self.arrived += 1
        batch, budget, preempted = self._schedule_running()
        if not preempted:
            batch += self._schedule_waiting(budget, now, horizon)
        for request, new in batch:
            full = (request.computed + new) // self.limits.block_size
            self.pool.remember(request.index, request.chain, min(full, len(request.chain)))
        return batch

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
            batch.append((request, new))
            budget -= new
        return batch, budget, preempted

    def _preempt(self) -> Live:
        victim = next(r for r in reversed(self.running) if not r.done)
        self.running.remove(victim)
        self.pool.release(victim.index)
        victim.computed, victim.preemptions = 0, victim.preemptions + 1
        self.waiting.insert(0, victim)
        return victim

    def _schedule_waiting(self, budget: int, now: float, horizon: float) -> list[tuple[Live, int]]:
        batch: list[tuple[Live, int]] = []
        while self.waiting and budget > 0 and len(self.running) < self.limits.max_num_seqs:
            request = self.waiting[0]
            hit = self.pool.hit(request.chain, (request.target - 1) // self.limits.block_size)
            if self.pool.lacks(hit, self._blocks(request.target)):
                break
            found = len(hit) * self.limits.block_size
            new = min(request.target - found, budget)
            self.pool.start(request.index, hit)
            assert self.pool.grow(request.index, self._blocks(found + new))
            request.computed = found
            if np.isnan(self.scheduled_s[request.index]):
                self.scheduled_s[request.index], self.formed_s[request.index] = now, horizon
                self.hit_tokens[request.index] = found
            else:
                self.rehit_tokens += found
                self.recomputed_tokens += request.target - found
            self.running.append(self.waiting.pop(0))
            batch.append((request, new))
            budget -= new
        return batch

    def _execute(self, batch: list[tuple[Live, int]], now: float, horizon: float) -> float:
        """Run a formed step and return its end."""
        work = [(new, request.computed) for request, new in batch]
        seconds, attention_s = self.price(work)
        end, known = now + seconds, False
        if self.clock is not None:
            tokens = [r for r, new in batch if r.computed + new == r.target]
            given = [self.clock.first_s[r.index] for r in tokens if r.generated == 0]
            given += [self.clock.last_s[r.index] for r in tokens if r.generated + 1 == r.output]
            end, known = self.clock.end(now, seconds, work, np.array(given))
        for request, new in batch:
            request.computed += new
            if request.computed < request.target:
                continue
            request.generated += 1
            if request.generated == 1:
                self.first_s[request.index], self.first_step[request.index] = end, len(self.steps.end_s)
            request.done = (
                request.generated == request.output
                if self.clock is None or self.clock.by_count
                else end >= self.clock.last_s[request.index] - 1e-6
            )
            if request.done:
                self.last_s[request.index], self.tokens[request.index] = end, request.generated
        decodes = [computed for new, computed in work if new == 1]
        prefill = [new for new, _ in work if new > 1]
        row = (now, end, seconds, attention_s, horizon, sum(prefill), len(prefill), len(decodes), sum(decodes), known, work)
        for name, value in zip(Steps.__dataclass_fields__, row, strict=True):
            getattr(self.steps, name).append(value)
        return end


def replay(
    limits: Limits,
    price: Price,
    queued_s: np.ndarray,
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    chains: list[Chain] | None = None,
    measured: Measured | None = None,
) -> Replay:
    """Replay requests (in queue order) through one engine.

    Args:
        limits: the engine.
        price: seconds of a step.
        queued_s: float64[R], when each request reached the engine.
        prompt_tokens, output_tokens: int[R].
        chains: block hashes of each request's prompt and output, for prefix caching.
        measured: set the clock by these times.
    """
    known = chains or [()] * len(queued_s)
    requests = [Live(i, int(p), int(o), known[i]) for i, (p, o) in enumerate(zip(prompt_tokens, output_tokens, strict=True))]
    return Engine(limits, price, queued_s, requests, measured).run()
