"""Parameter values drawn from the posterior of a profile's calibration, or from priors where it has none.

Two things make a profile uncertain. Its parameters have a posterior, a normal distribution of their transformed values. And step times
are off by more than any values explain: by `Widths`, as corrections of the token-wise work of a step and as speeds of attention.
Corrections at sizes x and y are correlated by exp(-|log2 x - log2 y| / 4): sizes of an octave share most of their kernels, sizes far apart
few. So the corrections of neighbouring knots, two octaves apart, have a correlation of 0.61.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

from simjax.errors import SimjaxError
from simjax.latency.parameters import PARALLEL, matters, present_value
from simjax.latency.priors import CORRECTION_TOKENS, PARAMETERS, STEP_CORRECTIONS, parameter
from simjax.latency.profiles.profile import LatencyProfile
from simjax.uncertainty.widths import PRIOR_SD, Widths

CORRELATED_OCTAVES = 4.0  # octaves over which the correlation of corrections falls by a factor e
COLLECTIVES = ("collective_bandwidth", "collective_latency")
_ATTENTION = ("decode_attention", "prefill_attention")
_OWN = len(STEP_CORRECTIONS) + len(_ATTENTION) + len(COLLECTIVES)  # dimensions that each group of instances has for itself
_LEAST_SHARE = 1e-6  # least distance of a share from 1
_NEGLIGIBLE = 1e-9  # relative to the largest eigenvalue: a covariance in a file has six digits

Values = dict[str, float]


def draw_values(profile: LatencyProfile, draws: int, seed: int | Sequence[int] = 0, widths: Widths | None = None) -> list[Values]:
    """Values for `simjax.latency.parameters.with_parameters`, one mapping for each draw; no draw is special.

    Transformed parameters are normal around their present value in the profile (for a time, such that this value is its mean) with the
    covariance of its calibration. Without a calibration all physical parameters are drawn, with the spread of their priors. A parameter
    that is 0 in the profile is drawn around its prior's median.

    Args:
        profile: the profile.
        draws: number of draws.
        seed: seed of the draws.
        widths: widths that no parameter explains; None for those within the ranges that the profile has seen.
    """
    if widths is None:
        calibration = profile.calibration
        sd = PRIOR_SD if calibration is None else calibration.discrepancy
        widths = Widths((sd,) * len(STEP_CORRECTIONS), sd, sd, collectives=calibration is None)
    return [values for (values,) in draw_together(profile, draws, seed, [widths])]


def draw_together(
    profile: LatencyProfile, draws: int, seed: int | Sequence[int], widths: Sequence[Widths], parallel: Sequence[str] = ()
) -> list[tuple[Values, ...]]:
    """`draw_values` for several groups of instances that share a profile: they share parameters, but not what no parameter explains.

    Args:
        profile: the profile.
        draws: number of draws.
        seed: seed of the draws.
        widths: widths of each group.
        parallel: parameters of what several ranks, experts and drafts bring that matter in the run (`parallel_effects`): they have the
            spread of their priors where no calibration has constrained them.

    Returns:
        A tuple for each draw, with the values of each group.
    """
    names, center, root = _posterior(profile, parallel)
    z = normals(draws, len(names) + _OWN * len(widths), seed)
    shared = center + z[:, : len(names)] @ root.T
    found = []
    for draw in range(draws):
        values = {name: float(parameter(name).value(shared[draw, i])) for i, name in enumerate(names)}
        own = z[draw, len(names) :].reshape(len(widths), _OWN)
        found.append(tuple(_of_group(values, width, mine) for width, mine in zip(widths, own, strict=True)))
    return found


def normals(draws: int, dimensions: int, seed: int | Sequence[int]) -> np.ndarray:
    """Standard normal numbers whose statistics are closer to the normal than those of independent ones, f64[draws, dimensions].

    A Latin hypercube (each of `draws` equally likely strata of a dimension has one point), turned and stretched until means are 0,
    variances 1 and, with twice as many draws as dimensions, correlations 0. The spread of a nearly linear output is then right in itself:
    with 64 draws of 21 dimensions the width of a 90 % interval scatters by 6 %, by 11 % with independent draws.
    """
    rng = np.random.default_rng(seed)
    strata = rng.permuted(np.tile(np.arange(draws)[:, None], (1, dimensions)), axis=0)
    z = ndtri(np.clip((strata + rng.random((draws, dimensions))) / draws, 1e-9, 1.0 - 1e-9))
    z -= z.mean(axis=0)
    if draws < 2 * dimensions:
        return z / z.std(axis=0)
    variances, axes = np.linalg.eigh(z.T @ z / draws)
    return z @ (axes / np.sqrt(variances)) @ axes.T


def _posterior(profile: LatencyProfile, parallel: Sequence[str] = ()) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The uncertain parameters, the means of their transformed values, f64[P], and a root of their covariance, f64[P, P]."""
    calibration = profile.calibration
    if calibration is None:
        own = (*STEP_CORRECTIONS, *COLLECTIVES, *PARALLEL)
        names = [name for name in PARAMETERS if (name in parallel or name not in own) and matters(profile, name)]
        root = np.diag([PARAMETERS[name].prior_sd for name in names])
    else:
        names = list(calibration.parameters)
        covariance = np.array(calibration.covariance, np.float64).reshape(len(names), len(names))
        variances, axes = np.linalg.eigh((covariance + covariance.T) / 2.0)
        if len(names) and not variances.min() >= -_NEGLIGIBLE * max(variances.max(), 0.0):
            raise SimjaxError(f"{profile.source}: calibration.covariance is no covariance: it has negative variances")
        root = axes * np.sqrt(np.maximum(variances, 0.0))
        if more := [name for name in parallel if name not in names]:
            spread = np.array([PARAMETERS[name].prior_sd for name in more])
            root = np.block([[root, np.zeros((len(names), len(more)))], [np.zeros((len(more), len(names))), np.diag(spread)]])
            names += more
    # A time in a profile is the mean of its draws. Times that the data leave open have wide logarithms; if the profile held the median of
    # the draws, steps would be too long on average: by 3 % for gaps of 1 us between layers.
    bias = np.array([0.5 if parameter(name).unit == "s" else 0.0 for name in names]) * np.sum(root**2, axis=1)
    return names, np.array([_center(profile, name) for name in names]) - bias, root


