"""A least-squares fit without derivatives: straight lines through clouds of candidates, each cloud simulated in one batch.

A decode instance is told of a transfer when a step ends, so what requests wait for moves in jumps: derivatives with the schedule held are
zero nearly everywhere, and differences of neighbouring runs are noise. Over a cloud wider than a jump the mean slope is what counts.
Each round draws candidates around the present point, fits every residual by a plane, and takes the Gauss-Newton step of these planes; the
clouds shrink from round to round. Where residuals are smooth (transfers alone), they may shrink until the planes are derivatives.

What the jumps leave beside the planes would pass for slopes: a parameter without effect would look known, and wander. What this scatter
pretends is therefore subtracted, twice its expected size: from the information, for each kind of residuals by itself, and from the square
of the pull on a parameter. The last two clouds are of one width, and the last planes go through both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from simjax.calibrate.posterior import Posterior
from simjax.calibrate.space import MOST
from simjax.errors import SimjaxError

WIDTHS = (1.0, 1.0, 0.5, 0.5, 0.25, 0.25)
"""Standard deviations of the clouds of residuals that jump, in prior standard deviations."""
SMOOTH_WIDTHS = (*WIDTHS, 0.1, 0.03, 0.01, 1e-3, 1e-3)
"""Those of smooth residuals."""
CANDIDATES = 32
"""Number of candidates of a cloud, whatever the parameters, so that all clouds share a program."""
PRETENDED = 2.0  # of the expected information of the scatter, what is subtracted
FARTHEST, NEAREST = 2.0, 0.5  # widths, or if that is more prior standard deviations, that a step may lead from the middle of its cloud

Residuals = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Planes:
    """Residuals as planes around a point.

    Attributes:
        middle: f64[P], the point, in whitened coordinates.
        value, slope: f64[K] and f64[K, P], of the data's residuals.
        kind: int[K], the kind of each residual.
        scatter: f64[N, K], what the planes leave of the residuals of N candidates, scaled to unit degrees of freedom.
        error: f64[P, P], covariance of a slope by the variance of its residual's scatter.
    """

    middle: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    kind: np.ndarray
    scatter: np.ndarray
    error: np.ndarray

    @classmethod
    def through(cls, middle: np.ndarray, points: np.ndarray, residuals: np.ndarray, kind: np.ndarray) -> Planes:
        """The planes through residuals f64[N, K] of N candidates f64[N, P] around f64[P]."""
        x = np.column_stack([np.ones(len(points)), points - middle])
        found, *_ = np.linalg.lstsq(x, residuals, rcond=None)
        scatter = (residuals - x @ found) / np.sqrt(max(len(points) - x.shape[1], 1))
        return cls(middle, found[0], found[1:].T, kind, scatter, np.linalg.pinv(x.T @ x)[1:, 1:])

    @property
    def information(self) -> np.ndarray:
        """Information of the residuals about the parameters, f64[P, P], without what their scatter pretends."""
        found = np.zeros_like(self.error)
        for kind in np.unique(self.kind):
            own = self.kind == kind
            pretended = PRETENDED * np.sum(self.scatter[:, own] ** 2) * self.error
            sizes, axes = np.linalg.eigh(self.slope[own].T @ self.slope[own] - pretended)
            found += axes * np.maximum(sizes, 0.0) @ axes.T
        return found

    def best(self, rows: np.ndarray | slice = slice(None), farthest: float = np.inf) -> np.ndarray:
        """The point of the least sum of squares of some of the residuals and of the prior's, no farther than that in any coordinate."""
        slope, value = self.slope[rows], self.value[rows]
        pull = slope.T @ value
        pretended = PRETENDED * np.sum((self.scatter[:, rows] @ value) ** 2) * np.diag(self.error)
        pull *= np.maximum(1.0 - pretended / np.maximum(pull**2, np.finfo(float).tiny), 0.0)
        step = -np.linalg.solve(slope.T @ slope + np.eye(len(pull)), pull + self.middle)
        return np.clip(self.middle + np.clip(step, -farthest, farthest), -MOST, MOST)


@dataclass(frozen=True)
class CloudFit:
    """The end of a fit.

    Attributes:
        u: f64[P], whitened coordinates.
        planes: the last planes.
        rounds: number of clouds.
        simulated: number of candidates.
        seconds: wall time, compilation included.
        history: loss in the middle of each cloud.
    """

    u: np.ndarray
    planes: Planes
    rounds: int
    simulated: int
    seconds: float
    history: list[float] = field(default_factory=list)

    def posterior(self, residuals: np.ndarray, observations: float) -> Posterior:
        """The posterior by Laplace's approximation, as `simjax.calibrate.posterior.laplace` has it.

        Args:
            residuals: f64[K], the data's at `u`.
            observations: number of independent observations that they stand for.
        """
        misfit = max(1.0, float(residuals @ residuals) / max(observations - len(self.u), 1.0))
        return Posterior(self.u, np.linalg.inv(self.planes.information / misfit + np.eye(len(self.u))), misfit)


def fit_cloud(
    residuals: Residuals,
    parameters: int,
    kind: np.ndarray,
    widths: tuple[float, ...] = WIDTHS,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> CloudFit:
    """Fit parameters to residuals by clouds.

    Args:
        residuals: function of N candidates f64[N, P], whitened coordinates, that gives the data's residuals f64[N, K].
        parameters: P.
        kind: int[K], the kind of each residual, from 0 on.
        widths: standard deviations of the clouds, one for each round.
        seed: seed of the clouds.
        on_progress: called with (rounds done, all rounds, loss in the middle).

    Raises:
        SimjaxError: a residual is not a number.
    """
    began, rng, u = time.perf_counter(), np.random.default_rng(seed), np.zeros(parameters)
    history: list[float] = []
    planes, clouds = None, list[tuple[float, np.ndarray, np.ndarray]]()
    for done, width in enumerate(widths, start=1):
        points = np.clip(u + width * _standard(rng, CANDIDATES, parameters), -MOST, MOST)
        found = residuals(points)
        if not np.isfinite(found).all():
            raise SimjaxError("a residual is not a number; check the measurements")
        clouds = [*(cloud for cloud in clouds if cloud[0] == width and done == len(widths)), (width, points, found)]
        planes = Planes.through(u, *(np.concatenate(parts) for parts in list(zip(*clouds, strict=True))[1:]), kind)
        history.append(0.5 * float(found[0] @ found[0] + u @ u))
        u = planes.best(farthest=max(FARTHEST * width, NEAREST))
        if on_progress is not None:
            on_progress(done, len(widths), history[-1])
    assert planes is not None
    return CloudFit(u, planes, len(widths), CANDIDATES * len(widths), time.perf_counter() - began, history)


def _standard(rng: np.random.Generator, count: int, parameters: int) -> np.ndarray:
    """The middle, then points of mean 0 and unit covariance, f64[count, P]."""
    half = rng.standard_normal((count // 2, parameters))
    points = np.concatenate([half, -half])[: count - 1]
    points -= points.mean(axis=0)
    spread = np.linalg.cholesky(points.T @ points / len(points))
    return np.concatenate([np.zeros((1, parameters)), np.linalg.solve(spread, points.T).T])
