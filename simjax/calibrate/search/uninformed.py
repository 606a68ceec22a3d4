"""Parameters that the data do not inform: they are held at the medians of their priors, for a fit would use them to explain its noise.

By Gauss and Newton the data leave a parameter the share [(J^T J + 1)^-1]_ii of its prior's variance, where J is the Jacobian of the data's
residuals by whitened coordinates. Two parameters of like effect, such as host times of a step and of its layers, may be told by the data
together though neither alone is. So one is held at a time, the least informed one, and the others are looked at again.

What is held stays in the posterior with the width that the data leave it: it is unknown, not known to be its prior's median.
"""

from __future__ import annotations

import numpy as np

TOLD = 0.1  # least share of the prior's variance that the data take from a parameter that they inform
STRAYED = 1.0  # prior standard deviations from its median at which a parameter that the data do not inform has gone astray


def uninformed(jacobian: np.ndarray, misfit: float = 1.0, held: np.ndarray | None = None) -> np.ndarray:
    """The parameters that data do not inform, bool[P].

    Args:
        jacobian: of all residuals, f64[K + P, P]; the last P are those of the prior.
        misfit: mean square of the data's residuals: they count for less by it.
        held: bool[P], parameters that are held already; None for none.
    """
    parameters = jacobian.shape[1]
    data = jacobian[:-parameters]
    precision = data.T @ data / max(misfit, 1.0) + np.eye(parameters)
    found = np.zeros(parameters, bool) if held is None else held.copy()
    while not found.all():
        free = np.flatnonzero(~found)
        kept = np.diag(np.linalg.inv(precision[np.ix_(free, free)]))
        least = int(np.argmax(kept))
        if kept[least] <= 1.0 - TOLD:
            break
        found[free[least]] = True
    return found


def strayed(u: np.ndarray, residuals: np.ndarray, jacobian: np.ndarray, held: np.ndarray, observations: float) -> np.ndarray:
    """Parameters that a fit has moved by more than their prior is wide though, where it ended, the data do not inform them; bool[P].

    Args:
        u: whitened coordinates of the end, f64[P].
        residuals: there, f64[K + P].
        jacobian: there, f64[K + P, P].
        held: bool[P], parameters that were held.
        observations: number of independent observations that the data's residuals stand for.
    """
    return uninformed(jacobian, misfit_of(residuals, len(u), observations), held) & ~held & (np.abs(u) > STRAYED)


def misfit_of(residuals: np.ndarray, parameters: int, observations: float) -> float:
    """Mean square of the data's residuals where it exceeds 1, else 1; residuals f64[K + P] end with those of the prior."""
    data = residuals[:-parameters]
    return max(1.0, float(data @ data) / max(observations, 1.0))
