"""Targets, the measurements that a profile must reproduce, as residuals that a fit squares and sums; and measured runs as targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.prepared_run import ClientLatencies, PreparedRun, simulated
from simjax.calibrate.targets.residuals import UNFINISHED, pseudo_huber
from simjax.latency.profiles.profile import LatencyProfile
from simjax.metrics.latency import PERCENTILES
from simjax.validate.compare import METRICS
from simjax.validate.run import MeasuredRun

if TYPE_CHECKING:
    from jaxtyping import Float64

_SHARES = np.array(list(PERCENTILES.values())) / 100.0
FRACTIONS = np.arange(0.1, 1.01, 0.1)  # shares of the requests at which the progress curves are compared


class Target(Protocol):
    """A measurement that a fit reproduces."""

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        ...

    @property
    def observations(self) -> float:
        """Number of independent observations that the residuals stand for: the sum of their weights."""
        ...

    def residuals(self, profile: LatencyProfile, reverse: bool = False) -> Float64[Array, " K"]:
        """Weighted residuals, (log simulated - log measured) / sd; `reverse` as in `simulated`."""
        ...


@dataclass(frozen=True)
class LossWeights:
    """Weights of the views of a measured run.

    Standard deviations are how far a good profile may be off: a single request of a busy server meets another batch when a step is a
    millisecond late, so single requests are judged more loosely than their statistics. Weights are numbers of independent observations:
    requests of one run share its steps, so 300 of them are not 300 pieces of evidence.

    Attributes:
        request_sd: standard deviations of the logarithm of single requests' TTFT, TPOT and E2E.
        request_weight: independent observations that a run's requests stand for.
        statistic_sd: standard deviations of the logarithm of means and percentiles.
        statistic_weight: weight of each of them.
        progress_sd: standard deviation of the logarithm of the times by which 10, 20, ... 100 % of the requests have had their first and
            last token.
        progress_weight: weight of each curve.
        outlier: standard deviations beyond which a residual counts linearly, not squared: a sign of another schedule, not another profile.
    """

    request_sd: dict[str, float] = field(default_factory=lambda: {"ttft_s": 0.08, "tpot_s": 0.015, "e2e_s": 0.015})
    request_weight: float = 90.0
    statistic_sd: dict[str, float] = field(default_factory=lambda: {"ttft_s": 0.01, "tpot_s": 0.004, "e2e_s": 0.004})
    statistic_weight: float = 9.0
    progress_sd: float = 0.01
    progress_weight: float = 9.0
    outlier: float = 3.0

    def scaled(self, factor: float) -> LossWeights:
        """The same with all weights multiplied."""
        weights = ("request_weight", "statistic_weight", "progress_weight")
        return replace(self, **{name: getattr(self, name) * factor for name in weights})


@dataclass(frozen=True)
class RunTarget:
    """A measured run.

    Attributes:
        run: the recording.
        prepared: its simulation.
        weights: weights of its views.
        first: requests, in order of arrival, that the fit may look at; None for all.
        noise: by metric, float64[statistics]: standard deviations of the logarithm of statistics that are the measurement's own, on top of
            those of `weights`; empty for none.
    """

    run: MeasuredRun
    prepared: PreparedRun
    weights: LossWeights
    first: int | None = None
    noise: Mapping[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of_run(run: MeasuredRun, prepared: PreparedRun, weights: LossWeights, first: int | None = None) -> RunTarget:
        """The target of a run. Of one whose arrivals are drawn only statistics count, and these no more than two samples agree."""
        shown = slice(0, first)
        several = {"ttft_s": run.ttft_s[shown], "tpot_s": run.tpot_s[shown][run.has_tpot[shown]], "e2e_s": run.e2e_s[shown]}
        several = {name: values for name, values in several.items() if len(values)}
        if run.drawn_arrivals:
            noise = {name: np.sqrt(2.0) * sampling_noise(values) for name, values in several.items()}
            return RunTarget(run, prepared, replace(weights, request_weight=0.0, progress_weight=0.0), first, noise)
        noise = {name: replay_noise(values, weights.request_sd[name]) for name, values in several.items()}
        return RunTarget(run, prepared, weights, first, noise)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def observations(self) -> float:
        """Number of independent observations that the residuals stand for."""
        w = self.weights
        return len(METRICS) * (w.request_weight + (1 + len(PERCENTILES)) * w.statistic_weight) + 2 * w.progress_weight

    def residuals(self, profile: LatencyProfile, reverse: bool = False) -> Array:
        """Residuals of requests, statistics and progress."""
        return self.of(simulated(self.prepared, profile, reverse))

    def of(self, latencies: ClientLatencies) -> Array:
        """Residuals of simulated latencies."""
        w, done, shown = self.weights, latencies.finished[: self.first], slice(0, self.first)
        parts = []
        for metric in METRICS:
            there = (self.run.has_tpot if metric == "tpot_s" else np.ones(len(self.run), bool))[shown]
            if not there.any():
                continue
            measured, ours = (getattr(x, metric)[shown][there] for x in (self.run, latencies))
            ratio = jnp.where(done[there], jnp.log(ours) - np.log(measured), UNFINISHED)
            parts.append(pseudo_huber(ratio / w.request_sd[metric], w.outlier) * np.sqrt(w.request_weight / len(measured)))
            off = jnp.where(done.all(), jnp.log(_statistics(ours, jnp) / _statistics(measured, np)), UNFINISHED)
            sd = np.hypot(w.statistic_sd[metric], self.noise.get(metric, 0.0))
            parts.append(pseudo_huber(off / sd, w.outlier) * np.sqrt(w.statistic_weight))
        for metric in ("ttft_s", "e2e_s"):
            measured, ours = (
                _progress((sent_s + getattr(x, metric))[shown], xp)
                for sent_s, x, xp in ((self.run.arrival_s, self.run, np), (latencies.sent_s, latencies, jnp))
            )
            off = jnp.where(done.all(), jnp.log(ours / measured), UNFINISHED)
            parts.append(off / w.progress_sd * np.sqrt(w.progress_weight / len(FRACTIONS)))
        return jnp.concatenate(parts)


def _statistics(x: Any, xp: object) -> Array:
    return xp.concatenate([xp.mean(x)[None], xp.percentile(x, xp.array(list(PERCENTILES.values())))])  # pyright: ignore[reportAttributeAccessIssue]


def sampling_noise(values: np.ndarray) -> np.ndarray:
    """Standard deviations of the logarithm of the mean and the percentiles of a sample, float64[statistics].

    The mean has its standard error. How many of n values lie below the percentile p is binomial, with a standard deviation of
    sqrt(n p (1 - p)), and the order statistics so many ranks below and above it say how sure it is.

    Args:
        values: float64[n], positive.
    """
    share = _SHARES * (1.0 - _SHARES)
    return np.append(values.std() / np.sqrt(len(values)) / values.mean(), _between(values, np.sqrt(len(values) * share)))


def replay_noise(values: np.ndarray, request_sd: float) -> np.ndarray:
    """`sampling_noise` of a run that is replayed, request by request, float64[statistics].

    Both sides then have the same requests, and only what no profile explains of each of them lets their statistics differ. A request
    counts on the wrong side of a percentile if it is closer to it than it is off: where k of them lie within one standard deviation on
    either side, the number on the wrong side has a variance of k / (2 sqrt(pi)), and never more than a sample's.

    Args:
        values: float64[n], positive.
        request_sd: standard deviation of the logarithm of a single request.
    """
    at = np.quantile(values, _SHARES)
    near = np.array([np.sum(np.abs(np.log(values / x)) <= request_sd) for x in at]) / (2.0 * np.sqrt(np.pi))
    ranks = np.sqrt(np.minimum(near, len(values) * _SHARES * (1.0 - _SHARES)))
    mean_sd = min(request_sd * np.sqrt(np.sum(values**2)) / np.sum(values), sampling_noise(values)[0])
    return np.append(mean_sd, _between(values, ranks))


def _between(values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Half of the logarithm of the ratio of the order statistics so many ranks above and below each percentile."""
    low, high = (np.quantile(values, np.clip(_SHARES + sign * ranks / len(values), 0.0, 1.0)) for sign in (-1.0, 1.0))
    return np.log(high / low) / 2.0


def _progress(at_s: Array, xp: object) -> Array:
    """Times by which each of `FRACTIONS` of the requests has reached an event, in seconds since the first arrival."""
    return xp.quantile(at_s, xp.array(FRACTIONS))  # pyright: ignore[reportAttributeAccessIssue]
