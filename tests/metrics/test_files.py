import json

import numpy as np
import pandas as pd
import pytest

from simjax.engine.result import NEVER
from simjax.metrics.files import requests_frame, write_json, write_results
from simjax.metrics.summary import summarize
from simjax.metrics.timeline import timeline
from tests.metrics.factory import make_result, random_result, request_log, tiny, without_leaps

REQUESTS_HEADER = (
    "request_id,instance,prompt_tokens,output_tokens,cached_tokens,arrival_s,scheduled_s,first_token_s,finish_s,preemptions,status"
)
TIMESERIES_HEADER = "t_s,instance,running,waiting,kv_used_fraction,prompt_tokens_per_s,output_tokens_per_s,power_w"


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
    for name in TIMESERIES_HEADER.split(",")[:-1]:
        np.testing.assert_array_equal(series[name].astype(float), expected[name], err_msg=name)
    assert series.power_w.isna().all()


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


def test_power_is_an_empty_cell(tmp_path):
    write_results(tiny(), tmp_path, interval_s=10.0)
    rows = (tmp_path / "timeseries.csv").read_text().splitlines()
    assert len(rows) == 4 and all(row.endswith(",") for row in rows[1:])


def test_json_refuses_what_is_not_json(tmp_path):
    with pytest.raises(ValueError):
        write_json({"x": float("nan")}, tmp_path / "x.json")
