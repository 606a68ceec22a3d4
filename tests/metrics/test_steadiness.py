"""The verdict on queues whose behaviour is known: one server that works in order, by Lindley's recursion."""

import dataclasses

import numpy as np
import pytest

from simjax.engine.columns import completed
from simjax.engine.host.result import RequestLog, Result
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.rows import result_row, result_rows
from simjax.metrics.slo import NO_LIMITS
from simjax.metrics.steady.verdict import is_undecided
from simjax.metrics.summary import summarize
from tests.metrics.factory import make_result


def queue(load: float, count: int = 5_000, seed: int = 0, service_s: float = 1.0, servers: int = 1) -> Result:
    """Poisson arrivals at `load` times the capacity of servers in which every request takes the same time."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(service_s / (load * servers), count))
    start, free = np.zeros(count), np.zeros(servers)
    for i in range(count):
        k = int(np.argmin(free))
        start[i] = max(arrival[i], free[k])
        free[k] = start[i] + service_s
    whole = lambda value: np.full(count, value, np.int32)
    found = dict(
        instance=whole(0), prompt_tokens=whole(1), output_tokens=whole(2), arrival_s=arrival, scheduled_s=start,
        first_token_s=start + 0.5 * service_s, finish_s=start + service_s, finished=np.ones(count, bool),
    )  # fmt: skip
    log = completed(RequestLog, count, found)
    return dataclasses.replace(make_result(log), stationary=True)


def verdict(result: Result) -> int | None:
    found = Runs.of([result], [NO_LIMITS], [1]).steadiness
    return int(found.steady[0]) if found.decided[0] else None


@pytest.mark.parametrize("servers", [1, 30])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("load", "steady"), [(0.5, 1), (0.8, 1), (0.9, 1), (1.05, 0), (1.1, 0), (1.5, 0), (5.0, 0)])
def test_a_queue_grows_above_its_capacity_and_not_below(load, steady, seed, servers):
    assert verdict(queue(load, seed=seed, servers=servers)) == steady


def test_growth_and_capacity_are_those_of_the_queue():
    summary = summarize(queue(1.25, servers=8))
    assert summary["steady"] is False
    assert summary["backlog_growth_per_s"] == pytest.approx(2.0, rel=0.1)  # 10 requests/s come and 8 go
    assert summary["window"]["saturated_requests_per_s"] == pytest.approx(8.0, rel=0.01)
    assert (
        summary["warnings"][0].startswith("not steady: the backlog grows by ")
        and "capacity is about 8 requests/s" in summary["warnings"][0]
    )


def test_a_steady_run_needs_no_words():
    summary = summarize(queue(0.5))
    assert summary["steady"] is True and summary["warnings"] == [] and abs(summary["backlog_growth_per_s"]) < 0.01
    assert summary["window"]["saturated_requests_per_s"] is None


@pytest.mark.parametrize("load", [0.5, 3.0])
def test_a_run_that_is_short_against_a_stay_is_not_judged(load):
    short = queue(load, count=40, service_s=10.0, servers=20)
    assert verdict(short) in (None, 0) and (load > 1.0 or verdict(short) is None)
    assert is_undecided(short) == (verdict(short) is None)
    if load < 1.0:
        assert any(line.startswith("too short to tell whether the load is steady") for line in summarize(short)["warnings"])


def test_the_same_clients_over_and_over_are_steady_however_long_they_wait():
    """A closed loop: 50 clients of one server that takes 1 s for each; all but one of them wait at any time."""
    count, clients = 2_000, 50
    finish = 1.0 + np.arange(count)
    arrival = np.concatenate([np.zeros(clients), finish[:-clients]])
    base = queue(0.5, count=count)
    log = dataclasses.replace(base.requests, arrival_s=arrival, scheduled_s=finish - 1.0, first_token_s=finish - 0.5, finish_s=finish)
    assert verdict(dataclasses.replace(base, requests=log)) == 1


def test_no_run_of_no_length_has_a_verdict():
    result = queue(0.5, count=1)
    assert verdict(result) is None and summarize(result)["backlog_growth_per_s"] is None


def test_verdicts_together_are_those_one_by_one():
    results = [queue(load, count=300, seed=seed) for seed, load in enumerate((0.3, 0.9, 1.0, 1.2))]
    assert result_rows(results, [None] * 4, [1] * 4) == [result_row(result, None, 1) for result in results]
