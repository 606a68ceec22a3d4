"""The uncertainty of a capacity: the bracket in which the search ended, and the randomness of the load, by the jackknife over workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simjax.metrics.slo import Slo
from simjax.sizing.verdict import Outcome, Verdict, verdict

_NEAR = 3.5  # margins of rates that tell the slope: at larger ones hardly a request misses a limit, or most do


class Spread(NamedTuple):
    """The randomness of a capacity, on a logarithmic scale of rates.

    Attributes:
        error: standard error, by the jackknife.
        beyond: whether some workloads cross below the lowest rate that was tried, and above the highest, and it is not known where: then
            the error is too small.
    """

    error: float
    beyond: tuple[bool, bool]


def spread(tried: Mapping[float, Sequence[Outcome]], attainment: float, slo: Slo) -> Spread:
    """The spread over workloads, by leaving out each in turn; 0 for a single one.

    Where the attainment decides, a workload moves the margins of all others up or down, and the capacity by as much over the slope of the
    margin. Where it is steadiness, the rate is found at which the others stop passing.

    Args:
        tried: outcomes by rate, one for each workload, of all rates that were tried on all of them.
        attainment: share of requests that must meet all limits.
        slo: the limits.
    """
    rates = sorted(tried)
    count = len(tried[rates[0]])
    if count < 2:
        return Spread(0.0, (False, False))
    margins = np.array([verdict(tried[rate], attainment, slo).margin for rate in rates])
    without = [[verdict([*tried[rate][:i], *tried[rate][i + 1 :]], attainment, slo) for rate in rates] for i in range(count)]
    near = np.array([abs(margin) < _NEAR and all(math.isfinite(x[k].margin) for x in without) for k, margin in enumerate(margins)])
    beyond = (False, False)
    if near.sum() >= 2 and (slope := float(np.polyfit(np.log(rates)[near], margins[near], 1)[0])) < 0:
        moved = np.array([[found.margin for found in others] for others in without])[:, near].mean(axis=1) / -slope
    else:
        moved, known = zip(*(_crossing(rates, others) for others in without), strict=True)
        unknown = [others[0].passes for sure, others in zip(known, without, strict=True) if not sure]
        beyond = False in unknown, True in unknown
    return Spread(math.sqrt((count - 1) * float(np.var(moved))), beyond)


def interval(found: Spread, bracket: tuple[float, float], count: int, level: float) -> tuple[float, float]:
    """The interval of a capacity in requests/s: the bracket, widened to both sides by Student's t times the standard error.

    Args:
        found: the spread over workloads.
        bracket: highest rate that passed and lowest one that did not.
        count: number of workloads.
        level: probability of the interval.
    """
    if count < 2:
        return bracket
    from scipy.stats import t  # here, not at the top: importing the package stays quick

    factor = math.exp(float(t.ppf(0.5 + level / 2.0, count - 1)) * found.error)
    return bracket[0] / factor, bracket[1] * factor


def _crossing(rates: Sequence[float], verdicts: Sequence[Verdict]) -> tuple[float, bool]:
    """Logarithm of the rate, between those tried, at which some workloads stop passing; beyond them the last one, and False."""
    inside = next((i for i, found in enumerate(verdicts) if not found.passes), len(rates))
    if inside in (0, len(rates)):
        return math.log(rates[min(inside, len(rates) - 1)]), False
    return 0.5 * math.log(rates[inside - 1] * rates[inside]), True
