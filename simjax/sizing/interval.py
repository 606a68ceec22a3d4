"""The uncertainty of a capacity: the bracket in which the search ended, and the randomness of the load, by the jackknife over workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from simjax.metrics.slo import Slo
from simjax.sizing.verdict import Outcome, Verdict, verdict

_FARTHEST = 0.5  # from the rates that were tried to a crossing beyond them, on the scale of logarithms


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
    """The spread over workloads: each is left out in turn, and the rate found at which the others stop passing; 0 for a single one.

    Args:
        tried: outcomes by rate, one for each workload, of all rates that were tried on all of them.
        attainment: share of requests that must meet all limits.
        slo: the limits.
    """
    rates = sorted(tried)
    count = len(tried[rates[0]])
    if count < 2:
        return Spread(0.0, (False, False))
    verdicts = [[verdict([*tried[rate][:i], *tried[rate][i + 1 :]], attainment, slo) for rate in rates] for i in range(count)]
    crossings, known = zip(*(_crossing(rates, others) for others in verdicts), strict=True)
    unknown = [others[0].passes for sure, others in zip(known, verdicts, strict=True) if not sure]
    return Spread(math.sqrt((count - 1) * float(np.var(crossings))), (False in unknown, True in unknown))


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
    """Logarithm of the rate at which some workloads stop passing, where the margin, taken for linear in log rate, crosses 0.

    Beyond the rates that were tried the margin goes on as between the last two of them. Where it is infinite there, the last rate is
    returned, and False.
    """
    inside = next((i for i, found in enumerate(verdicts) if not found.passes), len(rates))
    right = min(max(inside, 1), len(rates) - 1)
    above, below = verdicts[right - 1].margin, verdicts[right].margin
    low, high = math.log(rates[right - 1]), math.log(rates[right])
    known = math.isfinite(above) and math.isfinite(below) and above > below
    if 0 < inside < len(rates):
        return low + (high - low) * (above / (above - below) if known else 0.5), True
    if not known:
        return (low if inside == 0 else high), False
    share = above / (above - below)
    return min(max(low + (high - low) * share, low - _FARTHEST), high + _FARTHEST), True
