"""Runs as rows of a table: the numbers of `summarize`, for thousands of runs at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from simjax.engine.host.result import NEVER, RequestLog, Result
from simjax.metrics.latency import STATISTICS, latencies, statistics_of_rows
from simjax.metrics.sessions import Calls, makespans
from simjax.metrics.slo import Slo, meets
from simjax.metrics.summary import REQUESTS_NEEDED, summarize
from simjax.workload.sessions import Sessions

Row = dict[str, float | int | None]

_LATENCIES = ("ttft", "tpot", "e2e")
_SPANS = ("mean", "p99")
METRICS: tuple[str, ...] = (
    *("gpus", "requests_total", "requests_finished", "requests_unfinished", "preemptions"),
    *("duration_s", "requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu"),
    *(f"{latency}_{name}_s" for latency in _LATENCIES for name in STATISTICS),
    *(f"session_makespan_{name}_s" for name in _SPANS),
    *("kv_num_blocks", "kv_peak_used_fraction", "kv_evicted_blocks", "prefix_hit_fraction"),
    *("slo_attainment", "goodput_requests_per_s", "goodput_per_gpu", "ticks", "steps"),
)
"""The columns of a row, in order."""
WHOLE_METRICS = frozenset(name for name in METRICS if name.startswith("requests_") and not name.endswith("_s")) | {
    *("gpus", "preemptions", "kv_num_blocks", "kv_evicted_blocks", "ticks", "steps")
}
"""The ones that are whole numbers."""

_BLOCK_ELEMENTS = 1 << 18  # requests of all runs taken together: bounds the memory (a dozen arrays of 2 MiB)
_NO_LIMITS = Slo()


def result_row(result: Result, slo: Slo | None, gpus: int) -> Row:
    """A run as a row: the keys `METRICS`, the numbers of `summarize`, None for what is unknown.

    Args:
        result: the run.
        slo: limits for attainment and goodput; without them every finished request counts.
        gpus: GPUs of the cluster.
    """
    return row_of_summary(summarize(result, slo or _NO_LIMITS, gpus), gpus)


def row_of_summary(summary: Mapping[str, Any], gpus: int) -> Row:
    """The numbers of a summary that has the key `slo`, as a row."""
    requests, rates, kv, reached = summary["requests"], summary["throughput"], summary["kv"], summary["slo"]
    output_rate = rates["output_tokens_per_s"]
    spans = summary["sessions"]["makespan_s"] if "sessions" in summary else dict.fromkeys(_SPANS)
    return {
        "gpus": gpus,
        **{f"requests_{name}": requests[name] for name in ("total", "finished", "unfinished")},
        "preemptions": requests["preemptions"],
        "duration_s": summary["duration_s"],
        **rates,
        "output_tokens_per_s_per_gpu": None if output_rate is None else output_rate / gpus,
        **{f"{latency}_{name}_s": summary[f"{latency}_s"][name] for latency in _LATENCIES for name in STATISTICS},
        **{f"session_makespan_{name}_s": spans[name] for name in _SPANS},
        **{f"kv_{name}": kv[name] for name in ("num_blocks", "peak_used_fraction", "evicted_blocks")},
        "prefix_hit_fraction": kv["prefix_hit_fraction"],
        "slo_attainment": reached["attainment_fraction"],
        "goodput_requests_per_s": reached["goodput_requests_per_s"],
        "goodput_per_gpu": reached["goodput_requests_per_s_per_gpu"],
        "ticks": summary["sim"]["ticks"],
        "steps": summary["sim"]["steps"],
    }


def result_rows(results: Sequence[Result], slos: Sequence[Slo | None], gpus: Sequence[int]) -> list[Row]:
    """`result_row` of many runs, bit for bit, about ten times faster.

    Runs of the same number of requests, all of them finished, are worked out together; any other goes through `result_row`. It helps
    when runs of one workload share the very same `prompt_tokens` and `output_tokens` arrays.

    Args:
        results: the runs.
        slos: the limits of each, see `result_row`.
        gpus: the GPUs of each.
    """
    if not len(results) == len(slos) == len(gpus):
        raise ValueError(f"{len(results)} results, {len(slos)} limits and {len(gpus)} numbers of GPUs: there must be one of each a run")
    rows: dict[int, Row] = {}
    for block in _blocks(results):
        found = _rows_together([results[i] for i in block], [slos[i] or _NO_LIMITS for i in block], [gpus[i] for i in block])
        rows.update(zip(block, found, strict=True))
    return [rows[i] if i in rows else result_row(result, slos[i], gpus[i]) for i, result in enumerate(results)]


def too_few(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """At most one line for a whole table: at how many of its points the latency percentiles rest on too few finished requests."""
    finished = [count for row in rows if (count := row.get("requests_finished")) is not None]
    weak = {name: sum(0 < count < needed for count in finished) for name, needed in REQUESTS_NEEDED.items()}
    said = [f"{name} at {weak[name]:,} (it needs {needed})" for name, needed in REQUESTS_NEEDED.items() if weak[name]]
    if not said:
        return []
    points = f"{len(rows):,} point{'' if len(rows) == 1 else 's'}"
    # Not more seeds: a high percentile of few requests is near their largest latency, on average over seeds too.
    return [f"latency percentiles rest on too few finished requests, of {points}: {', '.join(said)}; raise workload.num_requests"]


def _blocks(results: Sequence[Result]) -> Iterator[list[int]]:
    """The runs that can be taken together, by their places."""
    sizes: dict[int, list[int]] = {}
    for i, result in enumerate(results):
        if len(result.requests.finished):
            sizes.setdefault(len(result.requests.finished), []).append(i)
    for size, members in sizes.items():
        width = max(1, _BLOCK_ELEMENTS // size)
        for start in range(0, len(members), width):
            block = members[start : start + width]
            finished: list[bool] = np.all(_table([results[i].requests.finished for i in block]), axis=1).tolist()
            if together := [i for i, whole in zip(block, finished, strict=True) if whole]:
                yield together


def _rows_together(results: list[Result], slos: list[Slo], gpus: list[int]) -> list[Row]:
    """The rows of B runs with R requests each, R >= 1, all finished."""
    requests, prompts, outputs = _stacked([result.requests for result in results])
    lat = latencies(requests)
    runs, total = lat.finished.shape
    span = requests.finish_s.max(axis=1) - requests.arrival_s.min(axis=1)
    timed, spans = span != 0, np.where(span != 0, span, 1.0)
    scheduled = requests.scheduled_s != NEVER
    asked = np.where(scheduled, requests.prompt_tokens, 0).sum(axis=1)
    cached = np.where(scheduled, requests.cached_tokens, 0).sum(axis=1)
    limits = [np.array([[getattr(slo, name)] for slo in slos]) for name in ("ttft_s", "tpot_s", "e2e_s")]
    attained = np.logical_and.reduce(list(meets(lat, *limits).values())).sum(axis=1)
    num_blocks, peak, evicted = _kv(results)
    each = np.array(gpus)
    columns: dict[str, list[Any]] = {
        "gpus": gpus,
        "requests_total": [total] * runs,
        "requests_finished": [total] * runs,
        "requests_unfinished": [0] * runs,
        "preemptions": requests.preemptions.sum(axis=1).tolist(),
        "duration_s": span.tolist(),
        "requests_per_s": _cells(total / spans, timed),
        "prompt_tokens_per_s": _cells(prompts / spans, timed),
        "output_tokens_per_s": _cells(outputs / spans, timed),
        "output_tokens_per_s_per_gpu": _cells(outputs / spans / each, timed),
        **_statistics("ttft", lat.ttft_s, lat.finished),
        **_statistics("tpot", lat.tpot_s, lat.has_tpot),
        **_statistics("e2e", lat.e2e_s, lat.finished),
        **_session_columns([result.sessions for result in results], requests),
        "kv_num_blocks": num_blocks.tolist(),
        "kv_peak_used_fraction": peak.tolist(),
        "kv_evicted_blocks": evicted.tolist(),
        "prefix_hit_fraction": _cells(cached / np.maximum(asked, 1), asked != 0),
        "slo_attainment": (attained / total).tolist(),
        "goodput_requests_per_s": _cells(attained / spans, timed),
        "goodput_per_gpu": _cells(attained / spans / each, timed),
        "ticks": [int(result.ticks) for result in results],
        "steps": [int(result.steps) for result in results],
    }
    return [dict(zip(METRICS, row, strict=True)) for row in zip(*(columns[name] for name in METRICS), strict=True)]


def _stacked(logs: list[RequestLog]) -> tuple[RequestLog, np.ndarray, np.ndarray]:
    """One log with arrays [B, R] ([1, R] for the tokens of a workload that all share), and the prompt and output tokens of each run."""
    workloads: dict[tuple[int, int], tuple[int, RequestLog]] = {}
    which = [workloads.setdefault((id(log.prompt_tokens), id(log.output_tokens)), (len(workloads), log))[0] for log in logs]
    tokens = {name: _table([getattr(log, name) for _, log in workloads.values()]) for name in ("prompt_tokens", "output_tokens")}
    prompts, outputs = (values.sum(axis=1)[which] for values in tokens.values())
    if len(workloads) > 1:
        tokens = {name: values[which] for name, values in tokens.items()}
    per_run = [field.name for field in fields(RequestLog) if field.name not in tokens]
    return RequestLog(**tokens, **{name: _table([getattr(log, name) for log in logs]) for name in per_run}), prompts, outputs


def _table(rows: list[np.ndarray]) -> np.ndarray:
    """Arrays [R] as one [B, R]; takes half the time of np.stack."""
    return np.concatenate(rows).reshape(len(rows), -1)


def _kv(results: list[Result]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each run: all its KV blocks, int64[B]; the largest share in use on any of its instances, float64[B]; evicted blocks, int64[B]."""
    starts = np.cumsum([0] + [len(result.instances.num_blocks) for result in results[:-1]])
    blocks = np.concatenate([result.instances.num_blocks for result in results])
    peak = np.concatenate([result.instances.peak_blocks for result in results]) / np.maximum(blocks, 1)
    evicted = np.concatenate([result.instances.evicted_blocks for result in results])
    total = lambda values: np.add.reduceat(values, starts, dtype=np.int64)
    return total(blocks), np.maximum.reduceat(peak, starts), total(evicted)


