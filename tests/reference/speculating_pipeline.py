"""A rank of pipeline stages that decodes speculatively: the books of `SpeculatingRank` in the loop of `PipelineRank`.

Scheduling is asynchronous. A request has drafts to verify again after as many calls as there are stages, when the outcome of its last
batch may still be unknown: the scheduler then takes all drafts for accepted, and the first stage waits for what really was. A synchronous
scheduler of vLLM asks for a request's next drafts while its token is in flight, which no model runner can compute.
"""

from __future__ import annotations

from tests.reference.instance import Live, RefInstance
from tests.reference.pipeline import PipelineRank
from tests.reference.speculating_legs import Outcome, Truth
from tests.reference.speculation import SpeculatingRank


class SpeculatingPipelineRank(PipelineRank, SpeculatingRank):
    """A pipelined rank with drafts. Counters are vLLM's, of the batches that have come back."""

    def __init__(self, index: int, config: RefInstance):
        super().__init__(index, config)
        self.truths: dict[int, Truth] = {}
        self.outcomes: list[dict[int, Outcome]] = []  # of the batches that sample, oldest first; those that are back are empty
        assert config.async_scheduling or self.pipeline.stages == 1, (
            "vLLM does not decode speculatively on pp stages without asynchronous scheduling"
        )

    def held_tokens(self) -> int:
        return sum(self._truth(live).computed for live in self.running)

    def _truth(self, live: Live) -> Truth:
        return self.truths.setdefault(live.index, Truth())

    def _rows(self, tokens: list[tuple[Live, int]]) -> list:  # pyright: ignore[reportIncompatibleMethodOverride]
        truths = [self._truth(live) for live, _ in tokens]
        return [(new, truth.computed, truth.decodes) for (_, new), truth in zip(tokens, truths, strict=True)]

    def _count(self, tokens: list[tuple[Live, int]]) -> list[Live]:
        """Count the tokens in the books, and find the outcome, which the device knows before the scheduler does."""
        found: list[Outcome] = []
        for live, new in tokens:
            drafts, truth = self._advance_book(live, new), self._truth(live)
            if truth.generated == live.output_tokens:
                self.wasted += new  # it has ended in a batch under way
                continue
            truth.computed += new
            if drafts < 0:
                continue
            padded = live.index in self.padded
            accepted = 0 if padded else self.speculation.accepted(live.index, live.prompt_tokens + truth.generated, drafts)
            self.padded.discard(live.index)
            tokens_of = min(1 + accepted, live.output_tokens - truth.generated)
            truth.generated += tokens_of
            truth.computed, truth.decodes = live.prompt_tokens + truth.generated - 1, True
            found.append(Outcome(live, tokens_of, drafts, accepted))
        self.outcomes.append({one.leg.index: one for one in found})
        return [one.leg for one in found]

    def _tokens_of(self, live: Live) -> int:
        one = next(mine for mine in self.outcomes if live.index in mine).pop(live.index)
        self.drafts += one.drafts > 0
        self.draft_tokens += one.drafts
        self.accepted_tokens += one.accepted
        if live in self.running:
            book = self.books[live.index]
            book.computed -= one.drafts - one.accepted
            book.placeholders -= (1 + one.drafts) * self.config.async_scheduling
            if not self.config.async_scheduling:
                book.drafts = self.speculation.num_speculative_tokens
        return one.tokens

    _look_at = SpeculatingRank._look_at

    def _wanted(self, request: Live) -> int:
        return 0 if self._too_early(request) else SpeculatingRank._wanted(self, request)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        truth = self._truth(victim)
        truth.computed, truth.decodes = 0, False

    def _admit(self, request: Live, budget: int) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        new = SpeculatingRank._admit(self, request, budget)
        if new > 0:
            truth = self._truth(request)
            truth.computed, truth.decodes = request.computed, False
        return new
