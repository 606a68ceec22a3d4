"""A fit of a run's power to the log of a meter: what it draws at rest, with clocks raised and in steps, and when its clock starts.

At the log's seconds the power of a simulated run is a sum of three shapes: constant while it lasts, while clocks are raised, and the power
of its steps. Their sizes are found by least squares without negative ones, for every start of the clock and length of standby on a grid, of
which the best is taken. The interval of the energy comes from the residuals, taken as a first-order autoregression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import norm

from simjax.engine.host.result import Result
from simjax.errors import SimjaxError
from simjax.metrics.energy.parts import span_of
from simjax.metrics.energy.series import device_power
from simjax.power.logs import PowerLog

FINE_S = 0.1
FEWEST_SECONDS = 10
STANDBY_S = tuple(np.arange(0.0, 30.5, 0.5).tolist())


@dataclass(frozen=True)
class PowerFit:
    """Power of a run fitted to a log.

    Attributes:
        start_s: the simulated run begins so many seconds after the log.
        rest_w: power at rest, of all that the meter sees.
        standby_w: power of raised clocks beyond that.
        standby_s: seconds for which they stay raised after the last work.
        factor: measured over simulated power of the steps beyond standby.
        mape_pct: mean absolute error of a second in percent.
        energy_j: energy of the fitted run over the log's seconds.
        energy_sd_j: its standard deviation.
        measured_j: energy of the log over them.
        fitted_w, measured_w: float64[T], the seconds themselves.
    """

    start_s: float
    rest_w: float
    standby_w: float
    standby_s: float
    factor: float
    mape_pct: float
    energy_j: float
    energy_sd_j: float
    measured_j: float
    fitted_w: np.ndarray
    measured_w: np.ndarray

    def interval_j(self, level: float = 0.9) -> tuple[float, float]:
        """The interval of the energy, in joules."""
        reach = float(norm.ppf(0.5 + level / 2)) * self.energy_sd_j
        return self.energy_j - reach, self.energy_j + reach


def fit_log(result: Result, log: PowerLog, latest_s: float = 5.0) -> PowerFit:
    """The power of a run as a log has it.

    Args:
        result: a run with power and a leap log, of the requests that were served while the meter ran.
        log: the samples of the meter.
        latest_s: most seconds from the log's first sample to the run's first request.

    Raises:
        SimjaxError: the run has no power or no leap log, or the log is too short.
    """
    if result.plant is None or result.leaps is None:
        raise SimjaxError("a fit to a power log needs a run with power (power=utilization) and a leap log")
    begin_s, end_s = span_of(result)
    seconds = int(min(np.floor(log.t_s[-1]), np.floor(end_s - begin_s)))
    measured = log.by_second(seconds)
    there = np.isfinite(measured)
    if there.sum() < FEWEST_SECONDS:
        raise SimjaxError(f"a fit to a power log needs {FEWEST_SECONDS} seconds with samples in common with the run, and has {there.sum()}")
    edges = begin_s + FINE_S * np.arange(round((seconds + latest_s) / FINE_S) + 1)
    best: tuple[float, float, float, np.ndarray, np.ndarray] | None = None
    for standby_s in STANDBY_S:
        awake, steps = _shapes(result, edges, standby_s)
        for late in range(0, round(latest_s / FINE_S) + 1):
            columns = np.stack([np.ones(seconds), _moved(awake, late, seconds), _moved(steps, late, seconds)], axis=1)
            sizes, misfit = nnls(columns[there], measured[there])
            if best is None or misfit < best[0]:
                best = (float(misfit), late * FINE_S, standby_s, sizes, columns)
    assert best is not None
    _, start_s, standby_s, sizes, columns = best
    fitted = columns @ sizes
    spread = _energy_sd(columns[there], measured[there] - fitted[there], columns.sum(axis=0))
    error = 100 * float(np.mean(np.abs(fitted[there] / measured[there] - 1)))
    whole = float(np.sum(measured[there])), float(np.sum(fitted))
    rest_w, standby_w, factor = (float(x) for x in sizes)
    return PowerFit(start_s, rest_w, standby_w, standby_s, factor, error, whole[1], spread, whole[0], fitted, measured)


def _shapes(result: Result, edges: np.ndarray, standby_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Share of the ranks whose clocks are raised, and watts of the steps, float64[B] both."""
    plant = result.plant
    assert plant is not None
    ranks = len(plant.idle_w)
    unit = replace(plant, standing_w=np.ones(ranks), standby_s=np.full(ranks, standby_s))
    parts = device_power(replace(result, plant=unit), edges)
    return parts["standby"].mean(axis=0), (parts["footprint"] + parts["memory"] + parts["compute"]).sum(axis=0)


def _moved(fine: np.ndarray, late: int, seconds: int) -> np.ndarray:
    """Means over the log's seconds of a shape that begins `late` bins after it."""
    per = round(1.0 / FINE_S)
    return np.append(np.zeros(late), fine)[: seconds * per].reshape(seconds, per).mean(axis=1)


def _energy_sd(columns: np.ndarray, residuals: np.ndarray, total: np.ndarray) -> float:
    """Standard deviation of the energy, of which residuals that follow one another say less than as many that do not."""
    used = columns.any(axis=0)
    inside = columns[:, used]
    variance = float(residuals @ residuals) / max(len(residuals) - inside.shape[1], 1)
    follow = float(np.clip(residuals[1:] @ residuals[:-1] / max(float(residuals @ residuals), 1e-300), 0.0, 0.98))
    covariance = variance * (1 + follow) / (1 - follow) * np.linalg.pinv(inside.T @ inside)
    return float(np.sqrt(total[used] @ covariance @ total[used]))
