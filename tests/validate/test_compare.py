import io
import json

import numpy as np
import pytest
from rich.console import Console

from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.validate.compare import COMPARED, METRICS, compare
from simjax.validate.measured import read_measured
from simjax.validate.table import comparison_table
from tests.metrics.factory import make_result, request_log
from tests.validate import samples


@pytest.fixture
def run(tmp_path):
    return read_measured(samples.llmservingsim(tmp_path / "GPU1" / "model"))


def test_a_run_compared_with_itself_has_no_error(run):
    report = compare(run, samples.answer(run))
    assert set(report) == {*METRICS, "per_request", "makespan", "throughput", "in_flight", "requests"}
    for metric in METRICS:
        assert list(report[metric]) == list(COMPARED)
        for row in report[metric].values():
            assert set(row) == {"measured", "simulated", "error_pct"} and abs(row["error_pct"]) < 1e-9
    assert set(report["per_request"]) == {"ttft_mape_pct", "tpot_mape_pct", "e2e_mape_pct"}
    assert max(report["per_request"].values()) < 1e-9 and abs(report["makespan"]["error_pct"]) < 1e-9
    assert report["requests"] == {"measured": 2, "finished": 2, "failed": 0, "failed_replayed": 0}
    assert report["in_flight"]["drift_pct"] == 0.0 and report["in_flight"]["peak"]["measured"] == 2
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_errors_have_the_sign_of_simulated_minus_measured(run):
    report = compare(run, samples.answer(run, stretch=1.1))
    for metric in METRICS:
        for row in report[metric].values():
            assert row["error_pct"] == pytest.approx(10.0)
    assert report["per_request"]["ttft_mape_pct"] == pytest.approx(10.0)
    # Request 0 is sent at 0 and takes 3.3 s in place of 3.0: it ends last on both sides.
    assert report["makespan"] == {"measured": pytest.approx(3.0), "simulated": pytest.approx(3.3), "error_pct": pytest.approx(10.0)}
    assert report["throughput"]["requests_per_s"]["error_pct"] == pytest.approx(100 * (1 / 1.1 - 1))
    assert report["throughput"]["output_tokens_per_s"]["measured"] == pytest.approx(6 / 3.0)


def test_per_request_errors_do_not_cancel(run):
    late, early = 1.1 * run.ttft_s[0], 2.0 + 0.9 * run.ttft_s[1]
    rows = [
        dict(prompt_tokens=10, output_tokens=5, arrival_s=0.0, first_token_s=late, finish_s=run.e2e_s[0]),
        dict(prompt_tokens=20, output_tokens=1, arrival_s=2.0, first_token_s=early, finish_s=2.0 + run.e2e_s[1]),
    ]
    report = compare(run, make_result(request_log(*rows)))
    assert report["per_request"]["ttft_mape_pct"] == pytest.approx(10.0)
    assert report["per_request"]["e2e_mape_pct"] == pytest.approx(0.0, abs=1e-9)
    assert report["per_request"]["tpot_mape_pct"] == pytest.approx(5.0)  # 1.9 s in place of 2 s for four gaps


def test_a_simulation_that_finished_nothing(run):
    report = compare(
        run, make_result(request_log(dict(prompt_tokens=10, output_tokens=5), dict(prompt_tokens=20, output_tokens=1, arrival_s=NEVER)))
    )
    assert report["ttft_s"]["mean"] == {"measured": pytest.approx(0.7495), "simulated": None, "error_pct": None}
    assert set(report["per_request"].values()) == {None} and report["makespan"]["simulated"] is None
    json.dumps(report, allow_nan=False)
    assert "2 of 2 requests did not finish" in rendered(report)


def test_other_requests_are_refused(run):
    with pytest.raises(SimjaxError, match="2 requests were measured, but 1 were simulated"):
        compare(run, make_result(request_log(dict(prompt_tokens=10, output_tokens=5))))
    with pytest.raises(SimjaxError, match="request 1 has output_tokens=1 measured, but 2 simulated"):
        compare(run, make_result(request_log(dict(prompt_tokens=10, output_tokens=5), dict(prompt_tokens=20, output_tokens=2))))


def rendered(report, **options):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(comparison_table(report, **options))
    return console.export_text()


def test_table(run):
    text = rendered(compare(run, samples.answer(run, stretch=1.1)), title="GPU1/model", notes=("max_num_seqs is not recorded: 256",))
    lines = text.splitlines()
    assert lines[0].strip() == "GPU1/model"
    assert next(line for line in lines if line.startswith("TTFT, ms")).split() == ["TTFT,", "ms", "mean", "749.5", "824.5", "+10.0", "%"]
    assert "mean absolute error per request: TTFT 10.0 %, TPOT 10.0 %, E2E 10.0 %" in text
    assert "note: max_num_seqs is not recorded: 256" in text and np.all([len(line) <= 100 for line in lines])
