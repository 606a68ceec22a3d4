"""Synthetic arrivals.

Statistical checks: a correct generator fails one of them with a fresh seed with probability below 1e-6 (Kolmogorov-Smirnov p-value, or
5 standard errors); the seeds are fixed, so a failure is a change of the generator.
"""

import numpy as np
import pytest
from scipy import stats

from simjax.errors import SimjaxError
from simjax.workload.synthetic import arrivals

N = 20_000
RATE = 4.0


def rng(seed=7):
    return np.random.default_rng(seed)


def gaps(times):
    return np.diff(times, prepend=0.0)


def assert_distributed(values, distribution):
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-6


def test_poisson_gaps_are_exponential_and_independent():
    found = gaps(arrivals.poisson(RATE, rng(), n=N))
    assert_distributed(found, stats.expon(scale=1 / RATE))
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 5 / np.sqrt(N)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5])
def test_gamma_gaps_have_the_mean_and_the_cv(cv):
    shape = 1 / cv**2
    wanted = stats.gamma(shape, scale=1 / (RATE * shape))
    assert wanted.mean() == pytest.approx(1 / RATE) and wanted.std() / wanted.mean() == pytest.approx(cv)
    assert_distributed(gaps(arrivals.gamma(RATE, cv, rng(), n=N)), wanted)


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5])
def test_weibull_gaps_have_the_mean_and_the_cv(cv):
    shape = arrivals.weibull_shape(cv)
    wanted = stats.weibull_min(shape, scale=1 / (RATE * stats.weibull_min(shape).mean()))
    assert wanted.mean() == pytest.approx(1 / RATE) and wanted.std() / wanted.mean() == pytest.approx(cv, rel=1e-9)
    assert_distributed(gaps(arrivals.weibull(RATE, cv, rng(), n=N)), wanted)


def test_weibull_of_cv_1_is_poisson():
    np.testing.assert_allclose(arrivals.weibull(RATE, 1.0, rng(), n=50), arrivals.poisson(RATE, rng(), n=50), rtol=1e-12)


GENERATORS = {
    "poisson": lambda **extent: arrivals.poisson(RATE, rng(), **extent),
    "gamma": lambda **extent: arrivals.gamma(RATE, 1.7, rng(), **extent),
    "weibull": lambda **extent: arrivals.weibull(RATE, 1.7, rng(), **extent),
    "constant": lambda **extent: arrivals.constant(RATE, **extent),
    "pulses": lambda **extent: arrivals.pulses(3, 0.7, **extent),
    "piecewise": lambda **extent: arrivals.piecewise([(0, 1.0), (10, 0.0), (20, 5.0)], rng(), **extent),
}


@pytest.mark.parametrize("make", GENERATORS.values(), ids=list(GENERATORS))
def test_the_first_arrivals_do_not_depend_on_how_many_are_made(make):
    many = make(n=1000)
    assert len(many) == 1000 and np.all(np.diff(many) >= 0) and many[0] >= 0
    np.testing.assert_array_equal(make(n=100), many[:100])
    # A duration cuts the same sequence.
    end_s = 0.5 * (many[499] + many[-1])
    np.testing.assert_array_equal(make(duration_s=end_s), many[many < end_s])
    np.testing.assert_array_equal(make(duration_s=end_s, n=100), many[:100])
    np.testing.assert_array_equal(make(duration_s=many[30], n=1000), many[many < many[30]])


def test_a_duration_far_beyond_the_first_guess_is_filled():
    """Gaps of CV 30: the number of arrivals in a duration is far from rate × duration, so more gaps must be drawn."""
    times = arrivals.gamma(RATE, 30.0, rng(5), duration_s=1000.0)
    again = arrivals.gamma(RATE, 30.0, rng(5), n=len(times) + 1)
    np.testing.assert_array_equal(times, again[:-1])
    assert times[-1] < 1000.0 <= again[-1]


@pytest.mark.parametrize("kind", ["poisson", "gamma", "weibull"])
def test_a_change_of_rate_only_stretches_time(kind):
    extra = () if kind == "poisson" else (1.7,)
    slow, fast = (getattr(arrivals, kind)(rate, *extra, rng(), n=200) for rate in (2.0, 6.0))
    np.testing.assert_allclose(slow, 3 * fast, rtol=1e-12)


