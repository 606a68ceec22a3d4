import dataclasses
import json

import numpy as np
import pytest

from simjax.engine.host.result import NEVER, Status
from simjax.metrics.slo import Slo
from simjax.metrics.summary import summarize
from tests.metrics.factory import leap_log, make_result, random_result, request_log, tiny, without_leaps

STATS = {"mean", "p50", "p90", "p95", "p99", "max"}
CONTRACT = {
    "status": None,
    "requests": {"total", "finished", "unfinished", "preemptions"},
    "duration_s": None,
    "throughput": {"requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s"},
    "ttft_s": STATS,
    "tpot_s": STATS,
    "itl_s": STATS,
    "e2e_s": STATS,
    "kv": {"num_blocks", "peak_used_fraction", "prefix_hit_fraction", "evicted_blocks", "peak_cached_fraction"},
    "energy": {"total_j", "per_output_token_j", "mean_power_w"},
    "cost": None,
    "sim": {"ticks", "steps", "compile_s", "run_s"},
}


def nobody():
    return make_result(request_log(dict(arrival_s=1.0), dict(arrival_s=NEVER, instance=-1)), leap_log(), status=Status.STALLED)


@pytest.mark.parametrize(
    "result", [tiny(), without_leaps(tiny()), nobody(), random_result(0)], ids=["tiny", "no leaps", "nobody", "random"]
)
def test_keys_are_the_contract_and_json_is_strict(result):
    summary = summarize(result, Slo(ttft_s=1.0))
    for key, inner in CONTRACT.items():
        assert key in summary
        if inner is not None:
            assert set(summary[key]) == inner, key
    assert set(summary) == {*CONTRACT, "instances", "warnings", "slo", "steady", "backlog_growth_per_s", "window"}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_numbers_of_the_hand_made_run():
    summary = summarize(tiny())
    assert summary["status"] == "finished"
    assert summary["requests"] == {"total": 3, "finished": 3, "unfinished": 0, "preemptions": 0}
    assert summary["duration_s"] == 20.5
    assert summary["throughput"]["requests_per_s"] == pytest.approx(3 / 20.5)
    assert summary["throughput"]["prompt_tokens_per_s"] == pytest.approx(16 / 20.5)
    assert summary["throughput"]["output_tokens_per_s"] == pytest.approx(6 / 20.5)
    assert summary["ttft_s"]["mean"] == pytest.approx(2.5 / 3) and summary["ttft_s"]["max"] == 1.0
    assert summary["tpot_s"]["mean"] == pytest.approx(0.625)  # the one-token request has none
    assert summary["e2e_s"]["p50"] == 1.5
    kv = {"num_blocks": 10, "peak_used_fraction": 0.4, "prefix_hit_fraction": 0.0, "evicted_blocks": 0, "peak_cached_fraction": None}
    assert summary["kv"] == kv
    assert summary["energy"] == {"total_j": None, "per_output_token_j": None, "mean_power_w": None} and summary["cost"] is None
    assert summary["sim"] == {"ticks": 11, "steps": 5, "compile_s": 1.5, "run_s": 0.25}
    assert summary["instances"] == [
        {
            "instance": 0,
            "requests": 3,
            "finished": 3,
            "prompt_tokens": 16,
            "output_tokens": 6,
            "preemptions": 0,
            "busy_fraction": pytest.approx(3.5 / 20.5),
            "prefill_tokens": None,
            "decode_tokens": None,
            "num_blocks": 10,
            "peak_used_fraction": 0.4,
            "prefix_hit_fraction": 0.0,
            "evicted_blocks": 0,
        }
    ]


def test_peak_is_the_fullest_instance_and_sees_the_end_of_a_leap():
    leaps = leap_log(dict(instance=0, steps=3, kv_blocks=2, kv_blocks_last=5), dict(instance=1, kv_blocks=6))
    summary = summarize(make_result(tiny().requests, leaps, num_blocks=(10, 20)))
    assert summary["kv"]["num_blocks"] == 30 and summary["kv"]["peak_used_fraction"] == 0.5
    assert [i["peak_used_fraction"] for i in summary["instances"]] == [0.5, 0.3]


def test_prefix_hits_are_over_scheduled_requests():
    requests = request_log(
        dict(prompt_tokens=30, cached_tokens=16, scheduled_s=0.0), dict(prompt_tokens=10, scheduled_s=1.0), dict(prompt_tokens=999)
    )
    assert summarize(make_result(requests))["kv"]["prefix_hit_fraction"] == pytest.approx(0.4)


def test_nobody_finished():
    summary = summarize(nobody())
    assert summary["status"] == "stalled"
    assert summary["requests"] == {"total": 2, "finished": 0, "unfinished": 2, "preemptions": 0}
    assert summary["duration_s"] is None and set(summary["throughput"].values()) == {None}
    assert set(summary["ttft_s"].values()) == {None} and set(summary["itl_s"].values()) == {None}
    assert "no request finished" in summary["warnings"][-1]


def test_warnings_say_what_the_numbers_rest_on():
    assert summarize(tiny())["warnings"] == ["p90, p95, p99 of the latencies rest on only 3 finished requests"]
    assert summarize(random_result(1))["warnings"] == ["p99 of the latencies rest on only 60 finished requests"]
    many = request_log(*(dict(arrival_s=float(i), scheduled_s=float(i), first_token_s=i + 1.0, finish_s=i + 2.0) for i in range(100)))
    assert summarize(make_result(many))["warnings"] == []
    cut = dataclasses.replace(make_result(many), status=Status.TICK_LIMIT)
    assert summarize(cut)["status"] == "tick_limit" and "tick limit" in summarize(cut)["warnings"][0]


def test_values_are_plain_python_numbers():
    summary = summarize(random_result(2))
    assert type(summary["requests"]["preemptions"]) is int and type(summary["ttft_s"]["p99"]) is float
    assert not any(isinstance(v, np.generic) for v in summary["instances"][0].values())
