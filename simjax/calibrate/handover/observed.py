"""Measured times of hand-overs beside their simulated ones: the residuals of a fit, and how far a simulation is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from simjax.calibrate.targets.residuals import UNFINISHED, pseudo_huber
from simjax.cluster.disaggregation import Disaggregation

OUTLIER = 3.0  # standard deviations beyond which a residual counts linearly


@dataclass(frozen=True)
class Part:
    """Measured times of one kind.

    Attributes:
        name: name in reports.
        measured_s: f64[n], seconds.
        sd: standard deviation of the logarithm of one of them.
        independent: independent observations that all of them stand for at most.
    """

    name: str
    measured_s: np.ndarray
    sd: float
    independent: float = np.inf

    @property
    def weight(self) -> float:
        """Independent observations that each of the times stands for."""
        return min(1.0, self.independent / len(self.measured_s))

    @property
    def observations(self) -> float:
        """Independent observations that all of them stand for."""
        return self.weight * len(self.measured_s)

    def residuals(self, simulated_s: np.ndarray) -> np.ndarray:
        """Weighted residuals of simulated times, f64[..., n]; one that is not finite is of a request that has not finished."""
        ratio = np.where(np.isfinite(simulated_s), np.log(np.where(simulated_s > 0, simulated_s, np.nan) / self.measured_s), UNFINISHED)
        ratio = np.nan_to_num(ratio, nan=-UNFINISHED)  # a part that has no length: as far off, on the other side
        return np.sqrt(self.weight) * pseudo_huber(ratio / self.sd, OUTLIER, np)

    def errors(self, simulated_s: np.ndarray) -> dict[str, float | None]:
        """Error of the mean, and mean and greatest absolute error, in percent of the measured; None where nothing has finished."""
        there = np.isfinite(simulated_s)
        if not there.any():
            return {"mean_error_pct": None, "mape_pct": None, "max_error_pct": None}
        found, measured = simulated_s[there], self.measured_s[there]
        off = 100.0 * np.abs(found / measured - 1.0)
        mean = 100.0 * float(found.mean() / measured.mean() - 1.0)
        return {"mean_error_pct": mean, "mape_pct": float(off.mean()), "max_error_pct": float(off.max())}


class Observed(Protocol):
    """Measurements of one file."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its times by kind."""
        ...

    def simulated_s(self, rules: Sequence[Disaggregation]) -> list[np.ndarray]:
        """The same times as simulated with each of N hand-overs, f64[N, n] for each part."""
        ...
