"""Least-squares fit of `OpEfficiency` to measured times of operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from simjax.hardware import DeviceSpec
from simjax.latency.fitting.efficiency import ROW_EDGES, OpEfficiency, op_seconds, row_bucket
from simjax.model.ops import Op

# Where a fit starts, and how far it may go.
GEMM_START = OpEfficiency(floor_s=3e-6, bandwidth_efficiency=0.9, compute_efficiency=1.2, tile_penalty=20.0, overlap=3.0)
ROWS_START = OpEfficiency(floor_s=3e-6, bandwidth_efficiency=0.8, cache_bytes=40e6, cache_ratio=3.0)
EXPERTS_START = replace(GEMM_START, floor_s=20e-6)
BOUNDS = {
    "floor_s": (0.5e-6, 100e-6),
    "bandwidth_efficiency": (0.2, 3.0),  # above 1 where a profiler's repeats keep small weights in the cache
    "compute_efficiency": (0.1, 4.0),
    "tile_penalty": (0.5, 150.0),
    "overlap": (1.2, 12.0),
    "cache_bytes": (1e6, 1e9),
    "cache_ratio": (0.2, 20.0),
}
SHARED = ("floor_s", "tile_penalty", "overlap")  # the library and the chip, not the operation, decide these
OWN = ("bandwidth_efficiency", "compute_efficiency")
ROWS_SHARED = ("bandwidth_efficiency", "cache_bytes")
ROWS_OWN = ("floor_s", "cache_ratio")
OUTLIER = 0.05  # relative residual beyond which a point counts less: steps between kernels are larger than noise


@dataclass(frozen=True)
class Measured:
    """Measured times of one operation.

    Attributes:
        op: measured operation.
        rows: f64[N], tokens (or sequences).
        seconds: f64[N], time of one call.
        distinct: f64[N], experts hit, None for other operations.
    """

    op: Op
    rows: np.ndarray
    seconds: np.ndarray
    distinct: np.ndarray | None = None

    def select(self, chosen: np.ndarray) -> Measured:
        """The chosen points."""
        distinct = None if self.distinct is None else self.distinct[chosen]
        return Measured(self.op, self.rows[chosen], self.seconds[chosen], distinct)


def predict(m: Measured, e: OpEfficiency, device: DeviceSpec, dtype: str) -> np.ndarray:
    """Seconds of each measured point, f64[N]."""
    return op_seconds(m.op, e, device, dtype, m.rows, np, m.distinct)


def solve(kernels: Sequence[Measured], start: OpEfficiency, free: Sequence[str], device: DeviceSpec, dtype: str) -> OpEfficiency:
    """The `free` coefficients that fit all the kernels best, robust least squares of log times over log coefficients.

    Every octave of rows weighs the same, however densely it was measured.
    """
    weights = [_weights(m.rows) for m in kernels]
    targets = [np.log(m.seconds) for m in kernels]

    def residual(logs: np.ndarray) -> np.ndarray:
        e = replace(start, **dict(zip(free, np.exp(logs), strict=True)))
        return np.concatenate([w * (np.log(predict(m, e, device, dtype)) - t) for m, w, t in zip(kernels, weights, targets, strict=True)])

    first = np.log([getattr(start, name) for name in free])
    low, high = np.log([BOUNDS[name] for name in free]).T
    if not any(m.op.is_gemm for m in kernels) and "bandwidth_efficiency" in free:
        high[list(free).index("bandwidth_efficiency")] = 0.0  # what leaves the cache is no faster than the memory
    found = least_squares(residual, np.clip(first, low + 1e-6, high - 1e-6), bounds=(low, high), loss="soft_l1", f_scale=OUTLIER)
    return replace(start, **{name: float(value) for name, value in zip(free, np.exp(found.x), strict=True)})


def with_kernel_factors(m: Measured, e: OpEfficiency, device: DeviceSpec, dtype: str) -> OpEfficiency:
    """Add the factor of each bucket of rows up to the last measured one: the weighted geometric mean of measured over predicted."""
    ratio, weight = np.log(m.seconds / predict(m, e, device, dtype)), _weights(m.rows) ** 2
    bucket = np.minimum(row_bucket(m.rows, np), len(ROW_EDGES) - 1)
    factors, last = [], 0.0
    for index in range(bucket.max() + 1):
        inside = bucket == index
        last = np.average(ratio[inside], weights=weight[inside]) if inside.any() else last
        factors.append(float(np.exp(last)))
    return replace(e, kernel_factors=tuple(factors))


def fit_errors(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Median and 90th percentile of |predicted / measured - 1| and the mean of predicted / measured - 1, in percent."""
    error = 100.0 * (predicted / measured - 1.0)
    size = np.abs(error)
    values = {"median_pct": np.median(size), "p90_pct": np.quantile(size, 0.9), "mean_pct": np.mean(error)}
    return {name: round(float(value), 2) for name, value in values.items()}


def _weights(rows: np.ndarray) -> np.ndarray:
    """Square root of the share of the log axis that each point stands for, 1 on average."""
    distinct, where, counts = np.unique(rows, return_inverse=True, return_counts=True)
    if len(distinct) == 1:
        return np.ones(len(rows))
    share = np.gradient(np.log(distinct)) / counts
    return np.sqrt(share[where] * len(rows) / np.sum(share[where]))
