"""vLLM's priority policy: a heap of waiting requests, and victims wherever they are in the list of running ones.

Requests go by (priority, queue time, number), small first. vLLM's heap goes by (priority, arrival stamp, id), and its victim is the largest
(priority, arrival stamp); stamps of two requests are never the same there, so the number stands for what is too small to be seen.
"""

from __future__ import annotations

from tests.reference.instance import Live, RefEngine


class PriorityRank(RefEngine):
    """A rank with `scheduling_policy` priority."""

    @staticmethod
    def key(live: Live) -> tuple[int, float, int]:
        return live.priority, live.queue_s, live.index

    def drain(self, horizon: float) -> None:
        super().drain(horizon)
        self.waiting.sort(key=self.key)

    def _schedule_running(self) -> tuple[list[tuple[Live, int]], int, bool]:
        """vLLM's scan. `cursor` is its `req_index`: an index into a list from which victims are taken."""
        new_tokens: dict[Live, int] = {}
        budget, preempted, cursor = self.config.max_num_batched_tokens, False, 0
        while cursor < len(self.running) and budget > 0:
            live = self.running[cursor]
            new = min(self._wanted(live), budget)
            if new <= 0:
                cursor += 1
                continue
            tokens, victim = self._scheduled_tokens(live) + new, None
            while victim is not live and not self.pool.grow(live.index, self._slots(tokens)):
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
            self._scheduled(live, tokens)
            new_tokens[live] = new
            budget -= new
            cursor += 1
        return list(new_tokens.items()), budget, preempted

    def _requeue(self, victim: Live) -> None:
        self.waiting.append(victim)
        self.waiting.sort(key=self.key)
