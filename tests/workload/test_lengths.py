"""Synthetic lengths; statistical checks fail a correct sampler with a fresh seed with probability below 1e-6 each (5 standard errors)."""

import numpy as np
import pytest
from scipy import stats

from simjax.errors import SimjaxError
from simjax.workload.synthetic import lengths

N = 40_000


def rng(seed=11):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("centre", [{"mean": 860.0}, {"median": 640.0}])
@pytest.mark.parametrize("spread", [{"cv": 0.9}, {"sigma": 0.6}])
def test_lognormal_has_the_wanted_centre_and_spread(centre, spread):
    drawn = np.log(lengths.lognormal(rng(), N, **centre, **spread).astype(float))
    sigma = spread.get("sigma") or np.sqrt(np.log(1 + 0.9**2))
    mu = np.log(centre.get("median") or 860.0) - (sigma**2 / 2 if "mean" in centre else 0.0)
    # Rounding to tokens moves the logarithm of lengths of hundreds by far less than these errors.
    assert drawn.mean() == pytest.approx(mu, abs=5 * sigma / np.sqrt(N))
    assert drawn.std() == pytest.approx(sigma, abs=5 * sigma / np.sqrt(2 * N))


def test_lognormal_mean_and_cv_are_those_of_the_lengths():
    drawn = lengths.lognormal(rng(), N, mean=860.0, cv=0.5).astype(float)
    assert drawn.mean() == pytest.approx(860.0, abs=5 * 430.0 / np.sqrt(N))
    assert drawn.std() / drawn.mean() == pytest.approx(0.5, rel=0.035)  # 5 standard errors: the kurtosis is 8


def test_lognormal_of_no_spread_is_fixed():
    assert set(lengths.lognormal(rng(), 10, mean=100.0, cv=0.0).tolist()) == {100}


def test_uniform_covers_both_ends_evenly():
    drawn = lengths.uniform(3, 7, rng(), N)
    counts = np.bincount(drawn, minlength=8)[3:]
    assert drawn.min() == 3 and drawn.max() == 7
    assert np.all(np.abs(counts - N / 5) < 5 * np.sqrt(N * 0.2 * 0.8))


def test_zipf_follows_its_power_law():
    drawn = lengths.zipf(1.2, 2, 50, rng(), N)
    weights = np.arange(2, 51) ** -1.2
    expected = N * weights / weights.sum()
    counts = np.bincount(drawn, minlength=51)[2:51]
    assert counts.sum() == N
    assert stats.chisquare(counts, expected).pvalue > 1e-6


def test_fixed():
    assert lengths.fixed(17, 3).tolist() == [17, 17, 17]


def test_resample_draws_every_value_about_evenly_and_keeps_pairs_together():
    pairs = np.array([[10, 1], [20, 2], [30, 3]])
    drawn = lengths.resample(pairs, rng(), N)
    assert drawn.shape == (N, 2) and np.all(drawn[:, 0] == 10 * drawn[:, 1])
    assert np.all(np.abs(np.bincount(drawn[:, 1])[1:] - N / 3) < 5 * np.sqrt(N * 2 / 9))


def test_clip_keeps_lengths_within_bounds_and_at_least_one():
    assert lengths.clip(np.array([0.2, 1.5, 99.0])).tolist() == [1, 2, 99]
    assert lengths.clip(np.array([0.2, 50.0, 99.0]), 16, 64).tolist() == [16, 50, 64]
    bounded = lengths.lognormal(rng(), N, mean=860.0, cv=0.9, low=16, high=4000)
    assert bounded.min() >= 16 and bounded.max() == 4000
    assert lengths.lognormal(rng(), 100, mean=1e12, cv=0.1).max() == 2**31 - 1  # never overflows int32


DRAWS = {
    "lognormal": lambda n: lengths.lognormal(rng(), n, mean=100.0, cv=1.0),
    "uniform": lambda n: lengths.uniform(1, 1000, rng(), n),
    "zipf": lambda n: lengths.zipf(1.1, 1, 1000, rng(), n),
    "resample": lambda n: lengths.resample(np.arange(1, 500), rng(), n),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
def test_the_first_lengths_do_not_depend_on_how_many_are_drawn(draw):
    few, many = draw(100), draw(5000)
    assert few.dtype == np.int32 and many.min() >= 1
    np.testing.assert_array_equal(few, many[:100])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: lengths.fixed(0, 3), "tokens=0 tokens; it must be at least 1"),
        (lambda: lengths.fixed(2**31, 3), "must be at most 2147483647"),
        (lambda: lengths.uniform(5, 4, rng(), 3), "high=4 tokens; it must be at least low=5"),
        (lambda: lengths.lognormal(rng(), 3, mean=1.0, median=1.0, cv=1.0), "exactly one of mean and median; got mean=1 and median=1"),
        (lambda: lengths.lognormal(rng(), 3, cv=1.0), "exactly one of mean and median; got neither"),
        (lambda: lengths.lognormal(rng(), 3, mean=1.0), "exactly one of cv and sigma"),
        (lambda: lengths.lognormal(rng(), 3, mean=-3.0, cv=1.0), "mean=-3 tokens; it must be positive"),
        (lambda: lengths.lognormal(rng(), 3, mean=3.0, cv=-1.0), "cv=-1; it must not be negative"),
        (lambda: lengths.lognormal(rng(), 3, mean=3.0, cv=1.0, low=0), "min=0 tokens"),
        (lambda: lengths.lognormal(rng(), 3, mean=3.0, cv=1.0, low=9, high=8), "max=8 tokens; it must be at least min=9"),
        (lambda: lengths.zipf(0.0, 1, 9, rng(), 3), "alpha=0; it must be positive"),
        (lambda: lengths.zipf(1.0, 1, 10**9, rng(), 3), "may span at most"),
    ],
)
def test_impossible_lengths_are_errors(make, reason):
    with pytest.raises(SimjaxError, match=reason):
        make()
