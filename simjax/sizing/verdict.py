"""Whether a rate passes: the verdict on the runs of one design at one rate, a run for each workload."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simjax.metrics.latency import NAMES
from simjax.metrics.slo import Slo

MET = {f"{name}_s": f"{name}_attainment" for name in ("ttft", "tpot", "e2e")}
"""Columns with the share of the measured requests that meet a limit, by the limit's name."""
_LEAST_MISSED = 1e-4  # shares of missed requests below are those of chance
STEADY, ATTAINED = "steady", "slo_attainment"


@dataclass(frozen=True)
class Outcome:
    """A run at a rate.

    Attributes:
        steady: whether the system kept up with the arrivals; None where the run cannot tell.
        attained: share of the measured requests that met all limits.
        met: share that met each of the limits that are set, by the limit's name.
    """

    steady: bool | None
    attained: float
    met: Mapping[str, float]

    @staticmethod
    def of(row: Mapping[str, float | None], slo: Slo) -> Outcome:
        """From a row."""
        met = {name: float(row[MET[name]] or 0.0) for name in slo.limits()}
        steady = row[STEADY]
        return Outcome(None if steady is None else steady == 1, float(row[ATTAINED] or 0.0) if met else 1.0, met)


@dataclass(frozen=True)
class Verdict:
    """What a design does at a rate, over its workloads.

    Attributes:
        passes: whether more runs are steady than are not, and the share of all measured requests that met the limits is large enough.
            Where no run can tell whether it is steady, the limits decide; without limits the rate does not pass.
        attained: that share.
        steady: share of the runs that are steady.
        reason: why it does not pass; empty if it does.
        margin: how far the attainment is from what is asked: the logarithm of the share of requests that may miss a limit over that of
            those that do. Negative if it does not pass; infinite where it is not the attainment that decides.
    """

    passes: bool
    attained: float
    steady: float
    reason: str
    margin: float


def verdict(runs: Sequence[Outcome], attainment: float, slo: Slo) -> Verdict:
    """The verdict on the runs of a rate.

    Args:
        runs: a run for each workload.
        attainment: share of requests that must meet all limits.
        slo: the limits.
    """
    steady, drifting = (sum(run.steady is kind for run in runs) for kind in (True, False))
    share, attained = steady / len(runs), float(np.mean([run.attained for run in runs]))
    if drifting and drifting >= steady:
        return Verdict(False, attained, share, "not steady", -math.inf)
    if not slo.limits():
        short = "" if steady else "too short to tell whether it is steady; raise capacity.num_requests"
        return Verdict(not short, attained, share, short, -math.inf if short else math.inf)
    margin = math.log(max(1.0 - attainment, _LEAST_MISSED) / max(1.0 - attained, _LEAST_MISSED))
    if attained >= attainment:
        return Verdict(True, attained, share, "", max(margin, 0.0))
    met = {name: float(np.mean([run.met[name] for run in runs])) for name in slo.limits()}
    worst = min(met, key=lambda name: met[name])
    label = NAMES[worst.removesuffix("_s")]
    return Verdict(
        False, attained, share, f"{label}: {met[worst] * 100:.1f} % within {slo.limits()[worst]:g} s", min(margin, -_LEAST_MISSED)
    )
