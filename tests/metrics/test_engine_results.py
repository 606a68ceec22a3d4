"""The metrics on results of the engine, against the tokens of the reference simulator and against a run without leaps."""

import numpy as np
import pytest

from simjax.metrics.latency import STATISTICS, inter_token_gaps, itl_statistics
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import timeline
from tests.engine.scenario import Limits, Scenario


def scenario(num_blocks: int, seed: int = 0) -> Scenario:
    rng = np.random.default_rng(seed)
    return Scenario(
        limits=(Limits(num_blocks=num_blocks, api_pre_s=0.003, api_post_s=0.002),),
        arrival_s=np.sort(rng.uniform(0.0, 1.5, 24)),
        prompt=rng.integers(1, 40, 24),
        output=rng.integers(1, 30, 24),
    )


@pytest.mark.parametrize("num_blocks", [200, 30], ids=["roomy", "with preemptions"])
def test_inter_token_gaps_are_those_of_the_reference(num_blocks):
    case = scenario(num_blocks)
    result = case.run()
    assert (result.requests.preemptions.sum() > 0) == (num_blocks == 30)
    gaps = np.concatenate([np.diff(request.token_times_s) for request in case.run_reference().requests])
    values, counts = inter_token_gaps(result.leaps)
    found = np.repeat(values, counts)
    assert len(found) == len(gaps) == (case.output - 1).sum()
    assert found.sum() == pytest.approx(gaps.sum(), rel=1e-9)
    # Pauses that end in the same step are logged as a sum; all other gaps are exact.
    exact = (result.leaps.resumed <= 1).all()
    if exact:
        np.testing.assert_allclose(np.sort(found), np.sort(gaps), rtol=1e-9)
        expected = [gaps.mean(), *np.percentile(gaps, [50, 90, 95, 99]), gaps.max()]
        np.testing.assert_allclose([itl_statistics(result)[name] for name in STATISTICS], expected, rtol=1e-9)
    assert exact or num_blocks == 30


@pytest.mark.parametrize("num_blocks", [200, 30], ids=["roomy", "with preemptions"])
def test_leaps_change_no_metric(num_blocks):
    leaping, stepping = scenario(num_blocks).run(), scenario(num_blocks).run(leap=False)
    assert len(leaping.leaps.steps) < len(stepping.leaps.steps)
    one, other = summarize(leaping), summarize(stepping)
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        np.testing.assert_allclose(list(one[metric].values()), list(other[metric].values()), rtol=1e-9, err_msg=metric)
    assert one["requests"] == other["requests"] and one["kv"] == other["kv"]
    assert one["instances"][0]["busy_fraction"] == pytest.approx(other["instances"][0]["busy_fraction"], rel=1e-9)
    series, steps = timeline(leaping, 0.05), timeline(stepping, 0.05)
    for name in ("running", "waiting", "prompt_tokens_per_s"):
        np.testing.assert_allclose(series[name], steps[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert (series.output_tokens_per_s * 0.05).sum() == pytest.approx(scenario(num_blocks).output.sum())
    # Inside a leap the blocks are drawn as a straight line where they really grow one by one, so it is off by no more than they grow.
    growth = leaping.leaps.outputs * np.ceil((leaping.leaps.steps - 1) / Limits.block_size)
    np.testing.assert_allclose(series.kv_used_fraction, steps.kv_used_fraction, rtol=0, atol=growth.max() / num_blocks)
    assert np.abs(series.kv_used_fraction - steps.kv_used_fraction).mean() < 0.01


def test_time_in_the_batch_is_the_area_under_running():
    result = scenario(200).run()
    frame = timeline(result, 0.05)
    seconds = (result.requests.finish_s - 0.002 - result.requests.scheduled_s).sum()
    assert (frame.running * 0.05).sum() == pytest.approx(seconds, rel=1e-9)
    waited = (result.requests.scheduled_s - result.requests.arrival_s).sum()
    assert (frame.waiting * 0.05).sum() == pytest.approx(waited, rel=1e-9)
