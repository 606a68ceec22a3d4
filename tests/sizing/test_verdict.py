"""Verdicts on rates, and the spread over workloads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.sizing.interval import Spread, interval, spread
from simjax.sizing.verdict import Outcome, verdict

LIMITS = Slo(ttft_s=1.0, tpot_s=0.05)


def outcome(attained: float, steady: bool | None = True, ttft: float = 1.0) -> Outcome:
    return Outcome(steady, attained, {"ttft_s": ttft, "tpot_s": 1.0})


def test_all_measured_requests_count_not_each_workload() -> None:
    assert verdict([outcome(1.0), outcome(0.985)], 0.99, LIMITS).passes
    found = verdict([outcome(1.0), outcome(0.975, ttft=0.976)], 0.99, LIMITS)
    assert not found.passes and found.attained == pytest.approx(0.9875)
    assert found.reason == "TTFT: 98.8 % within 1 s" and found.margin == pytest.approx(math.log(0.01 / 0.0125))


def test_steadiness() -> None:
    assert verdict([outcome(1.0, steady) for steady in (True, True, False)], 0.99, LIMITS).passes
    assert verdict([outcome(1.0, steady) for steady in (True, False, False)], 0.99, LIMITS).reason == "not steady"
    assert verdict([outcome(1.0, steady) for steady in (None, False)], 0.99, LIMITS).reason == "not steady"
    assert verdict([outcome(1.0, None)], 0.99, LIMITS).passes, "where no run can tell, the limits decide"
    assert "too short" in verdict([Outcome(None, 1.0, {})], 0.99, NO_LIMITS).reason
    assert verdict([Outcome(True, 1.0, {})], 0.99, NO_LIMITS).passes


def test_outcomes_of_rows() -> None:
    row = {"steady": None, "slo_attainment": 0.5, "ttft_attainment": 0.5, "tpot_attainment": None, "e2e_attainment": 0.9}
    assert Outcome.of(row, LIMITS) == Outcome(None, 0.5, {"ttft_s": 0.5, "tpot_s": 0.0})
    assert Outcome.of({**row, "steady": 0}, NO_LIMITS) == Outcome(False, 1.0, {}), "without limits every request attains them"


def attainments(crossings: np.ndarray, rates: np.ndarray) -> dict[float, list[Outcome]]:
    """Workloads whose attainment falls linearly in the logarithm of the rate, each through 0.99 at its own rate."""
    return {rate: [outcome(0.99 - 0.001 * math.log(rate / own)) for own in crossings] for rate in rates}


@pytest.mark.parametrize("rates", [np.exp(np.linspace(-0.3, 0.3, 61)), np.array([0.999, 1.001])])
def test_the_spread_is_the_standard_error_of_the_mean(rates: np.ndarray) -> None:
    """Where attainments are linear, the pooled crossing is the mean of the workloads' own, and the jackknife its standard error, also
    where workloads cross beyond the rates that were tried."""
    logs = np.random.default_rng(3).normal(0.0, 0.05, 12)
    found = spread(attainments(np.exp(logs), rates), 0.99, Slo(ttft_s=1.0))
    assert found.error == pytest.approx(logs.std(ddof=1) / math.sqrt(12), rel=0.01) and found.beyond == (False, False)


def test_unknown_crossings_beyond_the_rates_are_told() -> None:
    steady = lambda *flags: [Outcome(flag, 1.0, {}) for flag in flags]
    assert spread({1.0: steady(True, True, False), 1.1: steady(False, False, False)}, 0.99, NO_LIMITS).beyond == (True, False)
    assert spread({1.0: steady(True, True, True), 1.1: steady(True, False, False)}, 0.99, NO_LIMITS).beyond == (False, False)
    assert spread({1.0: steady(True, True, True), 1.1: steady(True, True, False)}, 0.99, NO_LIMITS).beyond == (False, True)


def test_the_interval_holds_the_bracket() -> None:
    low, high = interval(Spread(0.02, (False, False)), (10.0, 10.1), 4, 0.9)
    assert (low, high) == pytest.approx((10.0 * math.exp(-2.3534 * 0.02), 10.1 * math.exp(2.3534 * 0.02)), rel=1e-4)
    assert interval(Spread(0.0, (False, False)), (10.0, 10.1), 1, 0.9) == (10.0, 10.1)
