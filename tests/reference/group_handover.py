"""Ranks of a MoE model in lockstep that prefill or decode only: `Rank`'s hand-overs in the forwards of a group, in real time.

A rank's passes are the forwards of its group, dummies included (`DPEngineCoreProc.run_busy_loop`). It looks at its transfers as it launches
a forward if it has requests, running, waiting or loading, or has just ended one, for only then its scheduler is called; the end of the
forward tells it what it found. A rank that only keeps blocks which are to be read computes dummies without a look. Loads are unfinished
requests: a wave goes on while there are any, and the first request of a wave may be one.

With synchronous scheduling a rank that has requests and nothing to run sleeps before its dummy (`_process_engine_step`), and the others
wait for it; an asynchronous one sleeps while the forward before is under way. The next forward is then formed at the start of the one
before, but where the wave is known to stop after that: then at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from tests.reference.groups import Cadence
from tests.reference.instance import Live, RefInstance, RefStep
from tests.reference.legs import Batch, Leg
from tests.reference.rank import TIE_S, Rank

Tokens = list[tuple[int, int]]


class HandoverMember(Cadence, Rank):
    """A rank of a group; its loop is the group's."""

    def __init__(self, index: int, config: RefInstance, empty_pass_s: float, on_load: Callable[[Leg, int, float], None]):
        Rank.__init__(self, index, config, empty_pass_s, on_load)
        self.begin_cadence()
        self.due_s = None

    def num_running(self) -> int:
        """Running requests at the formation of the newest forward that has not ended."""
        return self.queue[-1].running if self.queue else 0

    def num_ties(self) -> int:
        """Requests that were queued just when a forward ended: rounding decides whether the formation at that time sees them."""
        ends_s = np.array([step.end_s for step in self.ended] + [end_s for _, end_s in self.dummies])
        return int((np.abs(np.subtract.outer(self.queued_s, ends_s)) < TIE_S).any(axis=1).sum())

    def form(self, now: float, throttled: bool) -> list[tuple[Leg, int]]:
        """`schedule()`, before its tokens are counted."""
        self.clock = now
        self.drain(now)
        self.alone = self.is_alone()
        self.defer(throttled)
        self.launches = self._has_requests()
        tokens, budget, preempted = self._schedule_running()
        tokens = [(leg, new) for leg, new in tokens if new > 0]
        if not preempted:
            tokens += self._schedule_waiting(budget)
            if not self.defers:
                self.capacity_bound = bool(self.waiting or self.loads)
        self.just_ended = False
        self.stuck = bool(self.waiting) and not (self.running or self.loads or self.holds or preempted)
        return tokens

    def runs_nothing(self, tokens: list[tuple[Leg, int]]) -> bool:
        """Whether it has requests and nothing to run."""
        return not tokens and self._has_unfinished()

    def unfinished(self) -> bool:
        """`has_unfinished_requests()`; before the tokens of a formation are counted."""
        return bool(self.loads) or any(map(self._goes_on, self.running)) or (bool(self.waiting) and not self.stuck)

    def launch(self, now: float, start_s: float, end_s: float, tokens: list[tuple[Leg, int]]) -> None:
        """Take part in a forward."""
        for leg, _ in tokens:
            if leg.scheduled_s is None:
                leg.scheduled_s, leg.computed_at_start = start_s, leg.computed
        running = [leg.index for leg in self.running if self._goes_on(leg)]
        step = None
        if tokens:
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
        else:
            self.dummies.append((start_s, end_s))
        arrived, read = self._poll(now, ran=True) if self.launches else ([], [])
        sampled = self._count(tokens)
        self._note(sampled)
        self.queue.append(Batch(end_s, step, tokens, sampled, arrived, read, len(running)))

    def _note(self, sampled: list) -> None:
        """Remember who decodes."""
        self.decoding |= {leg.index for leg in sampled}

    def look(self, now: float) -> None:
        """Look at the transfers once more although there is no forward, and be told at once."""
        if self.launches:
            arrived, read = self._poll(now, ran=False)
            self._tell(arrived, read)

    def deliver(self, now: float) -> None:
        """Get the output of the oldest forward."""
        self.clock = now
        batch = self.queue.popleft()
        self._give(batch)
        if batch.step is not None:
            self.ended.append(batch.step)
        self._tell(batch.arrived, batch.read)

    def _tell(self, arrived: list[Leg], read: list[Leg]) -> None:
        for leg in read:
            self.holds.remove(leg)
            self.pool.release(leg.index)
        for leg in arrived:
            leg.told = True

    def take_out(self) -> list[Live]:
        """The requests that have ended."""
        self._check()
        out, self.out = self.out, []
        return [*out]


