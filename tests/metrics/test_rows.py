import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.engine.columns import completed
from simjax.engine.host.result import NEVER, InstanceLog, RequestLog, Result, Status
from simjax.metrics import rows as rows_module
from simjax.metrics.catalog.disaggregation import DISAGGREGATION
from simjax.metrics.catalog.tiers import TIERS
from simjax.metrics.rows import METRICS, WHOLE_METRICS, result_row, result_rows, too_few
from simjax.metrics.slo import Slo
from simjax.metrics.summary import summarize
from simjax.workload.sessions import Sessions, from_waits
from tests.metrics.factory import make_result, random_result, request_log, tiny, two_sessions, without_leaps

Load = tuple[np.ndarray, np.ndarray, Sessions | None]

DRAFTS = {"draft_tokens", "accepted_tokens", "acceptance_length"}
DUMMIES = {"dummy_steps", "dummy_fraction"}
DISAGGREGATED = {metric.name for metric in DISAGGREGATION}
TIERED = {metric.name for metric in TIERS}
SLOS = [None, Slo(), Slo(ttft_s=0.5), Slo(tpot_s=0.01), Slo(ttft_s=0.3, tpot_s=0.02, e2e_s=1.0)]


def seeded_result(rng: np.random.Generator, load: Load, cut: bool, instances: int) -> Result:
    """A run of the given requests without a leap log; when it is cut, some of them are left, waiting, or not even sent."""
    prompt, output, sessions = load
    count = len(prompt)
    arrival = np.sort(rng.uniform(0.0, 3.0, count)) + 100.0
    scheduled = arrival + rng.exponential(0.2, count)
    first = scheduled + rng.exponential(0.1, count)
    finish = first + np.where(output > 1, rng.exponential(0.02, count) * output, 0.0)
    finished = rng.random(count) < 0.7 if cut else np.ones(count, bool)
    late = ~finished & (rng.random(count) < 0.5)
    return Result(
        status=Status.TICK_LIMIT if cut else Status.FINISHED,
        requests=completed(
            RequestLog,
            count,
            {
                "instance": rng.integers(instances, size=count, dtype=np.int32),
                "prompt_tokens": prompt,
                "output_tokens": output,
                "cached_tokens": (prompt * rng.choice([0.0, 0.5])).astype(np.int32),
                "arrival_s": np.where(late & (rng.random(count) < 0.5), NEVER, arrival),
                "scheduled_s": np.where(late, NEVER, scheduled),
                "first_token_s": np.where(late, NEVER, first),
                "finish_s": np.stack([np.where(finished, finish, NEVER), finish], axis=1)[:, 0],  # the engine's is a column of a table, too
                "preemptions": rng.integers(3, size=count, dtype=np.int32),
                "finished": finished,
            },
        ),
        leaps=None,
        instances=completed(
            InstanceLog, instances, {name: rng.integers(0, 500, instances) for name in ("num_blocks", "peak_blocks", "evicted_blocks")}
        ),
        ticks=int(rng.integers(1, 9999)),
        steps=int(rng.integers(1, 9999)),
        compile_s=0.0,
        run_s=0.1,
        sessions=sessions,
    )


