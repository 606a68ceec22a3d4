"""The steps of every rank on its clock: what happened in any stretch of time, from the leap log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import LeapLog
from simjax.metrics.steps import expand_steps


@dataclass(frozen=True)
class Clock:
    """The P steps of one rank, in order; each array but `end_s` is a sum up to and including a step, with 0 before the first: [P + 1].

    Attributes:
        end_s: float64[P], ends of the steps, seconds.
        busy_s: float64[P + 1], time of the steps.
        mixed_s: time of the steps that hold prompts.
        prompts_s: what these take longer than the decode-only step that is nearest before them, or of the same leap.
        prompt_tokens: prompt tokens computed.
    """

    end_s: np.ndarray
    busy_s: np.ndarray
    mixed_s: np.ndarray
    prompts_s: np.ndarray
    prompt_tokens: np.ndarray

    def between(self, start_s: float, end_s: float) -> tuple[int, float, float, float, float]:
        """Number of steps that end within (start_s, end_s], and the sums over them in the order of the attributes."""
        first, last = np.searchsorted(self.end_s, [start_s + _APART_S, end_s + _APART_S], side="right")
        sums = (self.busy_s, self.mixed_s, self.prompts_s, self.prompt_tokens)
        return int(last - first), *(float(x[last] - x[first]) for x in sums)  # pyright: ignore[reportReturnType]


_APART_S = 1e-9  # ends of steps are sums, which rounding moves; no step is as short


def clocks_of(leaps: LeapLog, ranks: int) -> list[Clock]:
    """The clock of each rank."""
    steps = expand_steps(leaps)
    rank = leaps.instance[steps.leap]
    mine = [rank == i for i in range(ranks)]
    return [_clock(leaps, steps.leap[x], steps.index[x], steps.duration_s[x], steps.end_s[x]) for x in mine]


def _clock(leaps: LeapLog, leap: np.ndarray, index: np.ndarray, duration_s: np.ndarray, end_s: np.ndarray) -> Clock:
    tokens = np.where(index == 0, leaps.prompt_tokens[leap], 0)
    mixed = tokens > 0
    # A step with prompts is compared with the decodes that follow it in its leap, else with the last decode-only step before it.
    before = np.maximum.accumulate(np.where(~mixed, np.arange(len(leap)), -1)) if len(leap) else np.zeros(0, int)
    last_s = np.where(before >= 0, duration_s[before], 0.0)
    alone_s = np.where(leaps.steps[leap] > 1, leaps.next_step_s[leap], last_s)
    longer_s = np.where(mixed, duration_s - np.clip(alone_s, 0.0, duration_s), 0.0)
    summed = lambda x: np.concatenate([[0.0], np.cumsum(x)])
    return Clock(end_s, summed(duration_s), summed(np.where(mixed, duration_s, 0.0)), summed(longer_s), summed(tokens))
