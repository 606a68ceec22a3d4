"""The search alone, on rates whose fate is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.sizing.fleet import CountSearch
from simjax.sizing.search import RateSearch, Trial


def follow(search: RateSearch, passes, first=None, margin=None) -> list[Trial]:
    """Answer a search until it ends; `first` answers where it tries on the first workload only, `margin` how far rates are from failing."""
    trials = []
    while (trial := search.ask()) is not None:
        assert trial.rates and len(trials) < 100, "the search goes in circles"
        trials.append(trial)
        answer = passes if trial.everywhere or first is None else first
        far = margin or (lambda rate: math.inf)
        search.tell({rate: abs(far(rate)) if answer(rate) else -abs(far(rate)) or -1e-9 for rate in trial.rates})
    return trials


@settings(max_examples=200, deadline=None)
@given(st.floats(0.01, 3.5), st.floats(0.01, 1e4), st.sampled_from([0.003, 0.01, 0.1]), st.integers(1, 5))
def test_finds_where_rates_stop_passing(share: float, scale: float, tolerance: float, splits: int) -> None:
    truth = share * scale
    search = RateSearch(scale, tolerance, splits=splits)
    trials = follow(search, lambda rate: rate <= truth)
    assert search.outcome == "found" and search.low is not None and search.high is not None
    assert search.low <= truth < search.high <= search.low * (1.0 + tolerance) * (1.0 + 1e-12)
    on_all = [rate for trial in trials if trial.everywhere for rate in trial.rates]
    assert search.low in on_all and search.high in on_all, "an end of the bracket was never tried on all workloads"


@settings(max_examples=200, deadline=None)
@given(st.floats(0.1, 2.0), st.floats(0.2, 5.0))
def test_margins_save_rounds_and_change_no_answer(truth: float, power: float) -> None:
    """With margins that are nearly linear it takes four rounds after the first look; with any others it still ends at the truth."""
    for curve, most in ((lambda x: x, 6), (lambda x: math.copysign(abs(x) ** power, x), 60)):
        search = RateSearch(1.0, 0.003)
        trials = follow(search, lambda rate: rate <= truth, margin=lambda rate, curve=curve: curve(math.log(truth / rate)))
        assert search.low is not None and search.high is not None and search.low <= truth < search.high <= search.low * 1.00301
        assert len(trials) <= most


@settings(max_examples=200, deadline=None)
@given(st.floats(0.05, 1.5), st.floats(0.05, 1.5))
def test_the_first_workload_may_be_wrong(share: float, of_first: float) -> None:
    search = RateSearch(1.0, 0.01)
    follow(search, lambda rate: rate <= share, first=lambda rate: rate <= of_first)
    assert search.outcome == "found" and search.low is not None and search.high is not None
    assert search.low <= share < search.high <= search.low * 1.0101


def test_more_splits_take_fewer_rounds() -> None:
    rounds = [len(follow(RateSearch(1.0, 0.001, splits=splits), lambda rate: rate <= 0.5)) for splits in (1, 3, 7)]
    assert rounds[0] > rounds[1] > rounds[2]


@pytest.mark.parametrize(("passes", "outcome"), [(lambda rate: False, "none"), (lambda rate: True, "all")])
def test_nowhere_and_everywhere_are_said(passes, outcome) -> None:
    search = RateSearch(10.0, 0.01)
    follow(search, passes)
    assert search.outcome == outcome


def test_all_workloads_may_contradict_the_first_one_everywhere() -> None:
    search = RateSearch(10.0, 0.01)
    follow(search, lambda rate: False, first=lambda rate: rate < 5.0)
    assert search.outcome == "none"
    search = RateSearch(10.0, 0.01, most=20.0)
    follow(search, lambda rate: True, first=lambda rate: rate < 5.0)
    assert search.outcome == "all"


@pytest.mark.parametrize(("truth", "outcome"), [(1.0, "none"), (5.0, "found"), (50.0, "all")])
def test_bounds_hold(truth: float, outcome: str) -> None:
    search = RateSearch(10.0, 0.01, least=2.0, most=8.0)
    rates = [rate for trial in follow(search, lambda rate: rate <= truth) for rate in trial.rates]
    assert search.outcome == outcome and min(rates) >= 2.0 and max(rates) <= 8.0


def test_a_reopened_search_tries_its_ends_again() -> None:
    search = RateSearch(1.0, 0.01)
    follow(search, lambda rate: rate <= 0.6)
    assert search.low is not None and search.high is not None
    ends = search.low, search.high
    search.reopen()
    assert search.ask() == Trial(ends, everywhere=True)
    follow(search, lambda rate: rate <= 0.5)
    assert search.low is not None and search.high is not None and search.low <= 0.5 < search.high <= search.low * 1.0101


@given(st.integers(1, 60), st.integers(1, 64))
def test_fewest_instances(enough: int, guess: int) -> None:
    search, tried = CountSearch(64, guess), []
    while search.following is not None:
        tried.append(search.following)
        search.tell(search.following >= enough)
    assert search.passed == enough and len(set(tried)) == len(tried) <= 64
    assert enough == 1 or enough - 1 in tried, "that one less is too few was never seen"


def test_no_number_is_enough() -> None:
    search = CountSearch(10, 4)
    while search.following is not None:
        search.tell(False)
    assert search.passed is None and search.failed == 10
