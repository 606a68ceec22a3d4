"""Draws of a profile's parameters: the posterior's mean and covariance, priors, and what no parameter explains."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.latency.parameters import PARALLEL, present_value
from simjax.latency.priors import CORRECTION_TOKENS, PARAMETERS, STEP_CORRECTIONS, parameter
from simjax.uncertainty.draws import COLLECTIVES, CORRELATED_OCTAVES, draw_together, draw_values, normals
from simjax.uncertainty.widths import PRIOR_SD, Widths
from tests.calibrate.calibrated import NAMES, calibrated, covariance

NONE = Widths((0.0,) * len(STEP_CORRECTIONS), 0.0, 0.0)


def transformed(draws: list[dict[str, float]], names: tuple[str, ...]) -> np.ndarray:
    """float64[draws, names]."""
    return np.array([[float(parameter(name).transform(draw[name])) for name in names] for draw in draws])


def test_draws_have_the_mean_and_covariance_of_the_posterior() -> None:
    profile = calibrated()
    found = transformed(draw_values(profile, 512), NAMES)
    centre = [present_value(profile, name) or PARAMETERS[name].prior for name in NAMES]
    assert present_value(profile, "step_s") == 0.0, "this one is around its prior's median"
    means = [PARAMETERS[n].transform(x) for n, x in zip(NAMES, centre, strict=True)]
    for i, name in enumerate(NAMES):  # a lognormal time whose mean is the profile's value has a lower median
        means[i] -= 0.5 * covariance()[i, i] if PARAMETERS[name].unit == "s" else 0.0
    np.testing.assert_allclose(found.mean(axis=0), means, atol=1e-12)
    np.testing.assert_allclose(np.cov(found.T, ddof=0), covariance(), rtol=1e-9)


def test_few_draws_have_the_mean_and_about_the_spread() -> None:
    found = transformed(draw_values(calibrated(), 8, seed=3), NAMES)
    assert found.std(axis=0) == pytest.approx(np.sqrt(np.diag(covariance())), rel=0.6)
    assert found.mean(axis=0)[0] == pytest.approx(0.0, abs=1e-12)


def test_draws_are_normal_and_not_only_of_the_right_spread() -> None:
    z = normals(256, 6, seed=0)
    below = [(z < point).mean(axis=0) for point in (-1.645, -0.674, 0.0, 0.674, 1.645)]
    np.testing.assert_allclose(below, np.tile(np.array([[0.05], [0.25], [0.5], [0.75], [0.95]]), (1, 6)), atol=0.03)


def test_seeds_give_other_draws_and_one_seed_the_same() -> None:
    profile = calibrated()
    assert draw_values(profile, 16, seed=1) == draw_values(profile, 16, seed=1)
    assert draw_values(profile, 16, seed=1) != draw_values(profile, 16, seed=2)


def test_no_spread_leaves_the_profile_alone() -> None:
    profile = replace(calibrated(sd=1e-12), host=replace(calibrated().host, step_s=2e-5))
    for draw in draw_values(profile, 64, widths=NONE):
        for name, value in draw.items():
            assert value == pytest.approx(present_value(profile, name), rel=1e-9), name


def test_without_a_calibration_physical_parameters_follow_their_priors() -> None:
    profile = replace(calibrated(), calibration=None)
    draws = draw_values(profile, 256)
    physical = tuple(name for name in PARAMETERS if name not in (*STEP_CORRECTIONS, *COLLECTIVES, *PARALLEL))
    assert set(draws[0]) == set(PARAMETERS) - set(PARALLEL)
    priors = {name: PARAMETERS[name].prior_sd for name in physical}
    for name in ("decode_attention", "prefill_attention"):  # these have a discrepancy as well
        priors[name] = math.hypot(priors[name], PRIOR_SD)
    found = transformed(draws, physical)
    np.testing.assert_allclose(found.std(axis=0), list(priors.values()), rtol=1e-6)
    times = np.exp(found).mean(axis=0)
    assert times[physical.index("api_pre_s")] == pytest.approx(profile.host.api_pre_s, rel=0.02)
    assert times[physical.index("layer_s")] == pytest.approx(PARAMETERS["layer_s"].prior, rel=0.1), (
        "a wide logarithm: 256 draws miss a tail"
    )


def test_step_corrections_are_correlated_as_stated() -> None:
    widths = Widths((0.01, 0.02, 0.03, 0.04, 0.05), 0.06, 0.07)
    draws = draw_values(calibrated(), 512, widths=widths)
    logs = transformed(draws, (*STEP_CORRECTIONS, "decode_attention", "prefill_attention"))
    octaves = np.log2(CORRECTION_TOKENS)
    expected = np.zeros((7, 7))
    expected[:5, :5] = np.exp(-np.abs(octaves[:, None] - octaves) / CORRELATED_OCTAVES)
    expected[5:, 5:] = np.eye(2)
    sd = np.array([*widths.steps, widths.decode, widths.prefill])
    np.testing.assert_allclose(np.cov(logs.T, ddof=0), expected * np.outer(sd, sd), atol=1e-12)
    np.testing.assert_allclose(logs.mean(axis=0), 0.0, atol=1e-12)


def test_collectives_follow_their_priors_where_the_degree_was_not_seen() -> None:
    assert not set(COLLECTIVES) & set(draw_values(calibrated(), 8)[0])
    draws = draw_values(calibrated(), 128, widths=replace(NONE, collectives=True))
    np.testing.assert_allclose(transformed(draws, COLLECTIVES).std(axis=0), [PARAMETERS[name].prior_sd for name in COLLECTIVES], rtol=1e-9)


def test_kinds_of_engines_share_parameters_and_not_what_none_explains() -> None:
    wide = replace(NONE, steps=(0.03,) * len(STEP_CORRECTIONS))
    for a, b in draw_together(calibrated(), 64, 0, [wide, wide]):
        assert all(a[name] == b[name] for name in NAMES)
        assert all(a[name] != b[name] for name in STEP_CORRECTIONS)


def test_a_matrix_that_is_no_covariance() -> None:
    profile = calibrated()
    assert profile.calibration is not None
    wrong = tuple(tuple(-x for x in row) for row in profile.calibration.covariance)
    with pytest.raises(SimjaxError, match=r"generic.yaml: calibration.covariance is no covariance"):
        draw_values(replace(profile, calibration=replace(profile.calibration, covariance=wrong)), 8)


def test_what_no_calibration_has_seen_of_parallelism_follows_its_priors() -> None:
    """Of a calibrated profile and of one without; only what matters in the run is drawn."""
    for profile in (calibrated(), replace(calibrated(), calibration=None)):
        draws = [values for (values,) in draw_together(profile, 256, 0, [Widths((0.01,) * 5, 0.01, 0.01)], ("expert_skew",))]
        assert {name for name in PARALLEL if name in draws[0]} == {"expert_skew"}
        logs = transformed(draws, ("expert_skew",))
        assert logs.std() == pytest.approx(PARAMETERS["expert_skew"].prior_sd, rel=0.05)
        assert logs.mean() == pytest.approx(0.0, abs=0.05)
