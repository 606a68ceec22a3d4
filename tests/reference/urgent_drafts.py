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

    def _schedule_running(self) -> tuple[list[tuple[Live, int]], int, bool]:
        """The scan of `PriorityRank`, over what `SpeculatingRank` gives to each."""
        new_tokens: dict[Live, int] = {}
        budget, preempted, cursor = self.config.max_num_batched_tokens, False, 0
        while cursor < len(self.running) and budget > 0:
            live = self.running[cursor]
            new = min(self._wanted(live), budget)
            if new <= 0:
                cursor += 1
                continue
            slots, victim = self._slots(self.books[live.index].computed + new), None
            while victim is not live and not self.pool.grow(live.index, slots):
                victim = max(self.running, key=self.key)
                preempted, place = True, self.running.index(victim)
                given = new_tokens.pop(victim, None)
                if place < cursor and (given is not None or not self.config.preempt_leaves_out):
                    cursor -= 1
                budget += given or 0
                self._preempt(victim)
            if victim is live:
                if not self.config.preempt_self_goes_on:
                    break
                continue
            self.scheduled_blocks[live.index] = self.pool.num_held(live.index)
            self._name_up_to(live, self.books[live.index].computed + new)
            new_tokens[live] = new
            budget -= new
            cursor += 1
        return list(new_tokens.items()), budget, preempted

    def _wanted(self, live: Live) -> int:
        """Tokens that a request would compute with budget enough; 0 if the step in flight surely brings its last one."""
        book = self.books[live.index]
        if book.placeholders and book.computed + 2 - book.placeholders >= live.prompt_tokens + live.output_tokens:
            return 0
        need = self._need(live, book.computed - book.drafts - book.placeholders)
        return min(need, self.config.max_model_len - 1 - book.computed)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        self.decoding.discard(victim.index)
        del self.books[victim.index]
