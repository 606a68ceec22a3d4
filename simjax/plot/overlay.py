"""Elements shared by the figures of validations and calibrations: panels with measured and simulated distributions of a latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from simjax.metrics.latency import Latencies
from simjax.plot import style
from simjax.validate.run import MeasuredRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, SIMULATED = style.INK, style.BLUE


def has_metric(measured: MeasuredRun, lat: Latencies, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The requests that have a metric in the recording, bool[R], and in the simulation, bool[R]."""
    if metric == "tpot_s":
        return measured.has_tpot, lat.has_tpot
    return np.ones(len(measured), bool), lat.finished


def draw_cdfs(axes: Axes, truth_s: np.ndarray, guess_s: np.ndarray, title: str, ylabel: str, color: str = SIMULATED) -> bool:
    """Draw the distributions of a measured and a simulated sample, in seconds; False if one of them is empty."""
    scale, unit = style.latency_unit(truth_s)
    style.dress(axes, title, unit, ylabel)
    if len(truth_s) == 0 or len(guess_s) == 0:
        return False
    style.cdf(axes, truth_s * scale, MEASURED, "measured")
    style.cdf(axes, guess_s * scale, color, "simulated", dashed=True)
    style.log_if_wide(axes, [truth_s * scale, guess_s * scale])
    return True
