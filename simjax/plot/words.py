"""The columns of a sweep's table as a report names them, with their units."""

from __future__ import annotations

import re

_STATISTICS = {"mean": "mean", "p50": "P50", "p90": "P90", "p95": "P95", "p99": "P99", "max": "maximum"}
_LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E latency"}
_COLUMNS = {
    "gpus": "GPUs",
    "requests_total": "requests",
    "requests_finished": "requests finished",
    "requests_unfinished": "requests unfinished",
    "preemptions": "preemptions",
    "duration_s": "duration, s",
    "requests_per_s": "throughput, requests/s",
    "prompt_tokens_per_s": "prompt throughput, tokens/s",
    "output_tokens_per_s": "output throughput, tokens/s",
    "output_tokens_per_s_per_gpu": "output throughput per GPU, tokens/s",
    "session_makespan_mean_s": "mean session makespan, s",
    "session_makespan_p99_s": "P99 session makespan, s",
    "kv_num_blocks": "KV blocks",
    "kv_peak_used_fraction": "peak KV use, fraction",
    "kv_evicted_blocks": "cached KV blocks evicted",
    "prefix_hit_fraction": "cached prompt tokens, fraction",
    "slo_attainment": "SLO attainment, fraction",
    "goodput_requests_per_s": "goodput, requests/s",
    "goodput_per_gpu": "goodput per GPU, requests/s",
    "ticks": "simulated ticks",
    "steps": "engine steps",
}


def in_words(column: str) -> str:
    """A column with its unit, such as "P99 TTFT, s"; a swept key, or a column that is not known, keeps its name."""
    match = re.fullmatch(r"([a-z0-9]+)_(mean|p\d+|max)_s", column)
    if match and match[1] in _LATENCIES:
        return f"{_STATISTICS.get(match[2], match[2].upper())} {_LATENCIES[match[1]]}, s"
    return _COLUMNS.get(column, column)


def without_unit(column: str) -> str:
    """A column in words, without its unit."""
    return in_words(column).partition(",")[0]
