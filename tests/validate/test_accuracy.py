"""Simulated against measured vLLM runs: the measured tables and the shipped fitted profiles, without adjustment to the runs."""

from __future__ import annotations

from functools import cache

import pytest

from simjax.config.compose import compose_config, typed
from simjax.validate import compare, validate
from tests.data import data_path

BENCH, TABLES = "llmservingsim/bench", "llmservingsim/profiles"
LLAMA, QWEN, SATURATED = "RTXPRO6000/Llama-3.1-8B", "RTXPRO6000/Qwen3-32B", "RTX4090/Llama-3.1-8B"
METRICS = ("ttft_s", "tpot_s", "e2e_s")


@cache
def report(run: str, tables: bool) -> dict:
    overrides = [f"measured={data_path(f'{BENCH}/{run}')}"]
    if tables:
        overrides.append(f"profile.bundle_root={data_path(TABLES)}")
    measured, done = validate(typed(compose_config("validate", overrides)))
    return {**compare(measured, done.result), "preemptions": int(done.result.requests.preemptions.sum())}


def mean_errors(run: str, tables: bool = True) -> dict[str, float]:
    found = report(run, tables)
    return {metric: found[metric]["mean"]["error_pct"] for metric in METRICS}


def test_llama_is_no_worse_than_llmservingsim():
    """Bounds: the errors that LLMServingSim 2.0 publishes for this run (peer_summary.txt)."""
    errors = mean_errors(LLAMA)
    for metric, peer in zip(METRICS, (4.0, 1.0, 1.8), strict=True):
        assert abs(errors[metric]) <= peer, errors


def test_qwen_over_two_ranks():
    assert max(abs(error) for error in mean_errors(QWEN).values()) <= 1.5, mean_errors(QWEN)


def test_the_saturated_run_preempts_and_stays_in_its_regime():
    """KV-bound from start to end, as measured; without prefix caching a preempted request computes everything again, so it is slower."""
    found = report(SATURATED, tables=True)
    assert found["preemptions"] > 100
    assert 0 < found["makespan"]["error_pct"] < 8
    assert all(0 < error < 8 for error in mean_errors(SATURATED).values())


@pytest.mark.parametrize("run", [LLAMA, QWEN, SATURATED])
def test_fitted_profiles_agree_with_the_tables(run: str):
    """A compact profile replaces its tables: mean latencies within one percent of those with the tables."""
    tables, fitted = report(run, tables=True), report(run, tables=False)
    for metric in METRICS:
        ratio = fitted[metric]["mean"]["simulated"] / tables[metric]["mean"]["simulated"]
        assert abs(100 * (ratio - 1)) <= 1.0, (metric, ratio)
