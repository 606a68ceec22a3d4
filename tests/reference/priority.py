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
            request = self.running[cursor]
            if request.finished:  # its last token is in flight
                cursor += 1
                continue
            new = min(self._need(request, request.computed), budget)
            victim = None
            while victim is not request and not self.pool.grow(request.index, self.config.blocks(request.computed + new)):
                victim = max(self.running, key=self.key)
                preempted, place = True, self.running.index(victim)
                given = new_tokens.pop(victim, None)
                if place < cursor and (given is not None or not self.config.preempt_leaves_out):
                    cursor -= 1
                budget += given or 0
                self._preempt(victim)
            if victim is request:
                if not self.config.preempt_self_goes_on:
                    break
                continue
            self._name_up_to(request, request.computed + new)
            new_tokens[request] = new
            budget -= new
            cursor += 1
        return list(new_tokens.items()), budget, preempted

    def _preempt(self, victim: Live) -> None:
        self.running.remove(victim)
        self._take_blocks(victim)
        if not victim.finished:
            self.waiting.append(victim)
            self.waiting.sort(key=self.key)
