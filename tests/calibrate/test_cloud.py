"""Fits without derivatives: exact where residuals are planes, unbiased on stairs, and modest about what has no effect."""

import numpy as np
import pytest

from simjax.calibrate.handover.cloud import CANDIDATES, SMOOTH_WIDTHS, WIDTHS, Planes, fit_cloud
from simjax.errors import SimjaxError

RNG = np.random.default_rng(5)
SLOPE = RNG.normal(0.0, 3.0, (60, 2))
TRUTH = np.array([0.8, -1.2])
PHASE = RNG.random(60)
ONE_KIND = np.zeros(60, int)


def planes(points: np.ndarray) -> np.ndarray:
    return (points - TRUTH) @ SLOPE.T


def stairs(points: np.ndarray) -> np.ndarray:
    """Each residual jumps by 2 whenever it passes a step of its own; its second parameter has no effect."""
    return 2.0 * (np.floor(4.0 * (points[:, :1] - TRUTH[0]) + PHASE) - np.floor(PHASE))


def test_planes_are_fitted_as_by_least_squares() -> None:
    fit = fit_cloud(planes, 2, ONE_KIND)
    information = SLOPE.T @ SLOPE
    expected = np.linalg.solve(information + np.eye(2), information @ TRUTH)
    np.testing.assert_allclose(fit.u, expected, rtol=1e-9)
    posterior = fit.posterior(planes(fit.u[None])[0], 60.0)
    assert posterior.misfit == 1.0
    np.testing.assert_allclose(posterior.covariance, np.linalg.inv(information + np.eye(2)), rtol=1e-6)
    assert fit.simulated == CANDIDATES * len(WIDTHS) and len(fit.history) == fit.rounds == len(WIDTHS)


def test_curves_are_followed_to_their_least_squares() -> None:
    curves = lambda points: np.log(0.2 + np.exp(points @ SLOPE.T / 3.0)) * 5.0 - np.log(0.2 + np.exp(TRUTH @ SLOPE.T / 3.0)) * 5.0
    fit = fit_cloud(curves, 2, ONE_KIND, SMOOTH_WIDTHS)
    nudge = 1e-6 * np.eye(2)
    slopes = (curves(fit.u + nudge) - curves(fit.u - nudge)) / 2e-6
    assert np.abs(slopes @ curves(fit.u[None])[0] + fit.u).max() < 1e-4 * np.abs(slopes @ slopes.T).max(), "the gradient of the loss is 0"
    assert np.abs(fit.u - TRUTH).max() < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_stairs_are_seen_through_and_what_has_no_effect_stays_unknown(seed: int) -> None:
    fit = fit_cloud(stairs, 2, ONE_KIND, seed=seed)
    posterior = fit.posterior(stairs(fit.u[None])[0], 60.0)
    sd = np.sqrt(np.diag(posterior.covariance))
    assert abs(fit.u[0] - TRUTH[0]) < 3.0 * sd[0] < 0.3
    assert posterior.constrained[0] > 0.95 and posterior.constrained[1] < 0.4
    assert abs(fit.u[1]) < 0.5, "near the prior's median"


def test_a_kind_that_scatters_does_not_drown_one_that_does_not() -> None:
    """Planes tell the second parameter; stairs of great scatter, to which it is nothing, tell the first alone."""
    both = lambda points: np.concatenate([(points - TRUTH)[:, 1:] * np.full(5, 3.0), 4.0 * stairs(points)], axis=1)
    fit = fit_cloud(both, 2, np.repeat([0, 1], [5, 60]))
    posterior = fit.posterior(both(fit.u[None])[0], 65.0)
    assert (np.abs(fit.u - TRUTH) < 3.0 * np.sqrt(np.diag(posterior.covariance))).all() and (posterior.constrained > 0.9).all()


def test_scatter_is_not_taken_for_information() -> None:
    points = np.concatenate([np.zeros((1, 1)), np.random.default_rng(0).normal(0.0, 0.25, (CANDIDATES - 1, 1))])
    noise = np.random.default_rng(1).normal(0.0, 1.0, (CANDIDATES, 4000))
    found = Planes.through(points[0], points, noise, np.zeros(4000, int))
    assert float(np.sum(found.slope**2)) > 1000.0
    assert found.information[0, 0] < 0.1 * float(np.sum(found.slope**2))


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(SimjaxError, match="not a number"):
        fit_cloud(lambda points: np.full((len(points), 3), np.nan), 1, np.zeros(3, int))
