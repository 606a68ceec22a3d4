"""The power of a run's steps if they drew a factor more, under the same limit of the devices' boards.

A limit holds steps softly (`simjax.engine.power.physics`), and what it has left of them is logged. The form is undone, a factor applied,
and the limit again; of the later steps of a leap, which grow evenly and little, their mean is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def drawing(result: Result, factor: float | Mapping[str, float], limits: Limits) -> Result:
    """The run, by rank, with the energy of its steps a factor more before the limit holds it; one for all `PARTS`, or one for each."""
    seen = by_rank(result)
    leaps, factors = seen.leaps, dict.fromkeys(PARTS, factor) if isinstance(factor, float) else factor
    assert leaps is not None
    spans_s = {"": leaps.first_step_s, "later_": leap_durations(leaps) - leaps.first_step_s}
    columns: dict[str, np.ndarray] = {}
    for prefix, span_s in spans_s.items():
        columns |= _columns(leaps, prefix, span_s, factors, limits)
    return replace(seen, leaps=replace(leaps, **columns))


def _columns(leaps: LeapLog, prefix: str, span_s: np.ndarray, factors: Mapping[str, float], limits: Limits) -> dict[str, np.ndarray]:
    """Joules of the parts of steps a factor higher, float64[L] each."""
    parts_j = {name: getattr(leaps, f"{prefix}{name}_j") for name in PARTS}
    per_s = np.divide(1.0, span_s, out=np.zeros(len(span_s)), where=span_s > 0)
    simulated_w, wanted_w = limits.simulated_w[leaps.instance], limits.wanted_w[leaps.instance]
    share = np.minimum(sum(parts_j.values()) * per_s / simulated_w, _MOST)
    freed = (1.0 - share**SHARPNESS) ** (-1.0 / SHARPNESS)
    free_j = {name: factors[name] * freed * joules for name, joules in parts_j.items()}
    asked = np.minimum(sum(free_j.values()) * per_s / wanted_w, 1e6)
    held = (1.0 + asked**SHARPNESS) ** (-1.0 / SHARPNESS)
    return {f"{prefix}{name}_j": held * joules for name, joules in free_j.items()}
