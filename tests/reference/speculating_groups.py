"""Ranks of a MoE model in lockstep that decode speculatively: the books of `SpeculatingRank` in the forwards of a group.

A forward is formed before the outcome of the one under way is known, and takes as long as what the device then has asks for. A dummy is a
uniform decode: one token and a rank's drafts (`GPUModelRunner._dummy_run`). For the cadence a request decodes once all of its prompt has
been scheduled.
"""

from __future__ import annotations

from tests.reference.groups import Cadence, Group
from tests.reference.instance import Live, RefInstance, RefStep
from tests.reference.speculation import Batch, SpeculatingRank


class SpeculatingMember(Cadence, SpeculatingRank):
    """A rank of a group; its events are those of the group."""

    def __init__(self, index: int, config: RefInstance):
        SpeculatingRank.__init__(self, index, config)
        self.begin_cadence()

    def _decodes(self, request: Live) -> bool:
        return super()._decodes(request) or self.books[request.index].placeholders > 0

    def form(self, horizon: float, throttled: bool) -> Batch:
        """`schedule()`."""
        self.drain(horizon)
        self.alone = self.is_alone()
        self.defer(throttled)
        tokens, budget, preempted = self._schedule_running()
        self._look_at(tokens)
        if not preempted:
            tokens += self._schedule_waiting(budget)
            if not self.defers:
                self.capacity_bound = bool(self.waiting)
        self.stuck = bool(self.waiting) and not self.running
        return [(live, new, self._advance_book(live, new)) for live, new in tokens]

    def end(self) -> list[Live]:
        """`update_from_output()` of the forward that has ended."""
        if self.step is None:
            return []
        step, flying = self.step, self.flying
        self.step, self.flying = None, []
        return self._update(step, flying)

    def rows(self, batch: Batch) -> list[tuple[int, int, bool]]:
        """New and computed tokens of the requests, and whether they decode."""
        return [(new, live.computed, live.index in self.decoding) for live, new, _ in batch]

    def begin(self, now: float, end: float, horizon: float, batch: Batch) -> None:
        """Start a forward."""
        self.flying = batch
        if not batch:
            self.dummies.append((now, end))
            return
        for live, _, _ in batch:
            if live.scheduled_s is None:
                live.scheduled_s = now
        self.step = RefStep(
            instance=self.index,
            start_s=now,
            end_s=end,
            horizon_s=horizon,
            requests=tuple(live.index for live, _, _ in batch),
            new_tokens=tuple(new for _, new, _ in batch),
            running=len(self.running),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct([live.index for live in self.running]),
        )

    def unfinished(self) -> bool:
        """`has_unfinished_requests()`."""
        return bool(self.running) or (bool(self.waiting) and not self.stuck)

    def check(self) -> None:
        self._check()


class SpeculatingGroup(Group):
    """The ranks of a group."""

    def advance(self, now: float) -> list[Live]:
        finished: list[list[Live]] = []
        batches: list[Batch] | None = None
        horizon = now
        if self.forward is not None:
            start, _ = self.forward
            self.counter += 1
            if self.async_scheduling and not self._asks_and_stops():
                batches, horizon = self._formed(start), start
            finished = [rank.end() for rank in self.ranks]
            self.forward = None
            if batches is None and self._stops():
                self.running, self.counter = False, 0
                self.stops_s.append(now)
        if batches is None:
            batches = self._formed(now)
        self._begin(now, horizon, batches)
        for rank in self.ranks:
            rank.check()
        return [request for mine in finished for request in mine]

    def _asks_and_stops(self) -> bool:
        return self._asks() and not self.unfinished

    def _formed(self, horizon: float) -> list[Batch]:
        throttled = self.counter % self.config.prefill_schedule_interval != 0
        return [rank.form(horizon, throttled) for rank in self.ranks]

    def _begin(self, now: float, horizon: float, batches: list[Batch]) -> None:
        if not self.running and not any(batches):
            return
        self.running = True
        self.unfinished = any(rank.unfinished() for rank in self.ranks)
        duration = self.config.step_time([rank.rows(batch) for rank, batch in zip(self.ranks, batches, strict=True)])
        for rank, batch in zip(self.ranks, batches, strict=True):
            rank.begin(now, now + duration, horizon, batch)
        self.forward = (now, now + duration)
