"""How measured stamps guide a replay: the clock is set by them, so that the schedule becomes the measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Work = list[tuple[int, int]]  # (new, computed) of the requests in a step
Late = Callable[[int, int], float]  # seconds, by scheduled tokens and chunks
LATER = 0.5, 0.3  # of a step without and with chunks: a known end so much later than expected belongs to another step


@dataclass(frozen=True)
class Measured:
    """What was measured, in seconds on the simulation's clock.

    A replay sets its clock to every known end of a step. By count, a request leaves after its output tokens, and the stamps of first and
    last tokens set the clock of the steps that give them; else it leaves at the stamp of its last token. Which requests are admitted when,
    and when their first tokens come, is left to the replayed scheduler in both cases.

    first_s, last_s: float64[R], when the engine gave each request its first and its last token.
    ends_s: float64[B], increasing: other moments known to be the end of a step (the engine takes requests in only between steps).
    late_s: by how much a step is later than its price; only used to count the steps between two known moments, which a biased price would
        miscount.
    startup_s: how long the very first step waited to be launched (kernels that were compiled or loaded only then).
    by_count: see above.
    slack_s: a request whose queue stamp is this much after a formation was still seen by it (the stamp comes from the scheduler itself).
    """

    first_s: np.ndarray
    last_s: np.ndarray
    ends_s: np.ndarray
    late_s: Late
    startup_s: float
    by_count: bool
    slack_s: float = 2e-3

    def end(self, now_s: float, price_s: float, work: Work, given_s: list[float]) -> tuple[float, bool]:
        """When a step ends that starts now and gives the tokens of these stamps, and whether that is known."""
        if self.by_count and given_s:
            return float(np.median(given_s)), float(np.ptp(given_s)) < self.slack_s
        chunks = sum(new > 1 for new, _ in work)
        expected = now_s + price_s + self.late_s(sum(new for new, _ in work), chunks)
        at = int(np.searchsorted(self.ends_s, now_s + self.slack_s))
        known = at < len(self.ends_s) and bool(self.ends_s[at] < expected + LATER[chunks > 0] * price_s)
        return (float(self.ends_s[at]) if known else expected), known

    def leaves(self, request: int, tokens: int, output_tokens: int, now_s: float) -> bool:
        """Whether a request that has got so many tokens by now is done."""
        return tokens == output_tokens if self.by_count else now_s >= self.last_s[request] - 1e-6
