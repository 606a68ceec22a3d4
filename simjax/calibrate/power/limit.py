"""The power of a run's steps if they drew a factor more, under the same limit of the devices' boards.

A limit holds steps softly (`simjax.engine.power.physics`), and what it has left of them is logged. The form is undone, a factor applied,
and the limit again; of the later steps of a leap, which grow evenly and little, their mean is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import LeapLog, Result
from simjax.engine.power.physics import SHARPNESS
from simjax.metrics.steps import leap_durations

_MOST = 0.999
"""Share of the limit above which what a step would draw without it cannot be told: such steps are taken to draw 1.3 times the limit."""
PARTS = ("footprint", "memory", "compute")


@dataclass(frozen=True)
class Limits:
    """Most power of the N ranks beyond standby: as simulated, and as it should be.

    Attributes:
        simulated_w, wanted_w: float64[N], infinity for none.
    """

    simulated_w: np.ndarray
    wanted_w: np.ndarray


def drawing(result: Result, factor: float, limits: Limits) -> Result:
    """The run, by rank, with the energy of its steps a factor more before the limit holds it."""
    seen = by_rank(result)
    leaps = seen.leaps
    assert leaps is not None
    took_s = leap_durations(leaps)
    spans_s = {"": leaps.first_step_s, "later_": took_s - leaps.first_step_s}
    columns: dict[str, np.ndarray] = {}
    for prefix, span_s in spans_s.items():
        ratio = _ratio(leaps, prefix, span_s, factor, limits)
        columns |= {f"{prefix}{part}_j": ratio * getattr(leaps, f"{prefix}{part}_j") for part in PARTS}
    return replace(seen, leaps=replace(leaps, **columns))


def _ratio(leaps: LeapLog, prefix: str, span_s: np.ndarray, factor: float, limits: Limits) -> np.ndarray:
    """Energy of steps a factor higher over that in the log, float64[L]."""
    spent_j = sum(getattr(leaps, f"{prefix}{part}_j") for part in PARTS)
    drawn_w = np.divide(spent_j, span_s, out=np.zeros(len(span_s)), where=span_s > 0)
    simulated_w, wanted_w = limits.simulated_w[leaps.instance], limits.wanted_w[leaps.instance]
    share = np.minimum(drawn_w / simulated_w, _MOST)
    free_w = drawn_w * (1.0 - share**SHARPNESS) ** (-1.0 / SHARPNESS)
    asked = np.minimum(factor * free_w / wanted_w, 1e6)
    held_w = factor * free_w * (1.0 + asked**SHARPNESS) ** (-1.0 / SHARPNESS)
    return np.divide(held_w, drawn_w, out=np.ones(len(drawn_w)), where=drawn_w > 0)