def _center(profile: LatencyProfile, name: str) -> float:
    """The transformed value around which draws lie."""
    known, value = parameter(name), present_value(profile, name)
    if known.unit == "share":
        value = min(value, 1.0 - _LEAST_SHARE)
    return float(known.transform(value or known.prior))


def _of_group(shared: Values, width: Widths, z: np.ndarray) -> Values:
    """The values of one group of instances: the shared ones, and its own from standard normal numbers f64[_OWN]."""
    values = dict(shared)
    steps, attention, collectives = np.split(z, [len(STEP_CORRECTIONS), len(STEP_CORRECTIONS) + len(_ATTENTION)])
    off = [*(np.array(width.steps) * (_step_root() @ steps)), *(np.array([width.decode, width.prefill]) * attention)]
    for name, log in zip((*STEP_CORRECTIONS, *_ATTENTION), off, strict=True):
        values[name] = values.get(name, 1.0) * float(np.exp(log))
    if width.collectives:
        for name, normal in zip(COLLECTIVES, collectives, strict=True):
            values[name] = float(np.exp(PARAMETERS[name].prior_sd * normal))
    return values


def _step_root() -> np.ndarray:
    """A root of the correlations of step corrections."""
    octaves = np.log2(CORRECTION_TOKENS)
    return np.linalg.cholesky(np.exp(-np.abs(octaves[:, None] - octaves) / CORRELATED_OCTAVES))
