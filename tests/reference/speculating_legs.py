"""Ranks of a cluster with prefill and decode ranks that decode speculatively.

The scheduler has the books of `SpeculatingRank`. Here a step is formed in real time, before the outcome of the one under way is known to
the scheduler; the device knows it, and `Truth` has it. A load takes no lookahead (`limit_lookahead_tokens` of vLLM's scheduler, 0.23 and
later): when it is there, its blocks for the first step and the lookahead are asked for as for any request that joins. A request has no
drafts in its first step on a rank, so a prefill rank only pays for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.reference.group_handover import HandoverMember
from tests.reference.instance import Live
from tests.reference.legs import Batch, Leg
from tests.reference.rank import Rank
from tests.reference.speculation import Book, SpeculatingRank


@dataclass
class Truth:
    """What the device has of a request, steps under way included: computed tokens, generated ones, and whether it has got any since its
    admission."""

    computed: int = 0
    generated: int = 0
    decodes: bool = False


@dataclass
class Outcome:
    """Tokens of a request in a step; the drafts among those asked for, and how many of them were accepted."""

    leg: Leg
    tokens: int
    drafts: int
    accepted: int


class WithDrafts(Rank):
    """The part of a rank that decodes speculatively. `Live.generated` are the tokens that have come back."""

    def begin_drafts(self) -> None:
        assert self.config.speculation is not None and not self.config.speculation.pads
        self.speculation = self.config.speculation
        self.config = replace(self.config, step_time=self.speculation.step_time)  # pyright: ignore[reportArgumentType]
        self.books: dict[int, Book] = {}
        self.truths: dict[int, Truth] = {}
        self.scheduled_blocks: dict[int, int] = {}
        self.drafts_of: dict[int, int] = {}
        self.chunking: set[int] = set()
        self.padded: set[int] = set()

    _slots = SpeculatingRank._slots
    _advance_book = SpeculatingRank._advance_book
    _wanted = SpeculatingRank._wanted
    _scheduled_tokens = SpeculatingRank._scheduled_tokens
    _scheduled = SpeculatingRank._scheduled
    _is_padded = SpeculatingRank._is_padded

    def _truth(self, live: Live) -> Truth:
        return self.truths.setdefault(live.index, Truth())

    def _goes_on(self, leg: Leg) -> bool:
        return self._truth(leg).generated < leg.output_tokens

    def held_tokens(self) -> int:
        return sum(self._truth(leg).computed for leg in self.running)

    def _rows(self, tokens: list[tuple[Leg, int]]) -> list:
        truths = [self._truth(leg) for leg, _ in tokens]
        return [(new, truth.computed, truth.decodes) for (_, new), truth in zip(tokens, truths, strict=True)]

    def _count(self, tokens: list[tuple[Leg, int]]) -> list:
        """Count the tokens of a step in the books, and find its outcome."""
        found = []
        for leg, new in tokens:
            drafts, truth = self._advance_book(leg, new), self._truth(leg)
            leg.last_new = new
            if truth.generated == leg.output_tokens:
                continue  # it has ended in the step under way: this one is for nothing
            truth.computed += new
            if drafts < 0:
                continue
            accepted = self.speculation.accepted(leg.index, leg.prompt_tokens + truth.generated, drafts)
            count = min(1 + accepted, leg.output_tokens - truth.generated)
            truth.generated += count
            truth.computed, truth.decodes = leg.prompt_tokens + truth.generated - 1, True
            found.append(Outcome(leg, count, drafts, accepted))
        return found

    def _give(self, batch: Batch) -> None:
        outcomes: list[Outcome] = batch.sampled  # pyright: ignore[reportAssignmentType]
        for one in outcomes:
            leg = one.leg
            leg.token_times_s += [self.clock] * one.tokens
            leg.generated += one.tokens
            if leg in self.running:
                book = self.books[leg.index]
                book.computed -= one.drafts - one.accepted
                book.placeholders -= (1 + one.drafts) * self.config.async_scheduling
                book.drafts = self.speculation.num_speculative_tokens
                self._name_up_to(leg, leg.target - 1)
            if leg.ended:
                if leg in self.waiting:  # preempted with its last token in flight: it lost nothing
                    self.waiting.remove(leg)
                    leg.in_vain = True
                self._end(leg)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        del self.books[victim.index]
        truth = self._truth(victim)
        truth.computed, truth.decodes = 0, False

    def _admit(self, request: Live, budget: int) -> int:
        new = SpeculatingRank._admit(self, request, budget)  # pyright: ignore[reportArgumentType]
        if new > 0:
            truth = self._truth(request)
            truth.computed, truth.decodes = request.computed, False
        return new

    def _lookup(self, request: Live) -> list[int]:
        hits = super()._lookup(request)
        return hits[:-1] if self.speculation.reuse == "last" else hits

    def _has_room(self, leg: Leg) -> bool:
        return super()._has_room(leg) and self.pool.grow(leg.index, self._slots(leg.prompt_tokens), (), self._watermark())

    def _start_loaded(self, leg: Leg) -> bool:
        assert not leg.carried
        super()._start_loaded(leg)
        self.books[leg.index] = Book(computed=leg.prompt_tokens - 1)
        self.truths[leg.index] = Truth(computed=leg.prompt_tokens - 1)
        return True


class SpeculatingLegs(WithDrafts):
    """A rank that steps by itself."""

    def __init__(self, *args):
        super().__init__(*args)
        self.begin_drafts()


class SpeculatingLegsMember(WithDrafts, HandoverMember):
    """A rank of a group."""

    def __init__(self, *args):
        HandoverMember.__init__(self, *args)
        self.begin_drafts()

    def _admit(self, request: Live, budget: int) -> int:
        return 0 if self.defers and request.target > 1 else super()._admit(request, budget)

    def _decodes(self, request: Live) -> bool:
        """Whether all of its prompt has been scheduled since its admission."""
        return self._truth(request).decodes

    def _note(self, sampled: list) -> None:
        pass