@dataclass
class Forward:
    """A forward under way: start and end, its number in the wave from 1, and whether some rank was unfinished when it was formed."""

    start_s: float
    end_s: float
    number: int
    unfinished: bool


class HandoverGroup:
    """The ranks of a group, one after the other in order of their index."""

    def __init__(self, ranks: Sequence[HandoverMember]):
        assert len({(rank.config.async_scheduling, rank.config.group) for rank in ranks}) == 1
        assert ranks[0].config.group is not None
        self.config, self.ranks = ranks[0].config.group, ranks
        self.async_scheduling, self.empty_pass_s = ranks[0].config.async_scheduling, ranks[0].empty_pass_s
        self.queue: deque[Forward] = deque()
        self.running = False
        self.formed = 0  # forwards of the wave
        self.idle = 0  # forwards in a row in which unfinished ranks ran nothing and were told nothing
        self.loop = self._loop()
        self.due_s = next(self.loop)

    def next_event_s(self) -> float:
        if self.due_s is not None:
            return self.due_s
        return min(rank.incoming[0].queue_s if rank.incoming else inf for rank in self.ranks)

    def advance(self, now: float) -> list[Live]:
        """Go on with the loop at `now`. Returns the requests that ended."""
        self.due_s = self.loop.send(now)
        return [live for rank in self.ranks for live in rank.take_out()]

    def _loop(self) -> Generator[float | None, float, None]:
        now = yield None
        while True:
            while self.queue and (self._full() or self._stops(self.queue[-1])):
                now = yield self.queue[0].end_s
                self._deliver(now)
            if not self._form(now):
                now = yield None
            elif not self._full():
                now = yield now  # the next formation comes at once, but after what happens elsewhere at this time

    def _full(self) -> bool:
        return len(self.queue) == 1 + self.async_scheduling

    def _stops(self, forward: Forward) -> bool:
        asks = forward.number % self.config.sync_interval == 0 or (self.config.syncs_first and forward.number == 1)
        unfinished = forward.unfinished if self.async_scheduling else any(rank.unfinished() for rank in self.ranks)
        return asks and not unfinished

    def _deliver(self, now: float) -> None:
        forward = self.queue.popleft()
        news = any(rank.queue[0].tokens or rank.queue[0].arrived or rank.queue[0].read for rank in self.ranks)
        self.idle = self.idle + 1 if forward.unfinished and not news else 0
        for rank in self.ranks:
            rank.deliver(now)
        if self._stops(forward):
            assert not self.queue, "a forward was formed after the last one of a wave"
            self.running, self.formed = False, 0

    def _form(self, now: float) -> bool:
        throttled = self.formed % self.config.prefill_schedule_interval != 0
        batches = [rank.form(now, throttled) for rank in self.ranks]
        unfinished = any(rank.unfinished() for rank in self.ranks)
        if not self.running and not any(batches) and not unfinished:
            for rank in self.ranks:
                rank.look(now)
            return False
        self.running, self.formed = True, self.formed + 1
        duration = self.config.step_time([rank._rows(batch) for rank, batch in zip(self.ranks, batches, strict=True)])
        if not self.async_scheduling and any(rank.runs_nothing(batch) for rank, batch in zip(self.ranks, batches, strict=True)):
            duration += self.empty_pass_s
        start_s = self.queue[-1].end_s if self.queue else now
        for rank, batch in zip(self.ranks, batches, strict=True):
            rank.launch(now, start_s, start_s + duration, batch)
        self.queue.append(Forward(start_s, start_s + duration, self.formed, unfinished))
        return True
