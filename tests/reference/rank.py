"""A rank of a cluster with prefill and decode ranks: vLLM's engine loop, pass by pass and in real time.

The scheduler is that of `RefEngine`, and so are the requests, but a step is formed when vLLM's loop calls `schedule()`: with asynchronous
scheduling at the start of the step before. So tokens count as computed, and as generated, from the formation of their step on; clients get
them at its end. A request may hold blocks without running: while its KV cache is loaded, and until it has been read after its end.

A pass schedules, launches and polls; what it polled the scheduler is told with the pass's output. A pass that runs nothing although
requests are left is followed by a sleep. A poll of such a pass does not see what lands at that very time: the times of passes are sums of
sleeps, which are not exact in floating point. The poll at the launch of a step does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import inf

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep
from tests.reference.transfers import Transfer

TIE_S = 1e-9  # times this close are equal in the poll of a pass that runs nothing


@dataclass(eq=False)
class Leg(Live):
    """What a rank does for a request: all of it, its prefill or its decode.

    `loads`: its KV cache is to be moved here before it can run. `holds`: it keeps its blocks after its end until they have been read.
    `carried`: its first token comes with the KV cache. `generated` counts tokens in flight, `token_times_s` those that have come back.
    """

    transfer: Transfer = field(default_factory=lambda: Transfer(-1))
    loads: bool = False
    holds: bool = False
    carried: bool = False
    polled: bool = False
    told: bool = False
    computed_at_start: int = 0  # tokens computed before its first step
    last_new: int = 0  # tokens of its latest step
    end_s: float | None = None


@dataclass(frozen=True)
class RefPass:
    """A pass that ran a step, preempted a request, or polled a landing. All but times are request indices, and `free_blocks` a number."""

    formed_s: float
    start_s: float
    end_s: float
    tokens: dict[int, int]
    preempted: list[int]
    arrived: list[int]
    read: list[int]
    free_blocks: int


@dataclass(eq=False)
class Batch:
    """A pass on its way through the device."""

    end_s: float
    step: RefStep | None
    tokens: list[tuple[Leg, int]]
    sampled: list[Leg]
    arrived: list[Leg]  # loads that were there at its launch
    read: list[Leg]  # ended requests whose blocks had been read by then


class Rank(RefEngine):
    """`on_load(leg, blocks, now)` is called when blocks for a request's KV cache are there, `blocks` of them without content."""

    running: list[Leg]  # pyright: ignore[reportIncompatibleVariableOverride]
    waiting: list[Leg]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, index: int, config: RefInstance, empty_pass_s: float, on_load: Callable[[Leg, int, float], None]):
        super().__init__(index, config)
        assert empty_pass_s > 0, "passes without a sleep never end"
        self.empty_pass_s = empty_pass_s
        self.on_load = on_load
        self.loads: list[Leg] = []  # in the order they began
        self.holds: list[Leg] = []
        self.clock = -inf
        self.device_free_s = -inf
        self.queue: deque[Batch] = deque()  # launched and not delivered, oldest first
        self.just_ended = False  # vLLM schedules once more after the end of a request
        self.idle = 0  # passes in a row that ran nothing and brought no news
        self.sleeps = (-inf, 0)  # first and number of the present row of sleeps
        self.passes: list[RefPass] = []
        self.out: list[Leg] = []  # ended since the rank was last called
        self.loop = self._loop()
        self.due_s = next(self.loop)

    # ---- for the router and the event loop

    def num_running(self) -> int:
        """Requests in the newest step that has been formed and has not ended."""
        return next((len(batch.tokens) for batch in reversed(self.queue) if batch.tokens), 0)

    def num_waiting(self) -> int:
        return super().num_waiting() + len(self.loads)

    def kv_tokens(self) -> int:
        """Tokens computed until the last ended step, and those that requests which do not run need."""
        in_flight = sum(new for batch in self.queue for leg, new in batch.tokens if leg in self.running)
        return sum(leg.computed for leg in self.running) - in_flight + sum(leg.target for leg in self.waiting + self.incoming + self.loads)

    def next_event_s(self) -> float:
        if self.due_s is not None:
            return self.due_s
        return self.incoming[0].queue_s if self.incoming else inf

    def advance(self, now: float) -> list[Leg]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Go on with the loop at `now`. Returns the requests that ended."""
        self.due_s = self.loop.send(now)
        self._check()
        out, self.out = self.out, []
        return out

    # ---- the loop. It yields the time at which it goes on; None: when a request is queued.

    def _loop(self) -> Generator[float | None, float, None]:
        while True:
            if not self._has_requests() and not self.queue:
                self.clock = yield None
            while self.incoming and self.incoming[0].queue_s <= self.clock:
                self.waiting.append(self.incoming.pop(0))  # pyright: ignore[reportArgumentType]
            ran = yield from self._pass_with_queue() if self.config.async_scheduling else self._pass()
            self.idle = 0 if ran else self.idle + 1
            if not ran and self._has_unfinished():
                self.clock = yield self._end_of_sleep()

    def _pass(self) -> Generator[float, float, bool]:
        self.queue.append(batch := self._launch())
        yield from self._deliver()
        return bool(batch.tokens)

    def _pass_with_queue(self) -> Generator[float, float, bool]:
        ran = False
        if self._has_requests():
            self.queue.append(batch := self._launch())
            ran = bool(batch.tokens)
            if ran and len(self.queue) < 2 and self.queue[0].end_s > self.clock:
                self.clock = yield self.clock  # filling the queue comes before reading results
                return True
        yield from self._deliver()
        return ran

    def _has_unfinished(self) -> bool:
        return bool(self.waiting or self.running or self.loads)

    def _has_requests(self) -> bool:
        return self._has_unfinished() or self.just_ended

    def _end_of_sleep(self) -> float:
        first, count = self.sleeps
        if self.clock != first + count * self.empty_pass_s:
            first, count = self.clock, 0
        self.sleeps = (first, count + 1)
        return first + (count + 1) * self.empty_pass_s

    def _launch(self) -> Batch:
        now = self.clock
        before = {leg: leg.preemptions for leg in self.running}
        tokens, budget, preempted = self._schedule_running()
        if not preempted:
            tokens += self._schedule_waiting(budget)
        self.just_ended = False
        batch = self._batch(now, tokens)  # pyright: ignore[reportArgumentType]
        self._count(batch)
        preempted_now = sorted(leg.index for leg in before if leg.preemptions > before[leg])
        arrived, read = sorted(leg.index for leg in batch.arrived), sorted(leg.index for leg in batch.read)
        if tokens or preempted_now or arrived or read:
            start_s = batch.step.start_s if batch.step else now
            by_request = {leg.index: new for leg, new in tokens}
            self.passes.append(RefPass(now, start_s, batch.end_s, by_request, preempted_now, arrived, read, self.pool.num_free))
        return batch

    def _batch(self, now: float, tokens: list[tuple[Leg, int]]) -> Batch:
        """The step of `tokens`, launched at `now`, and what has landed by then."""
        step, end_s = None, now
        if tokens:
            start_s = max(now, self.device_free_s)
            duration = self.config.step_time([(new, leg.computed) for leg, new in tokens])
            assert duration >= 0, "time runs backwards"
            end_s = self.device_free_s = start_s + duration
            running = [leg.index for leg in self.running if not leg.finished]
            step = RefStep(
                instance=self.index,
                start_s=start_s,
                end_s=end_s,
                horizon_s=now,
                requests=tuple(leg.index for leg, _ in tokens),
                new_tokens=tuple(new for _, new in tokens),
                running=len(running),
                waiting=self.num_waiting(),
                blocks=self.pool.num_distinct(running),
            )
        for leg, _ in tokens:
            if leg.scheduled_s is None:
                assert step is not None
                leg.scheduled_s, leg.computed_at_start = step.start_s, leg.computed
        there = [leg for leg in self.loads + self.holds if not leg.polled and self._sees(leg.transfer.landed_s, now, bool(tokens))]
        for leg in there:
            leg.polled = True
        arrived, read = [leg for leg in there if leg in self.loads], [leg for leg in there if leg in self.holds]
        return Batch(end_s, step, tokens, [], arrived, sorted(read, key=lambda leg: leg.index))

    @staticmethod
    def _sees(landed_s: float, now: float, ran: bool) -> bool:
        return landed_s <= now if ran else landed_s < now - TIE_S

    def _count(self, batch: Batch) -> None:
        """Count the tokens of a step as computed, and those that it samples as generated."""
        for leg, new in batch.tokens:
            leg.computed += new
            leg.last_new = new
            assert leg.computed <= leg.target
            if leg.computed == leg.target:
                leg.generated += 1
                batch.sampled.append(leg)

    def _deliver(self) -> Generator[float, float, None]:
        """Wait for the oldest batch; give its tokens to the clients and what it polled to the scheduler."""
        if self.queue[0].end_s > self.clock:
            self.clock = yield self.queue[0].end_s
        batch = self.queue.popleft()
        for leg in batch.sampled:
            leg.token_times_s.append(self.clock)
            if leg.ended:
                self._end(leg)
        if batch.step is not None:
            self.ended.append(batch.step)
        if batch.arrived or batch.read:
            self.idle = 0
        for leg in batch.read:
            self.holds.remove(leg)
            self.pool.release(leg.index)
        for leg in batch.arrived:
            leg.told = True

    def _end(self, leg: Leg) -> None:
        """A request that was preempted with its last token in flight has no blocks any more."""
        if leg in self.running:
            self.running.remove(leg)
        if leg.holds:
            self.holds.append(leg)
        else:
            self.pool.release(leg.index)
        leg.end_s = self.clock
        self.just_ended = True
        self.out.append(leg)

    # ---- the scheduler

    def _schedule_waiting(self, budget: int) -> list[tuple[Leg, int]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Phase B: loads that have arrived, in the order they began, then preempted requests and the queue in strict FCFS order.

        A load that begins takes blocks, and neither a seat nor budget.
        """
        batch: list[tuple[Leg, int]] = []
        for leg in [leg for leg in self.loads if leg.told]:
            if budget == 0 or len(self.running) == self.config.max_num_seqs:
                return batch
            new = self._admit_loaded(leg)
            if new is None:
                return batch
            self.loads.remove(leg)
            if new > 0:
                self.running.append(leg)
                batch.append((leg, new))
                budget -= new
        while self.waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            leg = self.waiting[0]
            if leg.loads:
                if not self._load(leg):
                    break
                self.loads.append(self.waiting.pop(0))
                continue
            new = self._admit(leg, budget)
            if new == 0:
                break
            self.running.append(self.waiting.pop(0))
            batch.append((leg, new))
            budget -= new
        return batch

    def _load(self, leg: Leg) -> bool:
        """Begin to load the KV cache of a prompt, but for the blocks that are cached here; False if there is no room."""
        hits, blocks = self._lookup(leg), self.config.blocks(leg.prompt_tokens)
        self.pool.begin()
        if not self.pool.grow(leg.index, blocks, hits):
            return False
        leg.loads = False  # it moves once only: after a preemption it is computed here
        leg.cached_tokens = len(hits) * self.config.block_size
        self.on_load(leg, blocks - len(hits), self.clock)
        return True

    def _admit_loaded(self, leg: Leg) -> int | None:
        """Name the blocks of a request whose KV cache is there; returns its new tokens, None if it has to wait.

        Its last prompt token is computed again, unless the first token came with the KV cache. With that the request may be at its end.
        """
        if leg.computed == 0:
            self.pool.begin()
            leg.computed = leg.cached_tokens
            self._name_full_blocks(leg, leg.prompt_tokens - leg.cached_tokens)
            leg.computed = leg.prompt_tokens
        if not leg.carried:
            leg.computed = leg.prompt_tokens - 1
            return 1
        if leg.output_tokens > 1 and not self.pool.grow(leg.index, self.config.blocks(leg.prompt_tokens + 1)):
            return None
        leg.generated = 1
        leg.token_times_s.append(self.clock)
        if leg.ended:
            self._end(leg)
            return 0
        self._name_full_blocks(leg, 1)
        return 1

    # ---- checks

    def _check(self) -> None:
        self.pool.check()
        holders = {leg.index for leg in self.running + self.loads}
        assert holders <= set(self.pool.held) <= holders | {leg.index for leg in self.holds}, "a request that does not need blocks has some"
        assert len(self.running) <= self.config.max_num_seqs
        self._check_names()
