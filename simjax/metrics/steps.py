"""The steps within leaps: duration, end and output of every step, vectorised; and integrals over bins of what steps do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import LeapLog


@dataclass(frozen=True)
class Steps:
    """Every step of a run, arrays over the P steps, leap by leap.

    Attributes:
        leap: int64[P], the leap that the step belongs to.
        index: int64[P], position inside the leap, 0 for the leap's step 1.
        duration_s, end_s: float64[P], seconds.
        outputs: int64[P], tokens emitted at `end_s`.
        decodes: int64[P], tokens among `outputs` whose inter-token gap is `duration_s`.
    """

    leap: np.ndarray
    index: np.ndarray
    duration_s: np.ndarray
    end_s: np.ndarray
    outputs: np.ndarray
    decodes: np.ndarray


def leap_durations(leaps: LeapLog) -> np.ndarray:
    """Seconds from the start of step 1 to the end of the last step, float64[L]: n-1 decode steps whose time grows by the slope."""
    more = leaps.steps.astype(np.float64) - 1.0
    return leaps.first_step_s + more * leaps.next_step_s + leaps.slope_s * more * np.maximum(more - 1.0, 0.0) / 2.0


def expand_steps(leaps: LeapLog) -> Steps:
    """All steps of all leaps. 4e5 steps take about 30 ms and 20 MB."""
    counts = leaps.steps.astype(np.int64)
    leap = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(leap)) - np.repeat(np.cumsum(counts) - counts, counts)
    later = index.astype(np.float64)  # steps since step 1, so step j (from 0) takes next + slope * (j - 1)
    first, following, slope = leaps.first_step_s[leap], leaps.next_step_s[leap], leaps.slope_s[leap]
    is_first = index == 0
    return Steps(
        leap=leap,
        index=index,
        duration_s=np.where(is_first, first, following + slope * (later - 1.0)),
        end_s=leaps.start_s[leap] + first + later * following + slope * later * np.maximum(later - 1.0, 0.0) / 2.0,
        outputs=np.where(is_first, leaps.first_outputs[leap], leaps.outputs[leap]).astype(np.int64),
        decodes=np.where(is_first, leaps.decodes[leap], leaps.outputs[leap]).astype(np.int64),
    )


def binned(edges: np.ndarray, start: np.ndarray, span: np.ndarray, rate: np.ndarray, rate_end: np.ndarray | None = None) -> np.ndarray:
    """Exact integrals over each bin of a rate that is linear inside each segment.

    Args:
        edges: float64[B+1]; the outer bins also take what lies beyond the outer edges by rounding.
        start: float64[K], segment starts, sorted; segments do not overlap.
        span: float64[K], segment lengths, >= 0.
        rate: float64[K], rate at the segment's start times `span`, so that a segment of no length can carry something.
        rate_end: float64[K], the same at its end; constant when absent.

    Returns:
        float64[B], sums to the segments' total.
    """
    if len(start) == 0:
        return np.zeros(len(edges) - 1)
    slope = np.zeros_like(rate) if rate_end is None else rate_end - rate
    before = np.concatenate([[0.0], np.cumsum(rate + slope / 2.0)])
    inner = edges[1:-1]
    k = np.searchsorted(start, inner, side="right") - 1  # the segment that each edge falls in or after
    at = np.maximum(k, 0)
    done = np.where(span[at] > 0, np.clip((inner - start[at]) / np.where(span[at] > 0, span[at], 1.0), 0.0, 1.0), 1.0)
    filled = np.where(k >= 0, before[at] + rate[at] * done + slope[at] * done**2 / 2.0, 0.0)
    return np.diff(np.concatenate([[0.0], filled, [before[-1]]]))
