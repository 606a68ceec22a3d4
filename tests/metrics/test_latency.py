import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.engine.host.result import NEVER
from simjax.metrics.latency import inter_token_gaps, itl_statistics, latencies, statistics, weighted_statistics
from simjax.metrics.steps import expand_steps, leap_durations
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny, without_leaps


def test_latencies_of_the_hand_made_run():
    lat = latencies(tiny().requests)
    assert lat.ttft_s.tolist() == [1.0, 1.0, 0.5]
    assert lat.e2e_s.tolist() == [2.5, 1.5, 0.5]
    assert lat.has_tpot.tolist() == [True, True, False]
    assert lat.tpot_s.tolist() == [0.75, 0.5, NEVER]


def test_only_finished_requests_have_latencies():
    requests = request_log(dict(arrival_s=1.0, scheduled_s=1.0, first_token_s=2.0, output_tokens=5), dict(arrival_s=NEVER, output_tokens=2))
    lat = latencies(requests)
    assert not lat.finished.any() and not lat.has_tpot.any()
    assert (lat.ttft_s == NEVER).all() and (lat.tpot_s == NEVER).all() and (lat.e2e_s == NEVER).all()


def test_statistics_of_nothing_are_none():
    assert set(statistics(np.zeros(0)).values()) == {None}
    assert set(weighted_statistics(np.array([1.0]), np.array([0])).values()) == {None}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.integers(0, 40)), min_size=1, max_size=60).filter(lambda rows: any(n for _, n in rows)))
def test_weighted_statistics_equal_numpy_on_the_repeated_sample(rows):
    values, counts = np.array([v for v, _ in rows]), np.array([n for _, n in rows])
    plain, weighted = statistics(np.repeat(values, counts)), weighted_statistics(values, counts)
    assert list(plain) == list(weighted) == ["mean", "p50", "p90", "p95", "p99", "max"]
    np.testing.assert_allclose(list(weighted.values()), list(plain.values()), rtol=1e-12)


def test_inter_token_gaps_of_the_hand_made_run():
    found = itl_statistics(tiny())
    assert found["mean"] == pytest.approx(2.0 / 3.0)
    assert found["p50"] == 0.5 and found["max"] == 1.0
    assert found["p90"] == pytest.approx(np.percentile([0.5, 1.0, 0.5], 90))


def test_gaps_of_a_leap_with_slope_and_a_pause():
    # Step 1 lasts 2 s: one token follows the step before, one comes after a pause of 7 s, one is a first token.
    # Then three decode steps of 0.5, 0.6 and 0.7 s emit three tokens each.
    leaps = leap_log(
        dict(first_step_s=2.0, next_step_s=0.5, slope_s=0.1, steps=4, first_outputs=3, decodes=1, resumed=1, resumed_gap_s=7.0, outputs=3)
    )
    values, counts = inter_token_gaps(leaps)
    gaps = np.sort(np.repeat(values, counts))
    np.testing.assert_allclose(gaps, [0.5] * 3 + [0.6] * 3 + [0.7] * 3 + [2.0, 7.0])
    assert leap_durations(leaps)[0] == pytest.approx(2.0 + 0.5 + 0.6 + 0.7)
    np.testing.assert_allclose(expand_steps(leaps).end_s, [2.0, 2.5, 3.1, 3.8])


def test_steps_of_a_leap_follow_each_other_without_a_gap():
    leaps = random_result(3).leaps
    steps = expand_steps(leaps)
    for leap in range(len(leaps.steps)):
        mine = steps.leap == leap
        assert mine.sum() == leaps.steps[leap]
        np.testing.assert_allclose(steps.end_s[mine], leaps.start_s[leap] + np.cumsum(steps.duration_s[mine]), rtol=1e-12)
        np.testing.assert_allclose(steps.duration_s[mine].sum(), leap_durations(leaps)[leap], rtol=1e-12)


def test_without_a_leap_log_only_the_mean_itl_is_known():
    found = itl_statistics(without_leaps(tiny()))
    assert found["mean"] == pytest.approx(2.0 / 3.0)  # the same three gaps, summed
    assert found["p50"] is None and found["max"] is None
    nobody = dataclasses.replace(make_result(request_log(dict(arrival_s=0.0))), leaps=None)
    assert set(itl_statistics(nobody).values()) == {None}
