"""The uncertainty of a capacity: the bracket in which the search ended, and the randomness of the load, by the jackknife over workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from simjax.metrics.slo import Slo
from simjax.sizing.verdict import Outcome, Verdict, verdict


def interval(
    tried: Mapping[float, Sequence[Outcome]], bracket: tuple[float, float], attainment: float, slo: Slo, level: float
) -> tuple[float, float]:
    """The interval of a capacity in requests/s.

    The jackknife leaves out each workload in turn and finds where the others would stop passing, on a logarithmic scale of rates. The
    bracket is widened to both sides by Student's t times the standard error that follows from their spread. With one workload it is
    the bracket alone.

    Args:
        tried: outcomes by rate, one for each workload, of all rates that were tried on all of them.
        bracket: highest rate that passed and lowest one that did not.
        attainment: share of requests that must meet all limits.
        slo: the limits.
        level: probability of the interval.
    """
    count = len(next(iter(tried.values())))
    if count < 2:
        return bracket
    from scipy.stats import t  # here, not at the top: importing the package stays quick

    rates = sorted(tried)
    without = [
        math.log(_crossing(rates, [verdict([*tried[rate][:i], *tried[rate][i + 1 :]], attainment, slo) for rate in rates], attainment))
        for i in range(count)
    ]
    error = math.sqrt((count - 1) * float(np.var(without)))
    factor = math.exp(float(t.ppf(0.5 + level / 2.0, count - 1)) * error)
    return bracket[0] / factor, bracket[1] * factor


def _crossing(rates: Sequence[float], verdicts: Sequence[Verdict], attainment: float) -> float:
    """The rate at which some workloads stop passing, between those tried: where the attainment, taken for linear in log rate, crosses."""
    inside = next((i for i, found in enumerate(verdicts) if not found.passes), len(rates))
    if inside in (0, len(rates)):
        return rates[min(inside, len(rates) - 1)]
    below, above = verdicts[inside - 1].attained, verdicts[inside].attained
    by_limits = below >= attainment > above
    share = (below - attainment) / (below - above) if by_limits else 0.5
    return rates[inside - 1] * (rates[inside] / rates[inside - 1]) ** share
