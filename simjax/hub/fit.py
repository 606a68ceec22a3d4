"""Efficiencies and factors by shape of an operator table, and their error on shapes that the fit did not see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from simjax.hardware import DeviceSpec
from simjax.latency.fitting.efficiency import OpEfficiency
from simjax.latency.fitting.fit_ops import BOUNDS, EXPERTS_START, GEMM_START, Measured, predict
from simjax.latency.fitting.shape_factors import SIZE, shape_weights

FITTED = ("floor_s", "bandwidth_efficiency", "compute_efficiency", "tile_penalty", "overlap")
_BOUNDS = BOUNDS | {"bandwidth_efficiency": (0.1, 1.0)}  # more than all of it is no kernel's doing: the factors say what is left
OUTLIER = 0.1  # relative residual beyond which a point counts less
RIDGE = 0.3  # observations for which the factor 1 of a knot stands
MOST_SHAPES = 160  # that the efficiencies are fitted to: a fit of five numbers
FOLDS = 5
SEED = 0


@dataclass(frozen=True)
class Fitted:
    """Efficiencies of a table, and the errors, in percent, of shapes that were left out of the fit of their factors.

    Attributes:
        efficiency: for all shapes.
        median_percent, p90_percent: of the absolute error of left-out shapes.
        roofline_percent: median error without the factors.
        shapes, points: number of shapes and of measured times.
        rows: least and most rows.
    """

    efficiency: OpEfficiency
    median_percent: float
    p90_percent: float
    roofline_percent: float
    shapes: int
    points: int
    rows: tuple[int, int]


def fit_table(measured: Sequence[Measured], device: DeviceSpec, experts: bool) -> Fitted:
    """Fit one table.

    Args:
        measured: operations, each of one shape at some numbers of rows.
        device: what they were measured on.
        experts: whether they are experts of mixtures, else matrix products.
    """
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(measured))
    some = [measured[i] for i in order[:MOST_SHAPES]]
    plain = _efficiencies(some, device, EXPERTS_START if experts else GEMM_START)
    residual = [np.log(m.seconds / predict(m, plain, device, "bfloat16")) for m in measured]
    weights = [shape_weights(m.op, m.rows) for m in measured]
    fold = np.empty(len(measured), int)
    fold[order] = np.arange(len(measured)) % FOLDS
    grams = [np.zeros((SIZE, SIZE)) for _ in range(FOLDS)]
    sums = [np.zeros(SIZE) for _ in range(FOLDS)]
    for f, w, r in zip(fold, weights, residual, strict=True):
        grams[f] += w.T @ w
        sums[f] += w.T @ r
    solve = lambda gram, total: np.linalg.solve(gram + RIDGE * np.eye(SIZE), total)
    every, total = sum(grams), sum(sums)
    left_out = [solve(every - grams[f], total - sums[f]) for f in range(FOLDS)]
    errors = np.concatenate([np.abs(np.expm1(r - w @ left_out[f])) for f, w, r in zip(fold, weights, residual, strict=True)])
    rows = np.concatenate([m.rows for m in measured])
    return Fitted(
        replace(plain, shape_factors=tuple(np.exp(solve(every, total)).tolist())),
        100.0 * float(np.median(errors)),
        100.0 * float(np.quantile(errors, 0.9)),
        100.0 * float(np.median(np.abs(np.expm1(np.concatenate(residual))))),
        len(measured),
        len(rows),
        (int(rows.min()), int(rows.max())),
    )


def _efficiencies(measured: Sequence[Measured], device: DeviceSpec, start: OpEfficiency) -> OpEfficiency:
    """The efficiencies alone; every shape counts alike."""
    low, high = (np.log([_BOUNDS[name][side] for name in FITTED]) for side in (0, 1))
    build = lambda x: replace(start, **dict(zip(FITTED, np.exp(x).tolist(), strict=True)))

    def residuals(x: np.ndarray) -> np.ndarray:
        e = build(x)
        return np.concatenate([np.log(m.seconds / predict(m, e, device, "bfloat16")) / np.sqrt(len(m.rows)) for m in measured])

    first = np.clip(np.log([getattr(start, name) for name in FITTED]), low + 1e-3, high - 1e-3)
    return build(least_squares(residuals, first, bounds=(low, high), loss="soft_l1", f_scale=OUTLIER, max_nfev=25).x)
