"""The posterior of a fit by Laplace's approximation, and the directions that the data leave open.

Around the best fit the loss is taken as quadratic, J^T J from the Jacobian of the residuals. Residuals that stay larger than they were
meant to be show that the model is incomplete; the data then count for less by their mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simjax.calibrate.fit import Fit
from simjax.calibrate.search.uninformed import misfit_of
from simjax.calibrate.space import MOST, NEAR_BOUND, Space
from simjax.latency.parameters import present_value
from simjax.latency.priors import PARAMETERS, STEP_CORRECTIONS
from simjax.latency.profiles.profile import LatencyProfile

Z90 = 1.6448536269514722  # standard deviations: a normal distribution has 90 % within
OPEN = 0.5  # share of the prior's variance that a direction keeps to be called unconstrained
LOADING = 0.4  # least share of a parameter in a direction to be named


@dataclass(frozen=True)
class Posterior:
    """A normal distribution over whitened coordinates.

    Attributes:
        mean: f64[P].
        covariance: f64[P, P]; the prior's is the unit matrix.
        misfit: mean square of the data's residuals where it exceeds 1, else 1.
        held: places of the parameters that the data do not inform: their means are the prior's medians.
    """

    mean: np.ndarray
    covariance: np.ndarray
    misfit: float
    held: tuple[int, ...] = ()

    @property
    def correlation(self) -> np.ndarray:
        """Correlation matrix, f64[P, P]."""
        sd = np.sqrt(np.diag(self.covariance))
        return self.covariance / np.outer(sd, sd)

    @property
    def constrained(self) -> np.ndarray:
        """Share of each parameter's prior variance that the data removed, f64[P] in [0, 1]."""
        return np.clip(1.0 - np.diag(self.covariance), 0.0, 1.0)


def laplace(fit: Fit, observations: float) -> Posterior:
    """The posterior around a fit.

    Args:
        fit: the fit, whose residuals end with those of the prior.
        observations: number of independent observations that the data's residuals stand for.
    """
    parameters = len(fit.u)
    jacobian = fit.jacobian[:-parameters]
    misfit = misfit_of(fit.residuals, parameters, observations)
    return Posterior(fit.u, np.linalg.inv(jacobian.T @ jacobian / misfit + np.eye(parameters)), misfit, fit.held)


def transformed_covariance(space: Space, posterior: Posterior) -> np.ndarray:
    """Covariance of the transformed parameters, f64[P, P]."""
    sd = np.array([prior.sd for prior in space.priors])
    return posterior.covariance * np.outer(sd, sd)


def fitted_rows(space: Space, posterior: Posterior) -> list[dict[str, Any]]:
    """One mapping for each fitted parameter, for reports: `name`, `unit`, `text`, `source`, `prior` (median), `prior_sd` and `sd` (of the
    transformed value), `value`, `low`, `high` (90 % interval), `fitted`, `held` (at its prior, because the data do
    not inform it), `at_bound`, `constrained`.
    """
    values, rows = space.values(posterior.mean), []
    sd_u = np.sqrt(np.diag(posterior.covariance))
    for i, prior in enumerate(space.priors):
        p, sd = prior.parameter, prior.sd * sd_u[i]
        at = prior.center + prior.sd * np.clip(posterior.mean[i], -MOST, MOST)
        rows.append(
            {
                "name": p.name,
                "unit": p.unit,
                "text": p.text,
                "source": p.source,
                "prior": prior.median,
                "prior_sd": prior.sd,
                "value": float(values[p.name]),
                "sd": float(sd),
                "low": float(p.value(at - Z90 * sd)),
                "high": float(p.value(at + Z90 * sd)),
                "fitted": True,
                "held": i in posterior.held,
                "at_bound": bool(abs(posterior.mean[i]) >= NEAR_BOUND * MOST),
                "constrained": float(posterior.constrained[i]),
            }
        )
    return rows


def parameter_rows(space: Space, posterior: Posterior, profile: LatencyProfile) -> list[dict[str, Any]]:
    """One mapping for each parameter of a profile, as `fitted_rows` has them; those that were not fitted come last."""
    values, rows = space.values(posterior.mean), fitted_rows(space, posterior)
    for name, p in PARAMETERS.items():
        if name not in space.names and name not in STEP_CORRECTIONS:
            value = float(values.get(name, present_value(profile, name)))
            same = dict.fromkeys(("value", "low", "high"), value)
            rows.append(
                {"name": name, "unit": p.unit, "text": p.text, "source": p.source, "prior": p.prior, "prior_sd": p.prior_sd, **same}
                | {"sd": 0.0, "fitted": False, "held": False, "at_bound": False, "constrained": 0.0}
            )
    return rows


def unconstrained(space: Space, posterior: Posterior) -> list[dict[str, Any]]:
    """Directions in which the posterior is nearly as wide as the prior, widest first: `kept` (share of the prior's variance) and
    `direction` (parameters with their parts, whitened).
    """
    kept, vectors = np.linalg.eigh(posterior.covariance)
    found = []
    for share, vector in sorted(zip(kept, vectors.T, strict=True), key=lambda pair: -pair[0]):
        if share < OPEN:
            break
        vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
        parts = sorted(((n, x) for n, x in zip(space.names, vector, strict=True) if abs(x) >= LOADING), key=lambda part: -abs(part[1]))
        found.append({"kept": float(share), "direction": {name: round(float(x), 3) for name, x in parts}})
    return found


def log_sd(errors: Sequence[np.ndarray]) -> float:
    """Robust standard deviation of logarithmic errors: 1.4826 times the median absolute one."""
    every = np.concatenate([np.zeros(0), *errors])
    return float(1.4826 * np.median(np.abs(every))) if len(every) else 0.0
