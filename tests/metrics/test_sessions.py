import dataclasses

import numpy as np
import pandas as pd
import pytest

from simjax.engine.host.result import NEVER
from simjax.metrics.calls import Calls, makespans
from simjax.metrics.latency import STATISTICS
from simjax.metrics.sessions import pauses, sessions_frame
from simjax.metrics.summary import summarize
from tests.metrics.factory import make_result, request_log, tiny, two_sessions, waiting


def test_numbers_of_the_hand_made_sessions():
    found = summarize(two_sessions())["sessions"]
    assert (found["total"], found["finished"], found["unfinished"]) == (2, 2, 0)
    assert found["makespan_s"] == pytest.approx({"mean": 7.5, "p50": 7.5, "p90": 9.5, "p95": 9.75, "p99": 9.95, "max": 10.0})
    assert found["in_calls_s"]["mean"] == 5.5 and found["in_calls_s"]["max"] == 7.0
    first, later = found["first_turns"], found["later_turns"]
    assert (first["calls"], first["finished"], first["cached_fraction"]) == (2, 2, 0.0)
    assert (later["calls"], later["finished"], later["cached_fraction"]) == (4, 4, (12 + 20 + 24) / (20 + 16 + 24 + 30))
    assert first["ttft_s"]["mean"] == 1.0 and first["e2e_s"]["mean"] == 1.5
    assert later["ttft_s"]["mean"] == 2.5 / 4 and later["e2e_s"]["max"] == 4.0


def test_a_session_that_was_cut_has_no_makespan():
    summary = summarize(two_sessions(cut=True))
    found = summary["sessions"]
    assert (found["total"], found["finished"], found["unfinished"]) == (2, 0, 2)
    assert found["makespan_s"] == found["in_calls_s"] == dict.fromkeys(STATISTICS)
    assert found["later_turns"]["calls"] == 4 and found["later_turns"]["finished"] == 2
    assert found["later_turns"]["cached_fraction"] == (12 + 20) / (20 + 16 + 24), "the unsent call asked for nothing"
    assert not any("makespans" in line for line in summary["warnings"])


def test_few_sessions_are_warned_of_and_runs_without_have_no_such_key():
    assert "p90, p95, p99 of the makespans rest on only 2 finished sessions" in summarize(two_sessions())["warnings"]
    assert "sessions" not in summarize(tiny())


def test_a_session_of_which_nothing_was_sent():
    rows = [dict(arrival_s=NEVER, instance=-1)] * 6
    frame = sessions_frame(request_log(*rows), waiting())
    assert frame[["start_s", "end_s", "makespan_s", "ttft_mean_s"]].isna().all(axis=None)
    assert frame.finished_calls.tolist() == frame.instances.tolist() == [0, 0]


def noise(seed: int, calls: int, sessions: int) -> tuple:
    """Finished requests of random sessions, some of which overlap."""
    rng = np.random.default_rng(seed)
    arrival = rng.uniform(0.0, 100.0, calls)
    rows = [dict(arrival_s=t, scheduled_s=t, first_token_s=t + 0.1, finish_s=t + 0.1 + rng.exponential(5.0)) for t in arrival]
    session = rng.integers(sessions, size=calls).astype(np.int32)
    names = tuple(map(str, range(sessions)))
    return request_log(*rows), dataclasses.replace(waiting(), session=session, names=names, turn=np.zeros(calls, np.int32))


@pytest.mark.parametrize("seed", range(5))
def test_time_in_calls_is_the_union_of_the_calls(seed):
    log, sessions = noise(seed, calls=60, sessions=9)
    for _, row in sessions_frame(log, sessions).iterrows():
        mine = sessions.session == int(row.session)
        covered = pd.arrays.IntervalArray.from_arrays(log.arrival_s[mine], log.finish_s[mine])
        edges = np.unique(np.concatenate([covered.left, covered.right]))
        under_way = np.array([covered.contains(middle).any() for middle in (edges[1:] + edges[:-1]) / 2])
        assert row.in_calls_s == pytest.approx((np.diff(edges) * under_way).sum(), rel=1e-12)
        assert row.in_calls_s + row.waiting_s == pytest.approx(row.makespan_s, rel=1e-12)
        assert row.makespan_s == log.finish_s[mine].max() - log.arrival_s[mine].min()


def test_makespans_of_many_runs_are_those_of_each():
    logs, sessions = [noise(seed, 40, 7)[0] for seed in range(3)], noise(9, 40, 7)[1]
    names = [field.name for field in dataclasses.fields(logs[0])]
    stacked = dataclasses.replace(logs[0], **{name: np.stack([getattr(log, name) for log in logs]) for name in names})
    calls = Calls.of(sessions)
    together = makespans(stacked, calls)
    assert together.flags.c_contiguous
    np.testing.assert_array_equal(together, [makespans(log, calls) for log in logs])


def test_the_pause_is_the_one_behind_the_last_answer():
    log = two_sessions().requests
    assert pauses(log, waiting()).isna().tolist() == [True, True, True, False, False, False]
    assert pauses(log, waiting())[3:].tolist() == [3.0, 0.0, 1.0]
    slow = dataclasses.replace(log, finish_s=np.where(np.arange(6) == 1, 2.75, log.finish_s))
    assert pauses(slow, waiting())[5] == 2.5, "now the other call decides"


def test_sessions_without_requests_are_left_out():
    log, sessions = request_log(dict(arrival_s=0.0)), dataclasses.replace(waiting(), session=np.array([1]), turn=np.array([0]))
    sessions = dataclasses.replace(sessions, names=("empty", "full", "empty, too"))
    assert sessions_frame(log, sessions).session.tolist() == ["full"]
    assert make_result(log).sessions is None
