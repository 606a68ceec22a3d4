"""A rank that schedules by priority and decodes speculatively: vLLM's scan from one victim to the next, with its books of drafts.

A request that is in the middle of its last step is a victim like any other, for the scheduler does not know; it goes back into the
heap, and leaves it when its tokens come back.
"""

from __future__ import annotations

from tests.reference.instance import Live
from tests.reference.priority import PriorityRank
from tests.reference.speculation import SpeculatingRank


class UrgentSpeculatingRank(SpeculatingRank, PriorityRank):
    """A rank with drafts and `scheduling_policy` priority."""

    _schedule_running = PriorityRank._schedule_running  # over what `SpeculatingRank` gives to each

    def _wanted(self, live: Live) -> int:
        """Tokens that a request would compute with budget enough; 0 if the step in flight surely brings its last one."""
        book = self.books[live.index]
        if book.placeholders and book.computed + 2 - book.placeholders >= live.prompt_tokens + live.output_tokens:
            return 0
        need = self._need(live, book.computed - book.drafts - book.placeholders)
        return min(need, self.config.max_model_len - 1 - book.computed)

    def _computed(self, live: Live) -> int:
        return self.books[live.index].computed

    def _scheduled(self, live: Live, tokens: int) -> None:
        self.scheduled_blocks[live.index] = self.pool.num_held(live.index)
        super()._scheduled(live, tokens)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        self.decoding.discard(victim.index)
        del self.books[victim.index]