def workload(rng: np.random.Generator, count: int, ones: float) -> Load:
    """Requests, in half of the cases of sessions."""
    output = np.where(rng.random(count) < ones, 1, rng.integers(2, 50, count))
    sessions = None
    if rng.random() < 0.5:
        session, nobody = rng.integers(max(1, count // 3), size=count).astype(np.int32), np.zeros(0, np.int32)
        names = tuple(map(str, range(max(1, count // 3))))
        sessions = from_waits(session, names, np.arange(count), nobody, nobody, np.zeros(0))
    return rng.integers(1, 900, count, dtype=np.int32), output.astype(np.int32), sessions


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    workloads=st.lists(st.tuples(st.sampled_from([1, 2, 7, 8, 9, 130, 300]), st.sampled_from([0.0, 0.1, 1.0])), min_size=1, max_size=4),
    runs=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 3), st.sampled_from(SLOS), st.integers(1, 64)), max_size=12),
    elements=st.sampled_from([1, 500, 1 << 18]),
)
def test_rows_together_are_the_rows_one_by_one_bit_for_bit(seed, workloads, runs, elements):
    rng = np.random.default_rng(seed)
    tokens = [workload(rng, *drawn) for drawn in workloads]
    results = [seeded_result(rng, tokens[which % len(tokens)], cut, instances) for which, cut, instances, _, _ in runs]
    slos, gpus = [run[3] for run in runs], [run[4] for run in runs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "_BLOCK_ELEMENTS", elements)
        found = result_rows(results, slos, gpus)
    one_by_one = [result_row(*run) for run in zip(results, slos, gpus, strict=True)]
    assert found == one_by_one
    for row in [*found, *one_by_one]:
        assert tuple(row) == METRICS
        assert all(type(value) in (int, float, type(None)) for value in row.values())
        assert all(
            type(row[name]) is int
            for name in WHOLE_METRICS - {"prefill_tokens", "decode_tokens", "steady"} - DISAGGREGATED - TIERED - DRAFTS - DUMMIES
        )
        assert {row[name] for name in DRAFTS | DUMMIES} == {None}  # no draft was verified, and every rank steps by itself
        assert {row[name] for name in DISAGGREGATED} == {None}  # all instances run both phases
        assert {row[name] for name in TIERED} == {None}  # no instance has a KV tier
        assert row["busy_fraction"] is row["prefill_tokens"] is row["decode_tokens"] is None  # no activity was recorded
        assert not any(type(row[name]) is int for name in set(METRICS) - WHOLE_METRICS)


def test_many_rows_with_few_requests_sum_as_one():
    # numpy may add the other way round in tall tables; the mean would then differ in its last bits.
    rng = np.random.default_rng(3)
    load = next(drawn for _ in range(99) if (drawn := workload(rng, 60, 0.2))[2] is not None)
    results = [seeded_result(rng, workload(rng, 20, 0.2), cut=False, instances=1) for _ in range(250)]
    results += [seeded_result(rng, load, cut=False, instances=1) for _ in range(250)]
    assert result_rows(results, [None] * 500, [1] * 500) == [result_row(result, None, 1) for result in results]


def test_a_run_with_a_leap_log_gives_the_same_row():
    result, slo = random_result(5), Slo(ttft_s=1.0)
    expected = result_row(without_leaps(result), slo, 4) | {"steps": result.steps}
    assert result_row(result, slo, 4) == expected
    assert result_rows([result, without_leaps(result)], [slo, slo], [4, 4]) == [expected, expected]


def test_the_hand_made_run():
    (row,) = result_rows([tiny()], [Slo(ttft_s=1.0, tpot_s=0.6)], [4])
    assert row["gpus"] == 4 and row["requests_total"] == row["requests_finished"] == 3 and row["requests_unfinished"] == 0
    assert row["duration_s"] == 20.5 and row["output_tokens_per_s"] == 6 / 20.5 and row["output_tokens_per_s_per_gpu"] == 6 / 20.5 / 4
    assert row["ttft_max_s"] == 1.0 and row["tpot_mean_s"] == 0.625 and row["e2e_p50_s"] == 1.5
    assert row["kv_num_blocks"] == 10 and row["kv_peak_used_fraction"] == 0.4 and row["prefix_hit_fraction"] == 0.0
    assert row["slo_attainment"] == 2 / 3 and row["goodput_requests_per_s"] == 2 / 20.5 and row["goodput_per_gpu"] == 2 / 20.5 / 4
    assert row["session_makespan_mean_s"] is row["session_makespan_p99_s"] is None and row["kv_evicted_blocks"] == 0
    assert row["send_lag_mean_s"] is row["send_lag_max_s"] is None
    assert row["ticks"] == 11 and row["steps"] == 5
    assert list(row) == list(METRICS) and len(set(METRICS)) == 96


def test_every_number_is_that_of_the_summary():
    summary, row = summarize(random_result(2), Slo(e2e_s=1.0), 2), result_row(random_result(2), Slo(e2e_s=1.0), 2)
    for latency in ("ttft", "tpot", "e2e"):
        assert {name: row[f"{latency}_{name}_s"] for name in summary[f"{latency}_s"]} == summary[f"{latency}_s"]
    assert {name: row[name] for name in summary["throughput"]} == summary["throughput"]
    assert row["goodput_per_gpu"] == summary["slo"]["goodput_requests_per_s_per_gpu"]
    assert (row["ticks"], row["steps"], row["preemptions"]) == (summary["sim"]["ticks"], summary["sim"]["steps"], 0)


def test_runs_with_and_without_sessions_side_by_side():
    runs = [two_sessions(), dataclasses.replace(two_sessions(), sessions=None), two_sessions(cut=True)]
    rows = result_rows(runs, [None] * 3, [1] * 3)
    assert [row["session_makespan_mean_s"] for row in rows] == [7.5, None, None]
    assert rows[0]["session_makespan_p99_s"] == pytest.approx(9.95)
    assert rows == [result_row(run, None, 1) for run in runs]


def test_without_limits_every_finished_request_counts():
    row = result_row(tiny(), None, 1)
    assert row["slo_attainment"] == 1.0 and row["goodput_requests_per_s"] == row["requests_per_s"]


def test_a_run_of_no_length_and_one_in_which_nobody_finishes_have_no_rates():
    instant = without_leaps(make_result(request_log(dict(arrival_s=2.0, scheduled_s=2.0, first_token_s=2.0, finish_s=2.0))))
    nobody = without_leaps(make_result(request_log(dict(arrival_s=2.0)), status=Status.STALLED))
    rows = result_rows([instant, nobody], [None, None], [1, 1])
    assert rows == [result_row(instant, None, 1), result_row(nobody, None, 1)]
    rates = [name for name in METRICS if "_per_" in name]
    assert {row[name] for row in rows for name in rates} == {None}
    assert rows[0]["duration_s"] == 0.0 and rows[0]["ttft_mean_s"] == 0.0 and rows[1]["duration_s"] is None
    assert rows[0]["tpot_mean_s"] is None and rows[1]["ttft_mean_s"] is None


def test_one_of_each_a_run():
    with pytest.raises(ValueError, match="one of each a run"):
        result_rows([tiny()], [None], [1, 2])
    assert result_rows([], [], []) == []


def test_results_of_the_caller_stay_as_they_are():
    result = without_leaps(tiny())
    before = {field.name: getattr(result.requests, field.name).copy() for field in dataclasses.fields(RequestLog)}
    result_rows([result, result], [None, None], [1, 1])
    for name, values in before.items():
        np.testing.assert_array_equal(getattr(result.requests, name), values)


def test_one_line_tells_that_percentiles_rest_on_too_few_requests():
    rows = [{"requests_finished": count} for count in (9, 19, 99, 100, 5000, 0, None)] + [{"status": "invalid"}]
    assert too_few(rows) == [
        "latency percentiles rest on too few finished requests, of 8 points: p90 at 1 (it needs 10), p95 at 2 (it needs 20), "
        "p99 at 3 (it needs 100); raise workload.num_requests"
    ]
    (line,) = too_few([{"requests_finished": 30}] * 2000)
    assert "of 2,000 points: p99 at 2,000 (it needs 100);" in line
    assert "of 1 point: p99 at 1 (it needs 100);" in too_few([{"requests_finished": 30}])[0]
    assert too_few(rows[3:6]) == [] and too_few([]) == []
