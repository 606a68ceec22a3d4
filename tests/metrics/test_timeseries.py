import math

import numpy as np
import pandas as pd
import pytest

from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.metrics.timeseries import COLUMNS, default_interval, timeline
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny, without_leaps


def test_hand_made_run_in_one_second_bins():
    frame = timeline(tiny(), interval_s=1.0)
    assert list(frame.columns) == COLUMNS
    assert frame.t_s.tolist() == list(range(21)) and (frame.instance == 0).all()
    # Bin 2 (1..2 s): A decodes until 1.5, then A decodes beside B's prefill until 2.5; bin 3 ends at 3.0 with B alone.
    np.testing.assert_allclose(frame.running[:4], [1.0, 1.5, 1.5, 0.0])
    np.testing.assert_allclose(frame.kv_used_fraction[:4], [0.2, 0.35, 0.3, 0.0])
    np.testing.assert_allclose(frame.prompt_tokens_per_s[:4], [8.0, 2.0, 2.0, 0.0])
    # Tokens at 1.0 (A), 1.5 (A), 2.5 (A and B), 3.0 (B): a bin holds its right edge.
    assert frame.output_tokens_per_s[:4].tolist() == [1.0, 1.0, 3.0, 0.0]
    assert frame.running[20] == 0.5 and frame.output_tokens_per_s[20] == 1.0
    assert (frame.waiting == 0.0).all() and frame.power_w.isna().all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("interval_s", [0.07, 0.5, 3.0, 100.0])
def test_tokens_are_conserved(seed, interval_s):
    result = random_result(seed)
    frame = timeline(result, interval_s)
    for instance in (0, 1):
        rows, leaps = frame[frame.instance == instance], result.leaps.instance == instance
        steps = result.leaps.steps[leaps]
        outputs = int((result.leaps.first_outputs[leaps] + (steps - 1) * result.leaps.outputs[leaps]).sum())
        per_bin = rows.output_tokens_per_s.to_numpy() * interval_s
        np.testing.assert_allclose(per_bin, np.round(per_bin), atol=1e-9)  # whole tokens in each bin
        assert int(np.round(per_bin).sum()) == outputs
        np.testing.assert_allclose((rows.prompt_tokens_per_s * interval_s).sum(), result.leaps.prompt_tokens[leaps].sum(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_means_agree_with_a_fine_grid(seed):
    result, width, samples = random_result(seed, leaps_each=12), 0.5, 4000
    frame, leaps = timeline(result, width), result.leaps
    for instance in (0, 1):
        rows = frame[frame.instance == instance]
        t = (rows.t_s.to_numpy()[:, None] + (np.arange(samples) + 0.5) / samples * width).ravel()
        running, held = np.zeros_like(t), np.zeros_like(t)
        for i in np.flatnonzero(leaps.instance == instance):
            n = leaps.steps[i] - 1
            middle = leaps.start_s[i] + leaps.first_step_s[i]
            end = middle + n * leaps.next_step_s[i] + leaps.slope_s[i] * n * (n - 1) / 2
            in_first, in_rest = (t >= leaps.start_s[i]) & (t < middle), (t >= middle) & (t < end)
            running += leaps.running[i] * in_first + leaps.outputs[i] * in_rest
            ramp = (t - middle) / max(end - middle, 1e-12)
            held += leaps.kv_blocks[i] * in_first + (leaps.kv_blocks[i] + (leaps.kv_blocks_last[i] - leaps.kv_blocks[i]) * ramp) * in_rest
        waiting = np.zeros_like(t)
        for r in np.flatnonzero(result.requests.instance == instance):
            waiting += (t >= result.requests.arrival_s[r]) & (t < result.requests.scheduled_s[r])
        for name, grid in (("running", running), ("kv_used_fraction", held / 100), ("waiting", waiting)):
            np.testing.assert_allclose(rows[name], grid.reshape(-1, samples).mean(axis=1), atol=2e-2, err_msg=name)


def test_waiting_counts_requests_that_are_never_scheduled():
    requests = request_log(
        dict(arrival_s=0.0, scheduled_s=2.5, first_token_s=3.0, finish_s=4.0),
        dict(arrival_s=1.0),  # waits for ever
        dict(arrival_s=0.0, instance=-1),  # never routed: in nobody's queue
        dict(arrival_s=NEVER, instance=-1),
    )
    frame = timeline(make_result(requests, leap_log(dict(start_s=2.5, first_step_s=1.5, running=1, first_outputs=1))), 1.0)
    np.testing.assert_allclose(frame.waiting, [1.0, 2.0, 1.5, 1.0])


def test_late_clocks_keep_their_digits():
    shifted = 1.0e6
    requests = request_log(dict(arrival_s=shifted + 0.25, scheduled_s=shifted + 0.75, first_token_s=shifted + 1.0, finish_s=shifted + 1.0))
    leaps = leap_log(dict(start_s=shifted + 0.75, first_step_s=0.25, running=1, first_outputs=1, prompt_tokens=100))
    frame = timeline(make_result(requests, leaps), 0.5)
    assert frame.t_s.tolist() == [shifted, shifted + 0.5]
    np.testing.assert_allclose(frame.waiting, [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(frame.prompt_tokens_per_s, [0.0, 200.0])


@pytest.mark.parametrize("duration", [1e-3, 0.7, 19.9, 20.0, 300.0, 3600.0, 86400.0, 1.2e6])
def test_default_interval_is_round_and_gives_200_to_500_bins(duration):
    width = default_interval(duration)
    assert 200 <= round(duration / width, 6) <= 500
    assert f"{width:.0e}"[0] in "125" and float(f"{width:.0e}") == width


def test_an_idle_instance_has_rows_of_zeros():
    frame = timeline(make_result(tiny().requests, tiny().leaps, num_blocks=(10, 10)), 1.0)
    idle = frame[frame.instance == 1]
    assert len(idle) == 21 and (idle[["running", "waiting", "kv_used_fraction", "output_tokens_per_s"]] == 0).all(axis=None)


def test_a_run_in_which_nothing_happened():
    frame = timeline(make_result(request_log(dict(arrival_s=3.0)), leap_log()))
    assert len(frame) == 1 and frame.running[0] == 0


def test_errors():
    with pytest.raises(SimjaxError, match="no leap log"):
        timeline(without_leaps(tiny()))
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(SimjaxError, match="bin width"):
            timeline(tiny(), bad)
    assert isinstance(timeline(tiny()), pd.DataFrame)
