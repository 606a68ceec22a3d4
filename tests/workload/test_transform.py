import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.workload.synthetic.closed_loop import closed_loop
from simjax.workload.transform import cap_requests, clip_lengths, jitter, mean_rate, rescale_to_rate, scale_rate, window
from simjax.workload.workload import Workload

WORKLOAD = Workload(
    np.array([0.0, 1.0, 1.0, 4.0, 10.0]), np.array([10, 20, 30, 40, 50], np.int32), np.array([5, 4, 3, 2, 1], np.int32), source="w"
)
CLOSED = closed_loop(np.array([1, 2, 3]), np.array([1, 2, 3]), concurrency=2)


def test_window_is_half_open_and_starts_at_zero():
    cut = window(WORKLOAD, 1.0, 10.0).validate()
    assert cut.arrival_s.tolist() == [0.0, 0.0, 3.0]
    assert cut.prompt_tokens.tolist() == [20, 30, 40] and cut.output_tokens.tolist() == [4, 3, 2]


def test_window_keeps_the_wait_for_its_first_request():
    assert window(WORKLOAD, 2.0).arrival_s.tolist() == [2.0, 8.0]


@pytest.mark.parametrize(
    ("start_s", "end_s", "reason"),
    [
        (5.0, 9.0, r"no request arrives in the window \[5, 9\) s; arrivals lie between 0 and 10 s"),
        (4.0, 4.0, "is empty"),
        (-1.0, 4.0, "is empty"),
    ],
)
def test_an_empty_window_is_an_error(start_s, end_s, reason):
    with pytest.raises(SimjaxError, match=reason):
        window(WORKLOAD, start_s, end_s)


def test_scaling_the_rate_compresses_time():
    fast = scale_rate(WORKLOAD, 4.0)
    np.testing.assert_array_equal(fast.arrival_s, WORKLOAD.arrival_s / 4)
    assert mean_rate(fast) == pytest.approx(4 * mean_rate(WORKLOAD), rel=1e-15)


def test_rescaling_hits_the_rate():
    assert mean_rate(WORKLOAD) == 0.4  # 4 gaps in 10 s
    assert mean_rate(rescale_to_rate(WORKLOAD, 7.5)) == pytest.approx(7.5, rel=1e-14)


def test_cap_takes_the_first_and_more_than_all_is_all():
    assert cap_requests(WORKLOAD, 2).prompt_tokens.tolist() == [10, 20]
    assert len(cap_requests(WORKLOAD, 99)) == 5
    assert cap_requests(CLOSED, 1).validate().concurrency == 1


def test_clip_lengths():
    clipped = clip_lengths(WORKLOAD, prompt_min=15, prompt_max=35, output_max=3)
    assert clipped.prompt_tokens.tolist() == [15, 20, 30, 35, 35] and clipped.output_tokens.tolist() == [3, 3, 3, 2, 1]
    assert clipped.prompt_tokens.dtype == np.int32


def test_jitter_moves_requests_with_their_lengths():
    moved = jitter(WORKLOAD, 5.0, seed=3).validate()
    assert sorted(zip(moved.prompt_tokens, moved.output_tokens, strict=True)) == sorted(
        zip(WORKLOAD.prompt_tokens, WORKLOAD.output_tokens, strict=True)
    )
    assert not np.array_equal(moved.arrival_s, WORKLOAD.arrival_s)
    np.testing.assert_array_equal(jitter(WORKLOAD, 0.0).arrival_s, WORKLOAD.arrival_s)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: scale_rate(w, 0.0),
        lambda w: scale_rate(w, float("nan")),
        lambda w: rescale_to_rate(w, -1.0),
        lambda w: cap_requests(w, 0),
        lambda w: clip_lengths(w, prompt_min=0),
        lambda w: clip_lengths(w, output_min=5, output_max=4),
        lambda w: jitter(w, -1.0),
        lambda w: rescale_to_rate(cap_requests(w, 1), 1.0),  # one request has no rate
    ],
)
def test_impossible_changes_are_errors(change):
    with pytest.raises(SimjaxError):
        change(WORKLOAD)


@pytest.mark.parametrize(
    "change", [lambda w: window(w, 0, 1), lambda w: scale_rate(w, 2), lambda w: rescale_to_rate(w, 2), lambda w: jitter(w, 1)]
)
def test_a_closed_loop_has_no_arrivals_to_change(change):
    with pytest.raises(SimjaxError, match="needs an open loop"):
        change(CLOSED)
