"""What data do not inform is held at its prior: by the Jacobian alone, and in a descent."""

import numpy as np

from simjax.calibrate.search.descent import Descent
from simjax.calibrate.search.uninformed import misfit_of, strayed, uninformed


def with_prior(data: np.ndarray) -> np.ndarray:
    return np.concatenate([data, np.eye(data.shape[1])])


def test_told_and_not_told() -> None:
    data = np.diag([3.0, 0.2, 0.0])
    np.testing.assert_array_equal(uninformed(with_prior(data)), [False, True, True])
    np.testing.assert_array_equal(uninformed(with_prior(data), misfit=1e3), [True, True, True])


def test_two_of_like_effect_are_told_together() -> None:
    # The sum is known to a tenth of a prior: one of them is held, whichever, and the other tells it.
    data = np.array([[10.0, 10.0, 0.0], [0.0, 0.0, 5.0]])
    assert uninformed(with_prior(data)).sum() == 0, "half of the variance is gone from each"
    wide = np.tile(10.0, (1, 12))
    held = uninformed(with_prior(wide))
    assert 0 < held.sum() < 12 and not uninformed(with_prior(wide), held=held)[~held].any()


def test_what_moved_without_being_told_has_strayed() -> None:
    jacobian = with_prior(np.diag([3.0, 0.1, 0.1]))
    u = np.array([2.0, 2.0, 0.5])
    residuals = np.concatenate([np.zeros(3), u])
    np.testing.assert_array_equal(strayed(u, residuals, jacobian, np.zeros(3, bool), 3.0), [False, True, False])
    assert misfit_of(residuals, 3, 3.0) == 1.0
    assert misfit_of(np.concatenate([np.full(3, 4.0), u]), 3, 3.0) == 16.0


def test_descent_finds_the_least_squares_and_leaves_what_is_held() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=30)
    held = np.array([False, True, False, False])

    def evaluate(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bent = a @ u + 0.05 * np.sin(a @ u)  # so that more than one step is needed
        return np.concatenate([bent - b, u]), np.concatenate([(1.0 + 0.05 * np.cos(a @ u))[:, None] * a, np.eye(4)])

    at = Descent(np.array([1.0, 0.0, -1.0, 2.0]))
    at.begin(*evaluate(at.u))
    losses = [at.loss]
    for _ in range(50):
        if (u := at.proposal(held, 1e-9)) is None:
            break
        at.judge(held, u, *evaluate(u), 1e-9)
        losses.append(at.loss)
        at = Descent.restored({name: np.array(x) for name, x in at.arrays().items()})
    assert at.done and (np.diff(losses) <= 0).all()
    gradient = at.jacobian.T @ at.residuals
    assert at.u[1] == 0.0 and np.abs(gradient[~held]).max() < 1e-4 < abs(gradient[1])
