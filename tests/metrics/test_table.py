import io

import pytest
from rich.console import Console

from simjax.engine.result import Status
from simjax.metrics.slo import Slo
from simjax.metrics.summary import summarize
from simjax.metrics.table import format_ms, summary_table
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny


def rendered(summary, title=""):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(summary_table(summary, title))
    return console.export_text()


def test_table_shows_the_numbers_that_matter():
    text = rendered(summarize(tiny(), Slo(ttft_s=1.0, tpot_s=0.6), gpus=2), "tiny run")
    lines = text.splitlines()
    assert "tiny run" in lines[0] and "finished" in lines[0] and "3 of 3 requests" in lines[0]
    ttft = next(line for line in lines if line.startswith("TTFT"))
    assert ttft.split()[1:3] == ["833.3", "1,000.0"]
    assert "0.15 requests/s, 0.78 prompt tokens/s, 0.29 output tokens/s" in text
    assert "10 blocks, peak use 40.0 %" in text
    assert "11 ticks for 5 engine steps" in text and "compile 1.50 s" in text
    assert "66.7 % of requests meet TTFT <= 1,000.0 ms, TPOT <= 600.0 ms" in text
    assert "note: p90, p95, p99" in text
    assert max(map(len, lines)) <= 120


def test_table_of_several_instances_and_of_a_failed_run():
    assert "instances   2, requests" in rendered(summarize(random_result(1)))
    failed = rendered(summarize(make_result(request_log(dict(arrival_s=0.0)), leap_log(), status=Status.TICK_LIMIT)))
    assert "tick limit" in failed and "0 of 1 requests" in failed and "no request finished" in failed


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0000421, "0.042"), (0.01234, "12.34"), (0.5, "500.0"), (2.5, "2,500.0"), (86.5783, "86,578")]
)
def test_milliseconds(seconds, text):
    assert format_ms(seconds) == text
