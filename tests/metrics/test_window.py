"""The measurement window on requests whose times are plain to see."""

import dataclasses

import numpy as np
import pytest

from simjax.engine.host.result import NEVER, Result
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.rows import result_row
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.metrics.steady.window import AUTOMATIC, WHOLE, Measured, Window
from simjax.metrics.summary import summarize
from simjax.workload.sessions import from_waits
from tests.metrics.factory import make_result, request_log, tiny


def regular(count: int = 100, stay_s: float = 10.0, stationary: bool = True) -> Result:
    """One request a second from 0 s on, each of which stays for `stay_s`, with its first token after 1 s and 10 output tokens."""
    rows = [
        dict(prompt_tokens=5, output_tokens=10, arrival_s=float(i), scheduled_s=float(i), first_token_s=i + 1.0, finish_s=i + stay_s)
        for i in range(count)
    ]
    return dataclasses.replace(make_result(request_log(*rows)), stationary=stationary)


def part_of(result: Result, window: Window = AUTOMATIC) -> Measured:
    return Runs.of([result], [NO_LIMITS], [1], [window]).measured


def test_the_automatic_window_leaves_out_two_stays_at_the_start_and_one_at_the_end():
    part = part_of(regular())
    assert part.stay_s[0] == 10.0 and part.sent_s[0] == 99.0
    assert (part.start_s[0], part.end_s[0]) == (20.0, 89.0) and not part.whole[0]
    assert np.flatnonzero(part.arrived[0]).tolist() == list(range(20, 90))
    # Finishes come at 10, 11, ... 109 s: from the one at 20 s to the one at 89 s there are 69 in 69 s.
    assert part.span_s[0] == 69.0 and part.finished[0].sum() == 69
    summary = summarize(regular())
    assert summary["throughput"] == {"requests_per_s": 1.0, "prompt_tokens_per_s": 5.0, "output_tokens_per_s": 10.0}
    assert summary["window"]["requests"] == 70 and summary["window"]["start_s"] == 20.0 and summary["duration_s"] == 109.0
    assert summary["ttft_s"]["mean"] == 1.0 and summary["requests"]["finished"] == 100


def test_long_stays_count_by_their_length():
    short, long = (dict(arrival_s=0.0, scheduled_s=0.0, first_token_s=0.1, finish_s=stay) for stay in (1.0, 9.0))
    assert part_of(make_result(request_log(short, long))).stay_s[0] == pytest.approx((1.0 + 81.0) / 10.0)


def test_at_most_half_of_the_load_is_left_out():
    part = part_of(regular(stay_s=1000.0))
    assert part.start_s[0] == pytest.approx(0.3 * 99.0) and part.end_s[0] == pytest.approx(0.8 * 99.0)


@pytest.mark.parametrize("result", [tiny(), regular(stationary=False)])
def test_a_load_that_is_not_stationary_is_measured_whole(result):
    part = part_of(result)
    assert part.whole[0] and part.arrived.all() and part.finished.all()
    assert result_row(result, Slo(ttft_s=2.0), 1) == result_row(result, Slo(ttft_s=2.0), 1, window=WHOLE)
    assert summarize(result)["window"]["whole_run"]


def test_given_seconds_win_and_count_from_both_ends_of_the_run():
    part = part_of(regular(), Window(warmup_s=30.0, cooldown_s=29.0))  # the last finish is at 109 s
    assert (part.start_s[0], part.end_s[0]) == (30.0, 80.0)
    part = part_of(regular(stationary=False), Window(warmup_s=30.0))
    assert (part.start_s[0], part.end_s[0]) == (30.0, 109.0)
    whole = part_of(regular(), WHOLE)
    assert whole.whole[0] and whole.span_s[0] == 109.0 and whole.finished.sum() == 100


def test_a_window_without_requests_says_so():
    summary = summarize(regular(), window=Window(200.0, 0.0))
    assert summary["ttft_s"]["mean"] is None and summary["throughput"]["requests_per_s"] is None
    assert "the window from 200 to 200 s has no finished request: make the run longer" in summary["warnings"][-1]


def test_attainment_and_goodput_are_those_of_the_window():
    slow = regular()
    slow.requests.first_token_s[:20] += 5.0  # the requests of the warm-up miss their limit
    row = result_row(slow, Slo(ttft_s=2.0), 2)
    assert row["slo_attainment"] == 1.0 and row["ttft_max_s"] == 1.0
    # Of the finishes from 20 to 89 s those of requests 10 to 19 have missed the limit: at 21 ... 29 s.
    assert row["goodput_requests_per_s"] == pytest.approx(60 / 69) and row["goodput_per_gpu"] == pytest.approx(30 / 69)
    assert result_row(slow, Slo(ttft_s=2.0), 2, window=WHOLE)["slo_attainment"] == 0.8


def test_requests_that_never_came_miss_only_a_whole_run():
    cut = regular()
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        getattr(cut.requests, name)[90:] = NEVER
    cut.requests.finished[90:] = False
    assert result_row(cut, Slo(ttft_s=2.0), 1)["slo_attainment"] == 1.0
    assert result_row(cut, Slo(ttft_s=2.0), 1, window=WHOLE)["slo_attainment"] == 0.9


def test_sessions_are_measured_while_they_start():
    """Ten sessions of two calls start at 0, 10, ... 90 s; second calls come 100 s later, the last of them long after the last start."""
    first = [
        dict(output_tokens=2, arrival_s=10.0 * i, scheduled_s=10.0 * i, first_token_s=10.0 * i + 1, finish_s=10.0 * i + 2)
        for i in range(10)
    ]
    later = [{name: x + 100.0 if name.endswith("_s") else x for name, x in row.items()} for row in first]
    session = np.tile(np.arange(10, dtype=np.int32), 2)
    waits = np.arange(10, 20)
    sessions = from_waits(session, tuple("abcdefghij"), np.arange(20), waits - 10, waits, np.full(10, 98.0))
    part = part_of(dataclasses.replace(make_result(request_log(*first, *later)), sessions=sessions, stationary=True))
    assert part.sent_s[0] == 90.0 and (part.start_s[0], part.end_s[0]) == (27.0, 90.0)
    assert np.flatnonzero(part.arrived[0]).tolist() == list(range(3, 10))