def _session_columns(sessions: list[Sessions | None], requests: RequestLog) -> dict[str, list[float | None]]:
    """The columns of the sessions' makespans; runs with the same sessions are taken together.

    Args:
        sessions: of each run.
        requests: of all runs, times [B, R], all finished.
    """
    columns = {name: np.full(len(sessions), None, object) for name in _SPANS}
    alike: dict[int, list[int]] = {}
    for i, each in enumerate(sessions):
        if each is not None:
            alike.setdefault(id(each), []).append(i)
    for members in alike.values():
        each = sessions[members[0]]
        assert each is not None
        log = replace(requests, **{name: getattr(requests, name)[members] for name in ("finished", "arrival_s", "finish_s")})
        found = statistics_of_rows(makespans(log, Calls.of(each)))
        for name, column in columns.items():
            column[members] = found[name]
    return {f"session_makespan_{name}_s": column.tolist() for name, column in columns.items()}


def _statistics(latency: str, values: np.ndarray, there: np.ndarray) -> dict[str, list[float | None]]:
    """The columns of one latency over the requests that have it; runs in which equally many do are taken together.

    Args:
        latency: "ttft", "tpot" or "e2e".
        values: float64[B, R].
        there: bool[B, R].
    """
    columns = {name: np.full(len(values), None, object) for name in STATISTICS}
    counts = there.sum(axis=1)
    for count in set(counts.tolist()) - {0}:
        rows = np.flatnonzero(counts == count)
        for name, found in statistics_of_rows(values[rows][there[rows]].reshape(len(rows), count)).items():
            columns[name][rows] = found
    return {f"{latency}_{name}_s": column.tolist() for name, column in columns.items()}


def _cells(values: np.ndarray, known: np.ndarray) -> list[float | None]:
    return [value if there else None for value, there in zip(values.tolist(), known.tolist(), strict=True)]
