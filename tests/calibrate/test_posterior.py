"""Laplace's approximation on problems whose posterior is known."""

import numpy as np
import pytest

from simjax.calibrate.fit import Fit
from simjax.calibrate.posterior import Z90, Posterior, laplace, log_sd, parameter_rows, transformed_covariance, unconstrained
from simjax.calibrate.space import MOST, Choices, Space, space_of
from tests.calibrate.runs import profile

FREE = ("gemm_bandwidth", "gemm_compute", "step_s")


def space() -> Space:
    names = space_of(profile()).names
    return space_of(profile(), choices=Choices(freeze=tuple(name for name in names if name not in FREE)))


def linear(jacobian: np.ndarray, data: np.ndarray) -> Fit:
    """The fit of residuals `jacobian @ u - data` and of the prior."""
    P = jacobian.shape[1]
    u = np.linalg.solve(jacobian.T @ jacobian + np.eye(P), jacobian.T @ data)
    residuals = np.concatenate([jacobian @ u - data, u])
    loss = 0.5 * float(residuals @ residuals)
    return Fit(u, loss, loss, residuals, np.concatenate([jacobian, np.eye(P)]), np.array([loss]), 1, 0.0)


def test_covariance_of_a_linear_problem() -> None:
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(40, 3))
    found = laplace(linear(jacobian, 0.1 * rng.normal(size=40)), 40.0)
    assert found.misfit == 1.0
    np.testing.assert_allclose(np.linalg.inv(found.covariance), jacobian.T @ jacobian + np.eye(3), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.diag(found.correlation), 1.0)
    sd = np.array([prior.sd for prior in space().priors])
    np.testing.assert_allclose(transformed_covariance(space(), found), np.diag(sd) @ found.covariance @ np.diag(sd))


def test_residuals_that_stay_large_widen_it() -> None:
    jacobian = np.concatenate([2.0 * np.eye(3), np.zeros((9, 3))])
    found = laplace(linear(jacobian, np.concatenate([np.zeros(3), np.full(9, 2.0)])), 12.0)
    assert found.misfit == pytest.approx(3.0)
    np.testing.assert_allclose(found.covariance, np.eye(3) / (4.0 / 3.0 + 1.0))


def test_the_direction_that_the_data_leave_open() -> None:
    # Only the sum of the first two is measured, and the third.
    jacobian = np.array([[10.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    found = laplace(linear(jacobian, np.zeros(2)), 2.0)
    (only,) = unconstrained(space(), found)
    assert only["kept"] == pytest.approx(1.0)
    parts = only["direction"]
    assert set(parts) == {"gemm_bandwidth", "gemm_compute"}
    assert parts["gemm_bandwidth"] == pytest.approx(-parts["gemm_compute"])
    np.testing.assert_allclose(found.constrained, [0.5, 0.5, 100 / 101], rtol=0.01)


def test_rows() -> None:
    one = space()
    mean = np.array([1.0, -0.95 * MOST, 0.0])
    rows = parameter_rows(one, Posterior(mean, np.diag([0.25, 1.0, 0.01]), 1.0), profile())
    by = {row["name"]: row for row in rows}
    assert [row["name"] for row in rows if row["fitted"]] == list(one.names)
    first, prior = by["gemm_bandwidth"], one.priors[0]
    assert first["value"] == pytest.approx(np.exp(prior.sd))
    assert first["low"] == pytest.approx(np.exp(prior.sd * (1 - Z90 * 0.5)))
    assert first["high"] == pytest.approx(np.exp(prior.sd * (1 + Z90 * 0.5)))
    assert [by[name]["at_bound"] for name in one.names] == [False, True, False]
    np.testing.assert_allclose([by[name]["constrained"] for name in one.names], [0.75, 0.0, 0.99])
    frozen = by["gemm_tile"]
    assert (frozen["value"], frozen["sd"], frozen["fitted"]) == (1.0, 0.0, False)


def test_spread_of_errors() -> None:
    errors = np.random.default_rng(0).normal(0.0, 0.02, 4000)
    errors[:40] = 5.0  # outliers do not count
    assert log_sd([errors[:1000], errors[1000:]]) == pytest.approx(0.02, rel=0.06)
    assert log_sd([np.zeros(0)]) == 0.0
