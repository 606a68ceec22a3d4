"""A fit of a run's power to a meter's log: what is put in is found again, and the measured server of figure 6."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simjax.calibrate.power.log_fit import FINE_S, fit_log
from simjax.errors import SimjaxError
from simjax.metrics.energy.series import device_power
from simjax.power.logs import PowerLog
from tests.metrics.factory import tiny
from tests.metrics.test_energy import powered

SAMPLES_S = 0.1


def metered(start_s: float, rest_w: float, standby_w: float, factor: float, noise_w: float = 0.0) -> PowerLog:
    """The log of the tiny run: 370 W of steps and standby for four seconds after them, at a meter that began before it."""
    result = powered()
    assert result.plant is not None
    result = replace(result, plant=replace(result.plant, standing_w=np.ones(1)))
    edges = SAMPLES_S * np.arange(round(20.5 / SAMPLES_S) + 1)
    parts = device_power(result, edges)
    steps = sum(parts[name][0] for name in ("footprint", "memory", "compute"))
    watts = rest_w + standby_w * parts["standby"][0] + factor * steps
    late = round(start_s / SAMPLES_S)
    watts = np.append(np.full(late, rest_w), watts)
    watts = watts + np.random.default_rng(0).normal(0.0, noise_w, len(watts))
    return PowerLog(SAMPLES_S * np.arange(len(watts)) + 0.01, watts, "plain")


def test_what_was_put_in_is_found_again():
    fit = fit_log(powered(), metered(1.2, 400.0, 30.0, 1.1))
    assert fit.start_s == pytest.approx(1.2, abs=FINE_S / 2 + 1e-9) and fit.standby_s == 4.0
    assert (fit.rest_w, fit.standby_w, fit.factor) == pytest.approx((400.0, 30.0, 1.1), rel=1e-6)
    assert fit.mape_pct < 1e-6 and fit.energy_j == pytest.approx(fit.measured_j)


def test_the_interval_of_the_energy_holds_it():
    quiet, noisy = (fit_log(powered(), metered(0.5, 400.0, 30.0, 1.1, noise_w=x)) for x in (5.0, 50.0))
    low, high = noisy.interval_j(0.99)
    assert low < quiet.energy_j < high and 0 < quiet.energy_sd_j < noisy.energy_sd_j
    assert noisy.interval_j(0.5)[0] > low


def test_runs_and_logs_without_what_it_needs():
    with pytest.raises(SimjaxError, match=r"needs a run with power \(power=utilization\) and a leap log"):
        fit_log(tiny(), metered(0.0, 400.0, 30.0, 1.0))
    short = PowerLog(np.arange(5.0), np.full(5, 400.0), "plain")
    with pytest.raises(SimjaxError, match=r"needs 10 seconds with samples in common with the run, and has 4"):
        fit_log(powered(), short)
