"""Levenberg-Marquardt from one start, a trial step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

FIRST_DAMPING, MOST_DAMPING = 1.0, 1e8
GOOD, BAD = 0.75, 0.25  # shares of the predicted improvement above which steps get longer, and below which shorter
CONVERGED = 0.1  # share of the tolerance: a step that promises less is not tried


def _unknown() -> np.ndarray:
    return np.zeros(0)


@dataclass
class Descent:
    """A point on its way down, and what the next trial step depends on.

    Attributes:
        u: coordinates, f64[P].
        loss: 1/2 sum of squares of the residuals there; infinite before the first evaluation.
        residuals, jacobian: f64[K] and f64[K, P] there.
        damping: of the next trial step, added to the diagonal of J^T J, where the prior has 1.
        since: trial steps since an improvement that counts.
        done: whether no step promises one.
    """

    u: np.ndarray
    loss: float = np.inf
    residuals: np.ndarray = field(default_factory=_unknown)
    jacobian: np.ndarray = field(default_factory=_unknown)
    damping: float = FIRST_DAMPING
    since: int = 0
    done: bool = False

    def begin(self, residuals: np.ndarray, jacobian: np.ndarray) -> None:
        """Take what was evaluated at `u`; the next step is one from there."""
        self.residuals, self.jacobian, self.loss = residuals, jacobian, _loss(residuals)
        self.damping, self.since, self.done = FIRST_DAMPING, 0, not np.isfinite(self.loss)

    def proposal(self, held: np.ndarray, tolerance: float) -> np.ndarray | None:
        """Coordinates to try next, f64[P]; None if no step promises an improvement that counts, and this is the end.

        Args:
            held: bool[P], coordinates that stay as they are.
            tolerance: relative improvement of the loss that counts.
        """
        step, promised = self._step(held)
        if promised < CONVERGED * tolerance * self.loss:
            self.done = True
            return None
        return self.u + step

    def judge(self, held: np.ndarray, u: np.ndarray, residuals: np.ndarray, jacobian: np.ndarray, tolerance: float) -> None:
        """Go to the coordinates that were proposed if the loss is less there, and choose the length of the next step."""
        loss = _loss(residuals)
        gained = (self.loss - loss) / self._step(held)[1] if np.isfinite(loss) else -np.inf
        self.since = 0 if loss < self.loss * (1.0 - tolerance) else self.since + 1
        if gained < BAD:
            self.damping *= 4.0
        elif gained > GOOD:
            self.damping /= 5.0
        if loss < self.loss:
            self.u, self.loss, self.residuals, self.jacobian = u, loss, residuals, jacobian
        self.done = self.damping > MOST_DAMPING

    def _step(self, held: np.ndarray) -> tuple[np.ndarray, float]:
        """The damped step, f64[P], and the improvement of the loss that it promises."""
        jacobian = self.jacobian[:, ~held]
        gradient, curvature = jacobian.T @ self.residuals, jacobian.T @ jacobian
        part = -np.linalg.solve(curvature + self.damping * np.eye(len(gradient)), gradient)
        step = np.zeros_like(self.u)
        step[~held] = part
        return step, float(-(gradient @ part) - 0.5 * part @ curvature @ part)

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything that the next steps depend on."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @staticmethod
    def restored(arrays: Mapping[str, np.ndarray]) -> Descent:
        """What `arrays` was taken of."""
        found = Descent(arrays["u"], float(arrays["loss"]), arrays["residuals"], arrays["jacobian"])
        found.damping, found.since, found.done = float(arrays["damping"]), int(arrays["since"]), bool(arrays["done"])
        return found


def _loss(residuals: np.ndarray) -> float:
    return 0.5 * float(residuals @ residuals)
