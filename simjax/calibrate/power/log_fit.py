"""A fit of a run's power to the log of a meter: what it draws at rest, with clocks raised and in steps, and when its clock starts.

At the log's seconds the power of a simulated run is a sum of three shapes: constant while it lasts, while clocks are raised, and the power
of its steps. Their sizes are found by least squares without negative ones, for every start of the clock and length of standby on a grid, of
which the best is taken. Where the meter may have seen devices alone, whose boards have a known limit, steps that draw a factor more under
that limit are tried as well, and taken if they fit better than scaled ones. The interval of the energy comes from the residuals, taken as a
first-order autoregression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares, nnls
from scipy.stats import norm

from simjax.calibrate.power.limit import Limits, drawing
from simjax.engine.host.result import Result
from simjax.errors import SimjaxError
from simjax.metrics.energy.parts import span_of
from simjax.metrics.energy.series import device_power
from simjax.power.logs import PowerLog

FINE_S = 0.1
FEWEST_SECONDS = 10
STANDBY_S = tuple(np.arange(0.0, 30.5, 0.5).tolist())
MOST_FACTOR = 4.0
_MOST_STANDING = 0.9


@dataclass(frozen=True)
class Boards:
    """The devices of a run.

    Attributes:
        counts: float64[N], devices of each rank.
        standby_w: standby of a device, as simulated.
        limit_w: limit of its board, infinity for none.
    """

    counts: np.ndarray
    standby_w: float
    limit_w: float

    def limits(self, standing_w: float) -> Limits:
        """Limits of the ranks if all devices together draw so much with clocks raised."""
        beyond_w = self.limit_w - standing_w / float(self.counts.sum())
        return Limits(self.counts * (self.limit_w - self.standby_w), self.counts * beyond_w)


@dataclass(frozen=True)
class PowerFit:
    """Power of a run fitted to a log.

    Attributes:
        start_s: the simulated run begins so many seconds after the log.
        rest_w: power at rest, of all that the meter sees.
        standby_w: power of raised clocks beyond that.
        standby_s: seconds for which they stay raised after the last work.
        factor: measured over simulated power of the steps beyond standby; before the limit of the boards if `limited`.
        limited: whether the limit of the boards stays what it is; else it is scaled with the steps.
        mape_pct: mean absolute error of a second in percent.
        energy_j: energy of the fitted run over the log's seconds that have samples.
        energy_sd_j: its standard deviation.
        measured_j: energy of the log over them.
        fitted_w, measured_w: float64[T], the seconds themselves.
    """

    start_s: float
    rest_w: float
    standby_w: float
    standby_s: float
    factor: float
    limited: bool
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


def fit_log(result: Result, log: PowerLog, latest_s: float = 5.0, boards: Boards | None = None) -> PowerFit:
    """The power of a run as a log has it.

    Args:
        result: a run with power and a leap log, of the requests that were served while the meter ran.
        log: the samples of the meter.
        latest_s: most seconds from the log's first sample to the run's first request.
        boards: the devices, whose limit steps may not go beyond; None where no limit counts.

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
    late = range(0, round(latest_s / FINE_S) + 1)
    lengths = (float(np.max(result.plant.standby_s)), *STANDBY_S)  # of those that a run without such pauses does not tell apart, its own
    best = min((_placed(*_shapes(result, edges, x), x, late, measured) for x in lengths), key=lambda x: x.misfit)
    factor, limited = float(best.sizes[2]), False
    under = None if boards is None else _under_limit(result, boards, edges, lengths, best, late, measured)
    if under is not None and under[1].misfit <= best.misfit * (1 + 1e-6):
        (factor, best), limited = under, True
    fitted = best.columns @ best.sizes
    spread = _energy_sd(best.columns[there], measured[there] - fitted[there], best.columns[there].sum(axis=0))
    error = 100 * float(np.mean(np.abs(fitted[there] / measured[there] - 1)))
    whole = float(np.sum(measured[there])), float(np.sum(fitted[there]))
    rest_w, standby_w = (float(x) for x in best.sizes[:2])
    start_s = best.late * FINE_S
    return PowerFit(start_s, rest_w, standby_w, best.standby_s, factor, limited, error, whole[1], spread, whole[0], fitted, measured)


@dataclass(frozen=True)
class _Placed:
    """Shapes at the start that suits them best: constant, clocks raised and steps, float64[T, 3], with their sizes."""

    misfit: float
    late: int
    standby_s: float
    sizes: np.ndarray
    columns: np.ndarray


def _placed(awake: np.ndarray, steps: np.ndarray, standby_s: float, late: range, measured: np.ndarray) -> _Placed:
    """The best of the starts, in bins, with sizes by least squares."""
    there, found = np.isfinite(measured), []
    for bins in late:
        columns = _columns(awake, steps, bins, len(measured))
        sizes, misfit = nnls(columns[there], measured[there])
        found.append(_Placed(float(misfit), bins, standby_s, sizes, columns))
    return min(found, key=lambda x: x.misfit)


def _columns(awake: np.ndarray, steps: np.ndarray, late: int, seconds: int) -> np.ndarray:
    return np.stack([np.ones(seconds), _moved(awake, late, seconds), _moved(steps, late, seconds)], axis=1)


def _under_limit(
    result: Result, boards: Boards, edges: np.ndarray, lengths: tuple[float, ...], linear: _Placed, late: range, measured: np.ndarray
) -> tuple[float, _Placed] | None:
    """The factor of steps under the limit of their boards, and how they fit; None where the meter saw more than such devices.

    The limit leaves steps what is beyond standby, which is found together with the factor.
    """
    there, limit_w = np.isfinite(measured), boards.limit_w * float(boards.counts.sum())
    lowest = float(np.min(measured[there]))
    if not np.isfinite(limit_w) or lowest >= limit_w:
        return None

    def placed(values: np.ndarray, awake: np.ndarray, bins: int, standby_s: float) -> _Placed:
        rest_w, standby_w, factor = (float(x) for x in values)
        limits = boards.limits(min(rest_w + standby_w, _MOST_STANDING * limit_w))
        steps = _shapes(drawing(result, factor, limits), edges, 0.0)[1]
        columns, sizes = _columns(awake, steps, bins, len(measured)), np.array([rest_w, standby_w, 1.0])
        return _Placed(float(np.linalg.norm((columns @ sizes - measured)[there])), bins, standby_s, sizes, columns)

    def solved(values: np.ndarray, at: _Placed) -> np.ndarray:
        awake = _shapes(result, edges, at.standby_s)[0]

        def residuals(values: np.ndarray) -> np.ndarray:
            found = placed(values, awake, at.late, at.standby_s)
            return (found.columns @ found.sizes - measured)[there]

        scale = np.array([limit_w, limit_w, 1.0])
        return least_squares(residuals, values, x_scale=scale, bounds=(0, [limit_w, limit_w, MOST_FACTOR])).x

    values = solved(np.array([min(lowest, 0.5 * limit_w), 0.02 * limit_w, 1.0]), linear)
    near = range(max(linear.late - 2, 0), min(linear.late + 3, late.stop))
    shapes = {x: _shapes(result, edges, x)[0] for x in lengths}
    best = min((placed(values, awake, bins, x) for x, awake in shapes.items() for bins in near), key=lambda x: x.misfit)
    values = solved(values, best)
    return float(values[2]), placed(values, shapes[best.standby_s], best.late, best.standby_s)


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
