"""Calibrations of a hand-over: from measured transfers and requests to its parameters and how well they reproduce the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from simjax.calibrate.handover.cloud import CANDIDATES, SMOOTH_WIDTHS, WIDTHS, CloudFit, Progress, fit_cloud
from simjax.calibrate.handover.observed import Observed, Part
from simjax.calibrate.handover.priors import HANDOVER, WHY_NOT
from simjax.calibrate.handover.requests import MeasuredRequests, read_requests
from simjax.calibrate.handover.space import Measured, handover_space, rules_at
from simjax.calibrate.handover.transfers import MeasuredTransfers, read_transfers
from simjax.calibrate.posterior import Posterior, fitted_rows
from simjax.calibrate.space import Space
from simjax.cluster.configured.cluster import configured_cluster
from simjax.cluster.disaggregation import Disaggregation
from simjax.cluster.latency_source import latency_source
from simjax.config.calibrate import HandoverFitConfig, ParameterConfig
from simjax.errors import SimjaxError

DIGITS = 5  # of the values in the file
FEWEST_ROWS = 4  # of a kind, to hold half of them out
POOR_PCT = 15.0  # mean absolute error, or error of the mean, of a kind of times
HELD_OUT = "held_out"


@dataclass(frozen=True)
class CalibratedHandover:
    """A finished calibration of a hand-over.

    Attributes:
        rule: the hand-over with the fitted parameters, rounded as in its file.
        space, fit, posterior: the free parameters, the end of the fit, and its uncertainty.
        rows: one mapping for each fitted parameter, see `fitted_rows`.
        scores: one mapping for each kind of times: `name`, `count`, and errors `before`, `after` and, where there are enough, `held_out`:
            of each half of the times by a fit to the other.
        loss: half the sum of squares with the configured parameters (data alone), and with the fitted ones.
        not_fitted: parameters that were left as they are, and why.
        warnings: caveats, one line each.
        problems: reasons why this is no success, one line each; empty when it is one.
    """

    rule: Disaggregation
    space: Space
    fit: CloudFit
    posterior: Posterior
    rows: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    loss: tuple[float, float]
    not_fitted: dict[str, str]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class _Measurements:
    """All that was measured, as one vector of residuals."""

    observed: tuple[Observed, ...]

    @property
    def parts(self) -> list[Part]:
        return [part for one in self.observed for part in one.parts]

    def simulated_s(self, rules: Sequence[Disaggregation]) -> list[np.ndarray]:
        return [seconds for one in self.observed for seconds in one.simulated_s(rules)]

    def residuals(self, simulated_s: Sequence[np.ndarray]) -> np.ndarray:
        """Residuals of N simulations, f64[N, K]."""
        return np.concatenate([part.residuals(seconds) for part, seconds in zip(self.parts, simulated_s, strict=True)], axis=-1)

    @property
    def kind(self) -> np.ndarray:
        """int[K], the part that each residual belongs to."""
        return np.repeat(np.arange(len(self.parts)), [len(part.measured_s) for part in self.parts])

    @property
    def odd(self) -> np.ndarray:
        """bool[K], every second time of each kind."""
        return np.concatenate([np.arange(len(part.measured_s)) % 2 == 1 for part in self.parts])


def calibrate_handover(config: HandoverFitConfig, on_progress: Progress | None = None) -> CalibratedHandover:
    """Fit the parameters of a hand-over to measured transfers, requests, or both.

    Args:
        config: the cluster, the measurements and the parameters.
        on_progress: called with (rounds done, all rounds, loss).

    Raises:
        SimjaxError: a file or an option is wrong, or the cluster has no prefill and decode instances.
    """
    if config.transfers is None and config.requests is None:
        raise SimjaxError("nothing to fit to: simjax handover fit transfers=FILE.csv, requests=FILE.csv, or both")
    cluster, source = configured_cluster(config), latency_source(config.profile)
    transfers = None if config.transfers is None else read_transfers(Path(config.transfers), cluster)
    requests = None if config.requests is None else read_requests(Path(config.requests), cluster, source)
    space = handover_space(_measured(transfers, requests), {name: ParameterConfig.of(name, x) for name, x in config.parameters.items()})
    measured = _Measurements(tuple(x for x in (transfers, requests) if x is not None))
    rule = replace(cluster.disaggregation, **dict(space.fixed))

    def residuals(points: np.ndarray) -> np.ndarray:
        return measured.residuals(measured.simulated_s(rules_at(rule, space, points)))

    widths = SMOOTH_WIDTHS if requests is None else WIDTHS
    fit = fit_cloud(residuals, len(space), measured.kind, widths, config.seed, on_progress)
    fitted = _rounded(rules_at(rule, space, [fit.u])[0], space)
    halves = rules_at(rule, space, [fit.planes.best(~measured.odd), fit.planes.best(measured.odd)])
    rules = [fitted, *halves, cluster.disaggregation]
    rules += [fitted] * (CANDIDATES - len(rules))  # as many as of a cloud: that program is there
    simulated_s = measured.simulated_s(rules)
    after, _, _, before = measured.residuals([x[:4] for x in simulated_s])
    posterior = fit.posterior(after, sum(part.observations for part in measured.parts))
    rows = fitted_rows(space, posterior)
    scores = [_score(part, seconds) for part, seconds in zip(measured.parts, simulated_s, strict=True)]
    return CalibratedHandover(
        fitted,
        space,
        fit,
        posterior,
        rows,
        scores,
        (0.5 * float(before @ before), 0.5 * float(after @ after + fit.u @ fit.u)),
        {name: WHY_NOT[name] for name in HANDOVER if name not in space.names and name not in dict(space.fixed)},
        (*(() if requests is None else requests.warnings), *_at_bounds(rows)),
        _problems(scores),
    )


def _measured(transfers: MeasuredTransfers | None, requests: MeasuredRequests | None) -> Measured:
    moved = requests is not None and any(part.name == "transfer" for part in requests.parts)
    several = transfers is not None and transfers.several_block_sizes
    return Measured(transfers is not None or moved, several, requests is not None)


def _rounded(rule: Disaggregation, space: Space) -> Disaggregation:
    return replace(rule, **{name: float(f"{getattr(rule, name):.{DIGITS}g}") for name in (*space.names, *dict(space.fixed))})


def _score(part: Part, seconds: np.ndarray) -> dict[str, Any]:
    """Errors of a kind of times; `seconds` f64[N, n] are simulated as fitted, by the fits to the even and to the odd ones, and before."""
    as_fitted, by_even, by_odd, before = seconds[:4]
    found: dict[str, Any] = {"name": part.name, "count": len(part.measured_s)}
    found |= {"before": part.errors(before), "after": part.errors(as_fitted)}
    if len(part.measured_s) >= FEWEST_ROWS:
        odd = np.arange(len(part.measured_s)) % 2 == 1
        found[HELD_OUT] = part.errors(np.where(odd, by_even, by_odd))
    return found


def _problems(scores: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    lines = []
    for score in scores:
        error = score["after"]["mean_error_pct"]
        if error is None or abs(error) > POOR_PCT:
            told = "none has finished" if error is None else f"their mean is {error:+.1f} % off"
            lines.append(f"the fit to times of kind '{score['name']}' is poor: {told}")
    return tuple(lines)


def _at_bounds(rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """A line about parameters at a bound, which is no failure where the fit is good."""
    bound = [f"{row['name']} ({100 * row['constrained']:.0f} % known from data)" for row in rows if row["at_bound"]]
    if not bound:
        return ()
    return (f"at the bound of what the prior allows: {', '.join(bound)}; is the cluster the measured one (network.*, disaggregation.*)?",)
