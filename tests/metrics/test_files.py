import json

import numpy as np
import pandas as pd
import pytest

from simjax.disk.files import write_json
from simjax.engine.host.result import NEVER
from simjax.metrics.files import requests_frame, write_results
from simjax.metrics.summary import summarize
from simjax.metrics.timeseries import timeline
from tests.metrics.factory import make_result, random_result, request_log, tiny, two_sessions, without_leaps

REQUESTS_HEADER = (
    "request_id,instance,prompt_tokens,output_tokens,cached_tokens,arrival_s,scheduled_s,first_token_s,finish_s,preemptions,status"
)
TIMESERIES_HEADER = (
    "t_s,instance,running,waiting,kv_used_fraction,prompt_tokens_per_s,output_tokens_per_s,power_w,kv_cached_fraction,prefix_hit_fraction"
)


def test_files_read_back_to_the_same_numbers(tmp_path):
    result = random_result(5)
    summary = write_results(result, tmp_path / "new" / "run")
    out = tmp_path / "new" / "run"
    assert json.loads((out / "summary.json").read_text()) == summary == summarize(result)

    assert (out / "requests.csv").read_text().splitlines()[0] == REQUESTS_HEADER
    requests = pd.read_csv(out / "requests.csv", dtype=str)
    for name in REQUESTS_HEADER.split(",")[1:-1]:
        np.testing.assert_array_equal(requests[name].astype(float), getattr(result.requests, name), err_msg=name)
    assert requests.request_id.tolist() == [str(i) for i in range(60)] and (requests.status == "finished").all()

    assert (out / "timeseries.csv").read_text().splitlines()[0] == TIMESERIES_HEADER
    series, expected = pd.read_csv(out / "timeseries.csv", dtype=str), timeline(result)
    for name in TIMESERIES_HEADER.split(",")[:-3]:
        np.testing.assert_array_equal(series[name].astype(float), expected[name], err_msg=name)
    hits = expected.prefix_hit_fraction.to_numpy(float, na_value=-1.0)
    np.testing.assert_array_equal(series.prefix_hit_fraction.fillna("-1").astype(float), hits)
    assert series.power_w.isna().all() and series.kv_cached_fraction.isna().all(), "nothing is cached, and power is not modelled"
    assert not (out / "sessions.csv").exists()


def test_warnings_of_the_run_come_before_those_of_its_numbers(tmp_path):
    own = summarize(tiny())["warnings"]
    assert own
    write_results(tiny(), tmp_path, warnings=("costs are extrapolated",))
    assert json.loads((tmp_path / "summary.json").read_text())["warnings"] == ["costs are extrapolated", *own]


def test_times_that_never_came_are_empty_cells(tmp_path):
    requests = request_log(
        dict(arrival_s=0.1, scheduled_s=0.2, first_token_s=0.30000000000000004, finish_s=4.0, output_tokens=3),
        dict(arrival_s=0.2, scheduled_s=0.5),
        dict(arrival_s=0.3),
        dict(arrival_s=NEVER, instance=-1),
    )
    write_results(without_leaps(make_result(requests)), tmp_path)
    assert (tmp_path / "requests.csv").read_text().splitlines()[1:] == [
        "0,0,1,3,0,0.1,0.2,0.30000000000000004,4.0,0,finished",
        "1,0,1,1,0,0.2,0.5,,,0,started",
        "2,0,1,1,0,0.3,,,,0,waiting",
        "3,-1,1,1,0,,,,,0,unsent",
    ]
    assert not (tmp_path / "timeseries.csv").exists()
    assert requests_frame(requests).finish_s.isna().tolist() == [False, True, True, True]


def test_what_is_unknown_is_an_empty_cell(tmp_path):
    write_results(tiny(), tmp_path, interval_s=10.0)
    rows = (tmp_path / "timeseries.csv").read_text().splitlines()
    assert len(rows) == 4 and [row.split(",")[-3:] for row in rows[1:]] == [["", "", "0.0"], ["", "", "0.0"], ["", "", ""]]


def test_sessions(tmp_path):
    summary = write_results(two_sessions(), tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["sessions"] == summary["sessions"]
    lines = (tmp_path / "requests.csv").read_text().splitlines()
    assert lines[0] == REQUESTS_HEADER + ",session,turn,delay_s"
    assert [line.split(",finished,")[1] for line in lines[1:]] == [
        "a,0,",
        '"b, too",0,',
        '"b, too",1,',
        "a,1,3.0",
        "a,2,0.0",
        '"b, too",2,1.0',
    ]
    assert (tmp_path / "sessions.csv").read_text() == (
        "session,calls,finished_calls,start_s,end_s,makespan_s,in_calls_s,waiting_s,prompt_tokens,output_tokens,cached_tokens,"
        "ttft_mean_s,ttft_max_s,instances,preemptions\n"
        "a,3,3,0.0,10.0,10.0,7.0,3.0,50,12,32,0.6666666666666666,1.0,2,0\n"
        '"b, too",3,3,1.0,6.0,5.0,4.0,1.0,70,12,24,0.8333333333333334,1.0,1,0\n'
    )
    write_results(two_sessions(cut=True), tmp_path)
    assert (tmp_path / "sessions.csv").read_text().splitlines()[1:] == [
        "a,3,2,0.0,6.0,,,,50,12,32,0.75,1.0,2,0",
        '"b, too",3,2,1.0,4.0,,,,70,12,0,1.0,1.0,1,0',
    ]


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError):
        write_json({"x": float("nan")}, tmp_path / "x.json")


def test_the_schedule_of_a_client_with_a_cap_is_a_column():
    requests = tiny().requests
    assert "due_s" not in requests_frame(requests)
    assert requests_frame(requests, due_s=np.array([0.0, 0.5, 12.0])).due_s.tolist() == [0.0, 0.5, 12.0]
