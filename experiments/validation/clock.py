"""Measured stamps that guide a replay: they set its clock, so that its schedule becomes the measured one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Work = list[tuple[int, int]]  # (new, computed) of the requests in a step
Late = Callable[[int, int], float]  # seconds, by scheduled tokens and chunks
LATER = 0.5, 0.3  # tolerances without and with chunks: a known end later than expected by more than this belongs to another step


@dataclass(frozen=True)
class Measured:
    """Measured times, in seconds on the simulation's clock.

    A replay sets its clock to every known end of a step. With `by_count`, a request leaves after its output tokens, and the stamps of first
    and last tokens set the clock of the steps that give them; otherwise it leaves at the stamp of its last token. In both cases the
    replayed scheduler decides which requests are admitted when, and so when their first tokens come.

    first_s, last_s: float64[R], times of each request's first and last token in the instance.
    ends_s: float64[B], increasing: other known ends of steps (the scheduler takes requests in only between steps).
    late_s: excess of a step over its predicted time; only used to count the steps between two known moments, which a biased prediction
        would miscount.
    startup_s: seconds that the very first step waited to be launched (kernels that were compiled or loaded only then).
    by_count: see above.
    slack_s: a request whose queue stamp is at most this long after a formation was seen by it (the stamp comes from the scheduler itself).
    """

    first_s: np.ndarray
    last_s: np.ndarray
    ends_s: np.ndarray
    late_s: Late
    startup_s: float
    by_count: bool
    slack_s: float = 2e-3

    def end(self, now_s: float, predicted_s: float, work: Work, given_s: list[float]) -> tuple[float, bool]:
        """End of a step that starts now and gives the tokens of these stamps, and whether it is known from them."""
        if self.by_count and given_s:
            return float(np.median(given_s)), float(np.ptp(given_s)) < self.slack_s
        chunks = sum(new > 1 for new, _ in work)
        expected = now_s + predicted_s + self.late_s(sum(new for new, _ in work), chunks)
        at = int(np.searchsorted(self.ends_s, now_s + self.slack_s))
        known = at < len(self.ends_s) and bool(self.ends_s[at] < expected + LATER[chunks > 0] * predicted_s)
        return (float(self.ends_s[at]) if known else expected), known

    def leaves(self, request: int, tokens: int, output_tokens: int, now_s: float) -> bool:
        """Whether a request with this number of tokens has finished by now."""
        return tokens == output_tokens if self.by_count else now_s >= self.last_s[request] - 1e-6
