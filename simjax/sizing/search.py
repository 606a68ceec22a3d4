"""The search for the highest rate that passes: which rates to try next. It simulates nothing, and knows only which rates passed.

A rate has a margin: not negative if it passed, and the larger the further it is from failing; infinite where only the sign is known.

A first look, on one workload, spreads rates below the saturated throughput. The lowest that failed and the one below it are hints: they are
tried on all workloads, and one that these contradict is moved away, in steps that double. Between a rate that passed and one that did not,
two rates are tried as far apart as the tolerance, around the place where the margin, taken for linear in the logarithm of the rate,
crosses 0. If that shrinks the bracket by less than half, or margins are infinite, it is split evenly. The search ends when the highest rate
that passed and the lowest that did not are closer than the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

FIRST = (0.3, 0.6, 0.8, 0.92, 1.02, 1.12)
"""Rates of the first look, in saturated throughputs."""
BELOW, ABOVE = (0.002, 0.01, 0.05), (1.3, 1.7, 2.5, 4.0)
"""Rates of a second look where all of the first ones have failed or passed, in the lowest and the highest of these."""

Outcome = Literal["found", "none", "all"]


class Trial(NamedTuple):
    """Rates to try, and whether on all workloads or on the first one only."""

    rates: tuple[float, ...]
    everywhere: bool


@dataclass
class RateSearch:
    """The search of one design.

    Attributes:
        scale: an estimate of the throughput at saturation, requests/s.
        tolerance: relative width of the last bracket.
        least, most: bounds of the rates, None for those that follow from the scale.
        splits: rates inside a bracket that are tried at once.
        low, high: the highest rate that passed on all workloads, and the lowest one above it that did not; None before there is one.
        outcome: "none" or "all" if all rates that were tried failed or passed; None while the search goes on.
    """

    scale: float
    tolerance: float
    least: float | None = None
    most: float | None = None
    splits: int = 1
    low: float | None = None
    high: float | None = None
    outcome: Outcome | None = None
    _hints: tuple[float, float] | None = None
    _look: tuple[float, ...] = ()
    _looked: dict[float, bool] = field(default_factory=dict)
    _step: float = 0.0
    _margins: tuple[float, float] = (math.inf, -math.inf)
    _evenly: bool = False

    def __post_init__(self) -> None:
        self._look = self._within([x * self.scale for x in FIRST])
        self._step = 4.0 * self.tolerance

    def ask(self) -> Trial | None:
        """The rates to try next; None when the search has ended."""
        if self.outcome is not None:
            return None
        if self._hints is None:
            return Trial(self._look, everywhere=False)
        low, high = self._ends()
        unknown = tuple(rate for rate, known in ((low, self.low), (high, self.high)) if known is None)
        return Trial(unknown or self._inside(low, high), everywhere=True)

    def _inside(self, low: float, high: float) -> tuple[float, ...]:
        """Rates between a rate that passed and one that did not."""
        above, below = self._margins
        if self._evenly or not (math.isfinite(above) and math.isfinite(below)):
            return tuple(low * (high / low) ** ((i + 1) / (self.splits + 1)) for i in range(self.splits))
        middle, half = low * (high / low) ** (above / (above - below)), (1.0 + self.tolerance) ** 0.49
        around = tuple(rate for rate in (middle / half, middle * half) if low < rate < high)
        return around or ((low * high) ** 0.5,)

    def tell(self, margins: Mapping[float, float]) -> None:
        """Go on from the margins of the rates of `ask`."""
        if self._hints is None:
            self._looked |= {rate: margin >= 0 for rate, margin in margins.items()}
            self._after_look()
        else:
            before = self._ends()
            self._after_trial(margins)
            low, high = self._ends()
            self._evenly = not self._evenly and math.log(high / low) > 0.5 * math.log(before[1] / before[0])
            if self.outcome is None and self.low is not None and self.high is not None and high / low <= 1.0 + self.tolerance:
                self.outcome = "found"

    def reopen(self) -> None:
        """Search again around the bracket that was found, since there are more workloads on which to try its ends."""
        assert self.low is not None and self.high is not None
        self._hints, self.low, self.high, self.outcome = (self.low, self.high), None, None, None
        self._margins, self._evenly = (math.inf, -math.inf), False

    def _ends(self) -> tuple[float, float]:
        assert self._hints is not None
        return (self._hints[0] if self.low is None else self.low, self._hints[1] if self.high is None else self.high)

    def _after_look(self) -> None:
        """Hints from the first look: around the lowest rate that failed. Where there are none, a second look, or the end."""
        rates = sorted(self._looked)
        failed = next((rate for rate in rates if not self._looked[rate]), None)
        passed = next((rate for rate in reversed(rates) if self._looked[rate] and (failed is None or rate < failed)), None)
        if failed is not None and passed is not None:
            self._hints = passed, failed
            return
        again = self._within([x * rates[0] / FIRST[0] for x in BELOW] if failed is not None else [x * rates[-1] for x in ABOVE])
        self._look = tuple(rate for rate in again if rate not in self._looked)
        if not self._look or len(self._looked) > len(FIRST):
            self.outcome = "none" if failed is not None else "all"

    def _after_trial(self, margins: Mapping[float, float]) -> None:
        assert self._hints is not None
        for rate in sorted(margins):
            if margins[rate] >= 0:
                self.low, self._margins = rate, (margins[rate], self._margins[1])
            else:
                self.high, self._margins = rate, (self._margins[0], margins[rate])
                break
        low, high = self._hints
        if self.high is None and self.low is not None and self.low >= high:  # all workloads pass where the first one failed
            high = self._away(self.low * (1.0 + self._step))
            if high <= self.low:
                self.outcome = "all"
        if self.low is None and self.high is not None and self.high <= low:
            low = self._away(self.high / (1.0 + self._step))
            if low >= self.high or low < self.scale * BELOW[0] / 2.0:
                self.outcome = "none"
        self._hints = low, high

    def _away(self, rate: float) -> float:
        self._step *= 2.0
        (rate,) = self._within([rate])
        return rate

    def _within(self, rates: list[float]) -> tuple[float, ...]:
        """The rates, each moved to the nearest bound, without repetitions."""
        low, high = self.least or 0.0, self.most or float("inf")
        return tuple(sorted({min(max(rate, low), high) for rate in rates}))
