"""Ranks of a MoE model in lockstep: vLLM's `DPEngineCoreProc.run_busy_loop`, one forward of the group at a time.

While a wave runs, all ranks take part in every forward: one whose scheduler found nothing to run computes a dummy. A counter of
forwards says when the ranks ask each other whether any has unfinished requests; if none has, the wave is over and they sleep until a
request comes to one of them, which starts the next wave in all.

As in `RefEngine` a forward is formed when the one before ends, with asynchronous scheduling by what was known when that one began: its
requests that have finished meanwhile are unfinished still. So they are for the question after a forward: its answer is that of the
forward's formation. When a wave stops, the next one sees what has come by the end of its last forward.

`prefill_schedule_interval` N: a forward whose number in the wave (from 0) is no multiple of N is decoded alone in ranks that decode, unless
the last formation of the rank that could have admitted all left requests waiting.

A rank whose queue cannot move (a prompt that may not be split and exceeds the budget) does not keep the others awake, as it would in vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep
from tests.reference.priority import PriorityRank

Tokens = list[tuple[int, int]]


@dataclass(frozen=True)
class RefGroup:
    """What the ranks of a group have in common; those of one `number` are a group.

    `step_time` takes the (new, computed) tokens of the requests of every rank, none for a dummy, and returns seconds.
    `syncs_first`: the ranks ask each other after the first forward of a wave too, not only after every `sync_interval`-th.
    """

    number: int
    step_time: Callable[[list[Tokens]], float]
    sync_interval: int = 32
    syncs_first: bool = False
    prefill_schedule_interval: int = 1


class Cadence(RefEngine):
    """The part of a rank that keeps to the cadence of prefills."""

    def begin_cadence(self) -> None:
        assert self.config.group is not None
        self.decoding: set[int] = set()  # requests with a token since their admission
        self.defers = False  # what is in its prompt waits in this formation
        self.capacity_bound = False
        self.stuck = False
        self.dummies: list[tuple[float, float]] = []  # start and end

    def defer(self, throttled: bool) -> None:
        """Whether what is in its prompt waits in the coming formation."""
        self.defers = throttled and not self.capacity_bound and any(map(self._decodes, self.running))

    def _decodes(self, request: Live) -> bool:
        """Whether all of its prompt has been scheduled."""
        return request.index in self.decoding

    def _need(self, request: Live, computed: int) -> int:
        if self.defers and request in self.running and not self._decodes(request):
            return 0
        return super()._need(request, computed)

    def _admit(self, request: Live, budget: int) -> int:
        if self.defers and len(self._lookup(request)) * self.config.block_size < request.target - 1:
            return 0
        new = super()._admit(request, budget)
        if new > 0:
            self.decoding.discard(request.index)
        return new


class LockstepRank(Cadence):
    """A rank of a group; its events are those of the group."""

    def __init__(self, index: int, config: RefInstance):
        super().__init__(index, config)
        assert config.pipeline is None and config.speculation is None
        self.begin_cadence()

    def form(self, horizon: float, throttled: bool) -> list[tuple[Live, int]]:
        """`schedule()`."""
        self.drain(horizon)
        self.alone = self.is_alone()
        self.defer(throttled)
        batch, budget, preempted = self._schedule_running()
        batch = [(request, new) for request, new in batch if new > 0]
        if not preempted:
            batch += self._schedule_waiting(budget)
            if not self.defers:
                self.capacity_bound = bool(self.waiting)
        self.stuck = bool(self.waiting) and not self.running and not preempted
        return batch

    def begin(self, now: float, end: float, horizon: float, batch: list[tuple[Live, int]]) -> None:
        """Start a forward."""
        self.batch = batch
        if not batch:
            self.dummies.append((now, end))
            return
        for request, _ in batch:
            if request.scheduled_s is None:
                request.scheduled_s = now
        self.step = RefStep(
            instance=self.index,
            start_s=now,
            end_s=end,
            horizon_s=horizon,
            requests=tuple(request.index for request, _ in batch),
            new_tokens=tuple(new for _, new in batch),
            running=self.num_running(),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct([request.index for request in self.running if not request.finished]),
        )

    def end(self) -> list[Live]:
        """Get the tokens of a forward, of which a formation need not know. Returns the requests that finished."""
        self.in_flight = self._end_step() if self.step is not None else []
        self.decoding |= {request.index for request in self.in_flight}
        return [request for request in self.in_flight if request.finished]

    def settle(self) -> None:
        """Make the tokens of the latest forward known."""
        sampled, self.in_flight = self.in_flight, []
        self._settle(sampled)

    def unfinished(self) -> bool:
        """`has_unfinished_requests()`."""
        return any(not request.finished for request in self.running) or (bool(self.waiting) and not self.stuck)

    def check(self) -> None:
        self.pool.check()
        self._check_names()
        assert set(self.pool.held) == {request.index for request in self.running}, "a request outside running holds blocks"
        assert len(self.running) <= self.config.max_num_seqs


class PriorityMember(LockstepRank, PriorityRank):
    """A rank of a group that schedules by priority."""


class Group:
    """The ranks of a group, one after the other in order of their index."""

    def __init__(self, ranks: Sequence[LockstepRank]):
        assert len({(rank.config.async_scheduling, rank.config.group) for rank in ranks}) == 1
        assert ranks[0].config.group is not None
        self.config, self.ranks = ranks[0].config.group, ranks
        self.async_scheduling = ranks[0].config.async_scheduling
        self.forward: tuple[float, float] | None = None  # start and end of the one under way
        self.running = False  # a wave is
        self.counter = 0  # forwards of the wave that have ended
        self.unfinished = False  # when the forward was formed
        self.stops_s: list[float] = []  # ends of waves

    def next_event_s(self) -> float:
        if self.forward is not None:
            return self.forward[1]
        return min(rank.incoming[0].queue_s if rank.incoming else inf for rank in self.ranks)

    def advance(self, now: float) -> list[Live]:
        """Handle the event at `now` and form the next forward. Returns the requests that finished."""
        finished = [[] for _ in self.ranks]
        horizon = now
        if self.forward is not None:
            start, _ = self.forward
            finished = [rank.end() for rank in self.ranks]
            self.forward = None
            self.counter += 1
            if self._stops():
                self.running, self.counter = False, 0
                self.stops_s.append(now)
            elif self.async_scheduling:
                horizon = start
        early = self.running and self.async_scheduling  # formed before it was known who has finished
        if not early:
            self._settle()
        self._form(now, horizon)
        self._settle()
        for rank in self.ranks:
            rank.check()
        return [request for mine in finished for request in mine]

    def _settle(self) -> None:
        for rank in self.ranks:
            rank.settle()

    def _stops(self) -> bool:
        """Whether the ranks ask each other after this forward, and none has anything left."""
        unfinished = self.unfinished if self.async_scheduling else any(rank.unfinished() for rank in self.ranks)
        return self._asks() and not unfinished

    def _asks(self) -> bool:
        return self.counter % self.config.sync_interval == 0 or (self.config.syncs_first and self.counter == 1)

    def _form(self, now: float, horizon: float) -> None:
        throttled = self.counter % self.config.prefill_schedule_interval != 0
        batches = [rank.form(horizon, throttled) for rank in self.ranks]
        if not self.running and not any(batches):
            return
        self.running = True
        self.unfinished = any(rank.unfinished() for rank in self.ranks)
        duration = self.config.step_time([[(new, request.computed) for request, new in batch] for batch in batches])
        assert duration >= 0, "time runs backwards"
        for rank, batch in zip(self.ranks, batches, strict=True):
            rank.begin(now, now + duration, horizon, batch)
        self.forward = (now, now + duration)