def test_constant_arrivals():
    assert arrivals.constant(4.0, n=3).tolist() == [0.0, 0.25, 0.5]
    assert arrivals.constant(4.0, duration_s=0.5).tolist() == [0.0, 0.25]  # the end is excluded


def test_pulses():
    assert arrivals.pulses(2, 5.0, count=3).tolist() == [0, 0, 5, 5, 10, 10]
    assert arrivals.pulses(2, 5.0, n=3).tolist() == [0, 0, 5]
    assert arrivals.pulses(2, 5.0, duration_s=10.0).tolist() == [0, 0, 5, 5]
    assert arrivals.pulses(2, 5.0, count=2, n=99).tolist() == [0, 0, 5, 5]


def test_piecewise_counts_follow_the_rate():
    segments = [(0.0, 10.0), (100.0, 0.0), (200.0, 30.0), (300.0, 2.0)]
    times = arrivals.piecewise(segments, rng(), duration_s=400.0)
    counts, _ = np.histogram(times, [0, 100, 200, 300, 400])
    expected = np.array([1000, 0, 3000, 200])
    assert counts[1] == 0
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected))
    # Within a segment arrivals of a Poisson process are uniform.
    assert_distributed(times[(times >= 200) & (times < 300)], stats.uniform(200, 100))


def test_piecewise_of_one_segment_is_poisson():
    np.testing.assert_allclose(arrivals.piecewise([(0, RATE)], rng(), n=50), arrivals.poisson(RATE, rng(), n=50), rtol=1e-12)


def test_piecewise_that_ends_at_zero_may_fill_a_duration_but_not_a_count():
    segments = [(0.0, 5.0), (10.0, 0.0)]
    assert 0 < len(arrivals.piecewise(segments, rng(), duration_s=1000.0)) < 100
    with pytest.raises(SimjaxError, match="the rate stays 0 after 10 s"):
        arrivals.piecewise(segments, rng(), n=10_000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: arrivals.poisson(-1.0, rng(), n=3), "rate=-1; it must be positive"),
        (lambda: arrivals.poisson(0.0, rng(), n=3), "rate=0; it must be positive"),
        (lambda: arrivals.poisson(float("inf"), rng(), n=3), "rate=inf"),
        (lambda: arrivals.poisson(1.0, rng()), "how many requests"),
        (lambda: arrivals.poisson(1.0, rng(), n=0), "num_requests=0"),
        (lambda: arrivals.poisson(1.0, rng(), duration_s=-5.0), "duration_s=-5"),
        (lambda: arrivals.poisson(1e6, rng(), duration_s=1e6), r"give 1e\+12 requests"),
        (lambda: arrivals.gamma(1.0, 0.0, rng(), n=3), "cv=0; it must be positive"),
        (lambda: arrivals.weibull(1.0, 0.001, rng(), n=3), "kind=constant"),
        (lambda: arrivals.pulses(0, 1.0, n=3), "pulse_size=0"),
        (lambda: arrivals.pulses(1, 0.0, n=3), "pulse_interval_s=0"),
        (lambda: arrivals.pulses(1, 1.0, count=0), "pulse_count=0"),
        (lambda: arrivals.pulses(1, 1.0), "how many pulses"),
        (lambda: arrivals.piecewise([], rng(), n=3), "must be a list of"),
        (lambda: arrivals.piecewise([[0, "x"]], rng(), n=3), "must be a list of"),
        (lambda: arrivals.piecewise([(1, 2)], rng(), n=3), "starts must rise from 0"),
        (lambda: arrivals.piecewise([(0, 2), (0, 3)], rng(), n=3), "the starts must rise from 0"),
        (lambda: arrivals.piecewise([(0, 2), (5, -3)], rng(), n=3), "no rate may be negative"),
        (lambda: arrivals.piecewise([(0, 0)], rng(), n=3), "one must be positive"),
    ],
)
def test_impossible_arrivals_are_errors(make, reason):
    with pytest.raises(SimjaxError, match=reason):
        make()
