"""The client of a measured run: its cap on requests in flight, found in the stamps, and the replay under it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simjax.cluster.latency_source import LatencySource
from simjax.config.schema import ValidateConfig
from simjax.errors import SimjaxError
from simjax.job import simulate_cluster
from simjax.metrics.latency import latencies
from simjax.validate.client import as_its_client_sent, found_cap
from simjax.validate.compare import compare
from simjax.validate.failed import FailedRequests
from simjax.validate.measured import read_measured
from simjax.validate.replay import validate
from simjax.validate.run import MeasuredRun, finish_run
from simjax.workload.workload import Workload
from tests.calibrate import runs
from tests.data import data_path

CAP = 24
FASTER = {"gemm_bandwidth": 1.1}  # than the shipped profile, which replays it


def client(rate: float, cap: int = 0, requests: int = 400, ramp_s: float = 0.0) -> MeasuredRun:
    """A run of a client, with a cap if there is one, whose server is simulated; stamps are a little off, as those of a client are."""
    workload = replace(runs.poisson(rate, requests), max_concurrency=cap, ramp_s=ramp_s)
    result = simulate_cluster(runs.cluster(), workload, LatencySource(parameters=tuple(FASTER.items()))).result
    log, lat = result.requests, latencies(result.requests)
    run = replace(
        runs.measured(runs.poisson(4.0, 3), {}),
        arrival_s=log.arrival_s + np.random.default_rng(0).uniform(0.0, 1e-4, requests),
        prompt_tokens=log.prompt_tokens,
        output_tokens=log.output_tokens,
        ttft_s=lat.ttft_s,
        e2e_s=lat.e2e_s - 1e-4,
        due_s=workload.arrival_s,
    )
    return finish_run(run)


@pytest.fixture(scope="module")
def capped() -> MeasuredRun:
    return client(80.0, CAP)


def test_a_cap_is_found_with_and_without_a_schedule(capped: MeasuredRun):
    assert found_cap(capped) == CAP
    assert found_cap(replace(capped, due_s=None)) == CAP


@pytest.mark.parametrize("rate", [4.0, 80.0])
def test_a_client_without_a_cap_has_none(rate: float):
    free = client(rate)
    assert found_cap(free) is None and found_cap(replace(free, due_s=None)) is None
    assert as_its_client_sent(free).workload().max_concurrency == 0


def test_the_schedule_is_replayed_under_the_cap(capped: MeasuredRun):
    run = as_its_client_sent(capped)
    assert run.max_concurrency == run.workload().max_concurrency == CAP
    assert run.due_s is not None
    np.testing.assert_array_equal(run.workload().arrival_s, run.due_s)
    assert run.due_s[0] == 0.0 and np.all(np.diff(run.due_s) >= 0)
    assert run.replay_notes[-1].startswith(f"the client had at most {CAP} requests in flight: its schedule is replayed under that cap")
    loop = as_its_client_sent(replace(capped, due_s=None))
    assert "replayed as a closed loop" in loop.replay_notes[-1]
    assert (loop.workload().arrival_s <= loop.arrival_s).all() and (loop.workload().arrival_s < loop.arrival_s).mean() > 0.5


def test_a_start_ramp_is_replayed_as_it_was_sent():
    """A closed loop whose first requests are spread over 3 s: without a schedule these keep their times, and all others wait."""
    ramped = replace(client(1e9, CAP, ramp_s=3.0), due_s=None)
    assert found_cap(ramped) == CAP
    run = as_its_client_sent(ramped)
    np.testing.assert_array_equal(run.workload().arrival_s[:CAP], run.arrival_s[:CAP])
    log = simulate_cluster(runs.cluster(), run.workload(), LatencySource(parameters=tuple(FASTER.items()))).result.requests
    assert np.abs(log.arrival_s - run.arrival_s).mean() < 0.01  # within a step: stamps are off by 0.1 ms


def test_the_option_has_the_last_word(capped: MeasuredRun):
    sent = as_its_client_sent(capped, 0)
    assert sent.max_concurrency is None
    np.testing.assert_array_equal(sent.workload().arrival_s, capped.arrival_s)
    other = as_its_client_sent(capped, 7)
    assert other.workload().max_concurrency == 7 and other.replay_notes == ()
    assert as_its_client_sent(replace(client(4.0), max_concurrency=9)).workload().max_concurrency == 9  # the run's own record
    with pytest.raises(SimjaxError, match="max_concurrency=-1; it must be at least 1, or 0 for no cap"):
        as_its_client_sent(capped, -1)


def test_a_saturated_client_is_met_with_its_cap_and_missed_without():
    """The profile is 5 % too slow for the server: with the cap so are the latencies, and without it the queue piles up all the time."""
    capped = client(80.0, CAP, 1600)

    def errors(run: MeasuredRun) -> tuple[float, float]:
        report = compare(run, simulate_cluster(runs.cluster(), run.workload(), LatencySource()).result)
        return abs(report["e2e_s"]["mean"]["error_pct"]), report["in_flight"]["drift_pct"]

    (under_cap, drift), (as_sent, drift_as_sent) = errors(as_its_client_sent(capped)), errors(as_its_client_sent(capped, 0))
    assert under_cap < 5.0 and drift < 1.0
    assert as_sent > 1.5 * under_cap and drift_as_sent > 5.0 * drift


def test_failed_requests_keep_their_place_in_the_schedule(capped: MeasuredRun):
    at = np.array([1.0, 0.5])
    failed = FailedRequests(at + 3.0, np.array([100, 200], np.int32), np.array([1, 1], np.int32), at)
    run = as_its_client_sent(replace(capped, failed_requests=failed, failed=2), CAP)
    workload = run.workload()
    assert len(workload) == len(run) + 2 and workload.max_concurrency == CAP
    np.testing.assert_array_equal(workload.arrival_s[run.places], run.due_s)
    others = np.setdiff1d(np.arange(len(workload)), run.places)
    assert workload.prompt_tokens[others].tolist() == [200, 100]
    report = compare(run, simulate_cluster(runs.cluster(), workload, LatencySource()).result)
    assert report["requests"] == {"measured": len(run), "finished": len(run), "failed": 2, "failed_replayed": 2}


def test_a_workload_of_two_clients_is_what_one_makes_of_it():
    """Without failures nothing is joined."""
    run = client(4.0, requests=20)
    assert isinstance(run.workload(), Workload) and run.places.tolist() == list(range(20))


def test_the_cap_of_a_real_client_is_found():
    run = read_measured(data_path("vllm_qwen3_14b_h100/w7_agg12"))
    assert found_cap(run) == found_cap(replace(run, due_s=None)) == 256
    for name in ("vllm_qwen3_14b_h100/agg_2rps", "vllm_qwen3_14b_h100/agg_6rps", "llmservingsim/bench/RTX4090/Llama-3.1-8B"):
        free = read_measured(data_path(name))
        assert found_cap(free) is None and found_cap(replace(free, due_s=None)) is None


def test_a_real_client_with_a_cap_is_met_by_the_shipped_profile():
    """With the cap within 2 % (nothing is fitted); as it sent its requests the queue drifts away, which is said."""
    folder = str(data_path("vllm_qwen3_14b_h100/w7_agg12"))
    measured, done = validate(ValidateConfig(measured=folder))
    report = compare(measured, done.result)
    assert abs(report["e2e_s"]["mean"]["error_pct"]) < 2.0 and abs(report["ttft_s"]["mean"]["error_pct"]) < 3.0
    assert report["in_flight"]["drift_pct"] < 1.0 and not any("drifts" in line for line in done.warnings)
    config = ValidateConfig(measured=folder)
    config.workload.max_concurrency = 0
    assert any("in flight drifts from the measured one by" in line for line in validate(config)[1].warnings)
