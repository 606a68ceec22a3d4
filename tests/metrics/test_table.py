import io

import pytest
from rich.console import Console

from simjax.engine.host.result import Status
from simjax.metrics.slo import Slo
from simjax.metrics.summary import summarize
from simjax.metrics.table import format_interval, format_ms, summary_table
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny, two_sessions


def rendered(summary, title="", width=120):
    console = Console(width=width, record=True, file=io.StringIO())
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


def test_table_of_sessions_and_of_a_prefix_cache():
    summary = summarize(two_sessions())
    summary["kv"]["evicted_blocks"] = 1234
    lines = [line.rstrip() for line in rendered(summary).splitlines()]
    assert next(line for line in lines if line.startswith("KV cache")).endswith(
        " 46.7 % of prompt tokens cached, 1,234 cached blocks evicted"
    )
    sessions, later = (next(line for line in lines if line.startswith(name)) for name in ("sessions", "later turns"))
    assert sessions.split(maxsplit=1)[1] == "2 of 2 finished, makespan mean 7.50 (5.50 in calls), p50 7.50, p99 9.95 s"
    assert later.split(maxsplit=2)[2] == "4 calls, TTFT mean 625.0, p50 500.0, p99 985.0 ms, 62.2 % of prompt tokens cached"
    cut = rendered(summarize(two_sessions(cut=True)))
    assert "0 of 2 finished" in cut and "makespan" not in cut
    assert "sessions" not in rendered(summarize(tiny())) and "evicted" not in rendered(summarize(tiny()))


def test_intervals_stand_beside_the_numbers_or_below_them():
    summary = summarize(tiny(), Slo(ttft_s=1.0))
    row = {name: [0.8, 0.9] for name in ("mean", "p50", "p90", "p95", "p99", "max")}
    rates = {"requests_per_s": [0.1, 0.2], "prompt_tokens_per_s": None, "output_tokens_per_s": [0.25, 0.3]}
    summary["intervals"] = {"level": 0.95, "draws": 128, "ttft_s": row, "throughput": rates, "duration_s": [20.0, 21.5]}
    summary["intervals"] |= {"kv": {"peak_used_fraction": [0.39, 0.4137]}, "slo": {"attainment_fraction": [0.5, 1.0]}}
    wide, narrow = rendered(summary, width=200), rendered(summary, width=100)
    assert "833.3 [800, 900]" in wide and wide.count("[800, 900]") == 6
    lines = narrow.splitlines()
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("TTFT")) + 1]
    assert below.split() == ["[800,", "900]"] * 6 and max(map(len, lines)) <= 100
    for text in (wide, narrow):
        assert "in brackets: 95 % intervals from 128 draws" in text
        assert "in 20.50 [20.0, 21.5] s" in text
        assert "0.15 [0.10, 0.20] requests/s, 0.78 prompt tokens/s, 0.29 [0.25, 0.30] output tokens/s" in text
        assert "peak use 40.0 [39.0, 41.4] %" in text
        assert "[" not in next(line for line in text.splitlines() if line.startswith("ITL")), "nothing is known of it"


@pytest.mark.parametrize(
    ("interval", "decimals", "text"),
    [
        (None, 2, ""),
        ([49.81, 53.02], 2, "[49.8, 53.0]"),
        ([51.342, 51.391], 2, "[51.34, 51.39]"),
        ([51.36, 51.36], 2, "[51.36, 51.36]"),
        ([5627.4, 17840.2], 1, "[5,627, 17,840]"),
    ],
)
def test_intervals_have_the_digits_that_tell_their_ends_apart(interval, decimals, text):
    assert format_interval(interval, decimals) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0000421, "0.042"), (0.01234, "12.34"), (0.5, "500.0"), (2.5, "2,500.0"), (86.5783, "86,578")]
)
def test_milliseconds(seconds, text):
    assert format_ms(seconds) == text
