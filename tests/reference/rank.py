"""A rank of a cluster with prefill and decode ranks: vLLM's engine loop, pass by pass and in real time.

The scheduler is that of `RefEngine`, and so are the requests, but a step is formed when vLLM's loop calls `schedule()`: with asynchronous
scheduling at the start of the step before. So tokens count as computed, and as generated, from the formation of their step on; clients get
them at its end. A request may hold blocks without running: while its KV cache is loaded, and until it has been read after its end.

A pass schedules, launches and polls; what it polled the scheduler is told with the pass's output. A pass that runs nothing although
requests are left is followed by a sleep. A poll of such a pass does not see what lands at that very time: the times of passes are sums of
sleeps, which are not exact in floating point. The poll at the launch of a step does. Whether a pass sees a request that is queued at that
very time rounding decides, and so it does where a step ends then: ranks whose steps take the same time and that tell each other of requests
stay in step. `num_ties` counts such requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from math import inf

import numpy as np

from tests.reference.headroom import Headroom
from tests.reference.instance import Live, RefEngine, RefInstance, RefStep
from tests.reference.legs import Batch, Leg, RefPass

TIE_S = 1e-9  # times this close to that of a pass after a sleep are equal to it


class Rank(RefEngine):
    """`on_load(leg, blocks, now)` is called when blocks for a request's KV cache are there, `blocks` of them without content."""

    running: list[Leg]
    waiting: list[Leg]
    headroom: Headroom | None = None  # kept beside the blocks of loads

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
        self.woke_s = -inf  # end of the last sleep
        self.passes: list[RefPass] = []
        self.queued_s: list[float] = []
        self.out: list[Leg] = []  # ended since the rank was last called
        self.loop = self._loop()
        self.due_s = next(self.loop)

    # ---- for the router and the event loop

    def enqueue(self, request: Live) -> None:
        super().enqueue(request)
        self.ties += self._ties(request)
        self.queued_s.append(request.queue_s)

    def num_ties(self) -> int:
        ends_s = np.array([step.end_s for step in self.ended])
        return self.ties + int((np.abs(np.subtract.outer(self.queued_s, ends_s)) < TIE_S).any(axis=1).sum())

    def num_running(self) -> int:
        """Running requests at the formation of the newest step that has not ended; those with all their tokens in flight do not count."""
        return next((batch.running for batch in reversed(self.queue) if batch.tokens), 0)

    def num_waiting(self) -> int:
        return super().num_waiting() + len(self.loads)

    def kv_tokens(self) -> int:
        """Tokens of the steps that have started, and those that requests which do not run need."""
        return self.held_tokens() + sum(leg.target for leg in self.waiting + self.incoming + self.loads)

    def held_tokens(self) -> int:
        """Tokens of the steps that have started.

        A request leaves with the end of its last step; with asynchronous scheduling, which does not wait for that, with its start.
        """
        launched = [batch for batch in self.queue if batch.tokens]
        unstarted = launched[1:]
        unended = [leg for batch in (unstarted if self.config.async_scheduling else launched) for leg in batch.sampled]
        running = [leg for leg in self.running if leg in unended or not leg.finished]
        in_flight = sum(new for batch in unstarted for leg, new in batch.tokens if leg in running)
        return sum(leg.computed for leg in running) - in_flight

    def next_event_s(self) -> float:
        if self.due_s is not None:
            return self.due_s
        return self.incoming[0].queue_s if self.incoming else inf

    def advance(self, now: float) -> list[Leg]:
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
            self.drain(self.clock)
            ran = yield from self._pass_with_queue() if self.config.async_scheduling else self._pass()
            self.idle = 0 if ran else self.idle + 1
            if not ran:
                yield from self._rest()

    def _rest(self) -> Generator[float, float, None]:
        """After a pass that ran nothing: sleep if requests are left."""
        if self._has_unfinished():
            self.clock = self.woke_s = yield self._end_of_sleep()
            self.ties += sum(map(self._ties, self.incoming))

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

    def _ties(self, request: Live) -> bool:
        return abs(request.queue_s - self.woke_s) < TIE_S

    def is_alone(self) -> bool:
        return self.config.long_prefill_alone and len(self.running) + len(self.waiting) + len(self.loads) <= 1

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
        now, before = self.clock, {leg: leg.preemptions for leg in self.running}
        self.alone = self.is_alone()
        tokens, budget, preempted = self._schedule_running()
        if not preempted:
            tokens += self._schedule_waiting(budget)
        self.just_ended = False
        step, running = self._step(now, tokens) if tokens else None, sum(map(self._goes_on, self.running))
        arrived, read = self._poll(now, ran=bool(tokens))
        batch = Batch(step.end_s if step else now, step, tokens, self._count(tokens), arrived, read, running)
        victims = [leg for leg in before if leg.preemptions > before[leg]]
        if tokens or victims or arrived or read:
            indices = [sorted(leg.index for leg in legs) for legs in (victims, arrived, read)]
            start_s = step.start_s if step else now
            self.passes.append(RefPass(now, start_s, batch.end_s, {leg.index: new for leg, new in tokens}, *indices, self.pool.num_free))
        return batch

    def _step(self, now: float, tokens: list[tuple[Leg, int]]) -> RefStep:
        start_s = max(now, self.device_free_s)
        duration = self.config.step_time(self._rows(tokens))
        assert duration >= 0, "time runs backwards"
        self.device_free_s = start_s + duration
        for leg, _ in tokens:
            if leg.scheduled_s is None:
                leg.scheduled_s, leg.computed_at_start = start_s, leg.computed
        running = [leg.index for leg in self.running if self._goes_on(leg)]
        return RefStep(
            instance=self.index,
            start_s=start_s,
            end_s=self.device_free_s,
            horizon_s=now,
            requests=tuple(leg.index for leg, _ in tokens),
            new_tokens=tuple(new for _, new in tokens),
            running=len(running),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct(running),
        )

    @staticmethod
    def _rows(tokens: list[tuple[Leg, int]]) -> list:
        """What the time of a step depends on."""
        return [(new, leg.computed) for leg, new in tokens]

    def _goes_on(self, leg: Leg) -> bool:
        """Whether a running request has more to come than is in flight."""
        return not leg.finished

    def _poll(self, now: float, ran: bool) -> tuple[list[Leg], list[Leg]]:
        """The loads that are there, and the ended requests that have been read, by request index; each is found once."""

        def new(legs: list[Leg]) -> list[Leg]:
            there = [leg for leg in legs if not leg.polled]
            there = [leg for leg in there if (leg.transfer.landed_s <= now if ran else leg.transfer.landed_s < now - TIE_S)]
            for leg in there:
                leg.polled = True
            return sorted(there, key=lambda leg: leg.index)

        return new(self.loads), new(self.holds)

    def _count(self, tokens: list[tuple[Leg, int]]) -> list:
        """Count the tokens of a step as computed; returns the requests that get a token, which counts as generated."""
        for leg, new in tokens:
            leg.computed += new
            leg.last_new = new
            assert leg.computed <= leg.target
        sampled = [leg for leg, _ in tokens if leg.computed == leg.target]
        for leg in sampled:
            leg.generated += 1
        return sampled

    def _deliver(self) -> Generator[float, float, None]:
        """Wait for the oldest batch; give its tokens to the clients and what it polled to the scheduler."""
        if self.queue[0].end_s > self.clock:
            self.clock = yield self.queue[0].end_s
        batch = self.queue.popleft()
        self._give(batch)
        if batch.step is not None:
            self.ended.append(batch.step)
        if batch.arrived or batch.read:
            self.idle = 0
        for leg in batch.read:
            self.holds.remove(leg)
            self.pool.release(leg.index)
        for leg in batch.arrived:
            leg.told = True

    def _give(self, batch: Batch) -> None:
        """Give the tokens of a batch to the clients."""
        for leg in batch.sampled:
            leg.token_times_s.append(self.clock)
            if leg in self.running:
                self._name_up_to(leg, self._known(leg) - 1)
            if leg.ended:
                self._end(leg)

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

    def _schedule_waiting(self, budget: int) -> list[tuple[Leg, int]]:
        """Phase B: loads that have arrived, in the order they began, then preempted requests and the queue in strict FCFS order.

        A load that begins takes blocks, and neither a seat nor budget.
        """
        batch: list[tuple[Leg, int]] = []
        for leg in [leg for leg in self.loads if leg.told]:
            if budget == 0 or len(self.running) == self.config.max_num_seqs or not self._has_room(leg):
                return batch
            self.loads.remove(leg)
            if self._start_loaded(leg):
                self.running.append(leg)
                batch.append((leg, 1))
                budget -= 1
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

    def _has_room(self, leg: Leg) -> bool:
        """Whether a loaded request may have a seat."""
        return self.pool.num_free >= self._watermark()

    def _load(self, leg: Leg) -> bool:
        """Begin to load the KV cache of a prompt, but for the blocks that are cached here; False if there is no room.

        A carried token gets its place as well: it would need a new block once it is there, when loads may have taken all of them.
        With `reserve_kv_loads` it leaves the running prefills what they still need: a load that holds blocks cannot be preempted.
        """
        hits, blocks = self._lookup(leg), self.config.blocks(leg.prompt_tokens)
        needed = leg.prompt_tokens + (leg.carried and leg.output_tokens > 1)
        if self.config.count_failed_lookups:
            self._count_lookup(leg, len(hits) * self.config.block_size)
        prefills = [leg for leg in self.running if not leg.finished] if self.config.reserve_kv_loads else []
        free_tokens = self.pool.num_free * self.config.block_size
        if self.headroom is not None and not self.headroom.admits(leg, self.running, len(self.loads), free_tokens):
            return False
        spare = sum(max(0, self.config.blocks(leg.target) - self.pool.num_held(leg.index)) for leg in prefills)
        if not self.pool.grow(leg.index, self.config.blocks(needed), hits, spare + self._watermark()):
            return False
        if not self.config.count_failed_lookups:
            self._count_lookup(leg, len(hits) * self.config.block_size)
        leg.loads = False  # it moves once only: after a preemption it is computed here
        leg.cached_tokens = len(hits) * self.config.block_size
        self.on_load(leg, blocks - len(hits), self.clock)
        return True

    def _start_loaded(self, leg: Leg) -> bool:
        """Name the blocks of a request whose KV cache is there; False if its first token came with it and is its last.

        Its last prompt token is computed again, unless the first token came with the KV cache.
        """
        leg.named = leg.cached_tokens // self.config.block_size
        self._name_up_to(leg, leg.prompt_tokens)
        if not leg.carried:
            leg.computed = leg.prompt_tokens - 1
            return True
        leg.computed, leg.generated = leg.prompt_tokens, 1
        leg.token_times_s.append(self.clock)
        if leg.ended:
            self._end(leg)
            return False
        self._name_up_to(leg, leg.computed + 1)
        return True

    def _known(self, leg: Leg) -> int:
        return leg.prompt_tokens + len(leg.token_times_s)

    # ---- checks

    def _check(self) -> None:
        self.pool.check()
        holders = {leg.index for leg in self.running + self.loads}
        assert holders <= set(self.pool.held) <= holders | {leg.index for leg in self.holds}, "a request that does not need blocks has some"
        assert len(self.running) <= self.config.max_num_seqs
        self._check_names()
