"""The uncertainty of a capacity: the bracket in which the search ended, and the randomness of the load, by the jackknife over workloads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from simjax.sizing.verdict import Outcome


def interval(
    tried: Mapping[float, Sequence[Outcome]], bracket: tuple[float, float], attainment: float, level: float
) -> tuple[float, float]:
    """The interval of a capacity in requests/s.

    The jackknife leaves out each workload in turn and finds where the others would stop passing, on a logarithmic scale of rates. The
    bracket is widened to both sides by Student's t times the standard error that follows from their spread. With one workload it is
    the bracket alone.

    Args:
        tried: outcomes by rate, one for each workload, of all rates that were tried on all of them.
        bracket: highest rate that passed and lowest one that did not.
        attainment: share of requests that must meet all limits.
        level: probability of the interval.
    """
    count = len(next(iter(tried.values())))
    if count < 2:
        return bracket
    from scipy.stats import t  # here, not at the top: importing the package stays quick

    rates = np.array(sorted(tried))
    steady = np.array([[run.steady for run in tried[rate]] for rate in rates], float)
    attained = np.array([[run.attained for run in tried[rate]] for rate in rates])
    without = [
        math.log(_crossing(rates, steady[:, others].mean(axis=1), attained[:, others].mean(axis=1), attainment, bracket))
        for others in (np.arange(count) != left_out for left_out in range(count))
    ]
    error = math.sqrt((count - 1) * float(np.var(without)))
    factor = math.exp(float(t.ppf(0.5 + level / 2.0, count - 1)) * error)
    return bracket[0] / factor, bracket[1] * factor


def _crossing(rates: np.ndarray, steady: np.ndarray, attained: np.ndarray, attainment: float, bracket: tuple[float, float]) -> float:
    """The rate at which some workloads stop passing, between those tried: where the attainment, taken for linear in log rate, crosses."""
    passes = (steady > 0.5) & (attained >= attainment)
    inside = int(np.argmin(passes)) if not passes.all() else len(rates)  # the lowest rate that fails
    if inside == 0:
        return float(rates[0])
    if inside == len(rates):
        return float(rates[-1])
    low, high = float(rates[inside - 1]), float(rates[inside])
    share = 0.5
    if steady[inside] > 0.5:
        share = float((attained[inside - 1] - attainment) / max(attained[inside - 1] - attained[inside], 1e-12))
    return low * (high / low) ** share
