"""The numbers of one run: the content of `summary.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simjax.engine.host.result import Result, Status
from simjax.metrics.caching import peak_cached_fraction
from simjax.metrics.catalog import CATALOG, INSTANCE_CATALOG, Catalog, Metric
from simjax.metrics.catalog.instances import Instances
from simjax.metrics.catalog.metric import cells
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.latency import itl_statistics
from simjax.metrics.sessions import session_summary
from simjax.metrics.slo import NO_LIMITS, Slo

REQUESTS_NEEDED = {"p90": 10, "p95": 20, "p99": 100}
"""Finished requests (or sessions) that a percentile needs: it is worth its name when about one lies beyond it."""

_CAUSES = {
    Status.TICK_LIMIT: "the run stopped at its tick limit",
    Status.STALLED: "the run stalled: requests are left that can never be served",
}


def summarize(
    result: Result, slo: Slo | None = None, gpus: int | None = None, warnings: Sequence[str] = (), catalog: Catalog = CATALOG
) -> dict[str, object]:
    """The summary of a run, ready for strict JSON: no NaN, no infinity, None for what is unknown.

    Throughputs are over the finished requests and `duration_s` (first arrival to last finish). `kv.peak_used_fraction` is the fullest
    moment of the fullest instance; `kv.num_blocks` counts what requests can use: one less on each instance than vLLM reports, which keeps
    one block as the null block. `kv.prefix_hit_fraction` is cached over prompt tokens of the requests that were scheduled,
    `kv.evicted_blocks` counts cached blocks that were taken for something else, and `kv.peak_cached_fraction` is
    `simjax.metrics.caching.peak_cached_fraction`. `sessions` is there when the workload has sessions
    (`simjax.metrics.sessions.session_summary`). `send_lag_s` is there when the client has a cap on its requests in flight: mean and maximum
    of how far behind its schedule it sent them. `energy` and `cost` hold None: they are not modelled yet.

    Args:
        result: the run.
        slo: adds the key `slo` with attainment and goodput.
        gpus: GPUs of the cluster, for goodput per GPU.
        warnings: lines to put before those that the run itself gives rise to.
        catalog: the metrics; each one with a `path` is put there.
    """
    runs = Runs.of([result], [slo or NO_LIMITS], [gpus or 1])
    sessions = None if result.sessions is None else session_summary(result.requests, result.sessions)
    finished = int(runs.clients.finished[0])
    summary: dict[str, Any] = {  # the order of the file; the metrics of the catalogue are filled in below
        "status": result.status.name.lower(),
        "requests": {},
        "duration_s": None,
        "throughput": {},
        "ttft_s": {},
        "tpot_s": {},
        "itl_s": itl_statistics(result),
        "e2e_s": {},
        "kv": dict.fromkeys(("num_blocks", "peak_used_fraction", "prefix_hit_fraction", "evicted_blocks", "peak_cached_fraction")),
        "energy": {"total_j": None, "per_output_token_j": None, "mean_power_w": None},
        "cost": None,
        "sim": {"ticks": None, "steps": None, "compile_s": float(result.compile_s), "run_s": float(result.run_s)},
        "instances": instances_of(result, float(runs.clients.span_s[0])),
        "warnings": [*warnings, *_warnings(result, finished, 0 if sessions is None else sessions["finished"])],
    }
    summary["kv"]["peak_cached_fraction"] = peak_cached_fraction(result)
    if sessions is not None:
        summary["sessions"] = sessions
    if slo is not None:
        summary["slo"] = _limits(runs)
    given = {"sessions": sessions is not None, "cap": result.due_s is not None, "limits": slo is not None, "gpus": gpus is not None}
    for metric in catalog.values():
        if metric.path and all(given[name] for name in metric.needs):
            put(summary, metric.path, numbers_of(metric, runs)[0])
    return summary


def goodput(result: Result, slo: Slo, gpus: int | None = None) -> dict[str, object]:
    """SLO attainment over all requests and goodput in requests per second.

    Args:
        result: the run.
        slo: the limits; a request counts when it finished and meets all of them.
        gpus: when given, goodput per GPU is reported too.

    Returns:
        `limits`, `attained` (requests), `attainment_fraction` (of all requests, unfinished ones count as missed),
        `attainment_by_limit` (the fraction meeting each limit alone), `goodput_requests_per_s` (None when no request finished)
        and, with `gpus`, `goodput_requests_per_s_per_gpu`.
    """
    runs = Runs.of([result], [slo], [gpus or 1])
    report: dict[str, Any] = {"slo": _limits(runs)}
    given = {"limits"} if gpus is None else {"limits", "gpus"}
    for metric in CATALOG.values():
        if metric.path[:1] == ("slo",) and metric.needs <= given:
            put(report, metric.path, numbers_of(metric, runs)[0])
    return report["slo"]


def duration_s(result: Result) -> float | None:
    """Seconds from the first arrival to the last finish, None when no request finished."""
    found = numbers_of(CATALOG["duration_s"], Runs.of([result], [NO_LIMITS], [1]))[0]
    return None if found is None else float(found)


def numbers_of(metric: Metric, runs: Runs) -> list[float | int | None]:
    """A metric of B runs as plain Python numbers; None for a run that does not have it."""
    return cells(metric.value(runs.clients if metric.smooth else runs, np))


def instances_of(result: Result, span_s: float, catalog: Catalog = INSTANCE_CATALOG) -> list[dict[str, object]]:
    """The entries of `instances`: the number of each instance, then its metrics.

    Args:
        result: the run.
        span_s: seconds from the first arrival to the last finish; 0 when no request finished.
        catalog: the metrics of an instance.
    """
    seen = Instances(result, span_s)
    columns = [cells(metric.value(seen, np)) for metric in catalog.values()]
    return [{"instance": i, **dict(zip(catalog, row, strict=True))} for i, row in enumerate(zip(*columns, strict=True))]


def put(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Put a value into nested dicts, which are made where they are missing."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _limits(runs: Runs) -> dict[str, object]:
    """The part of `slo` that is no metric of the catalogue; the fraction's place comes before that of its parts."""
    limits = runs.slos[0].limits()
    return {
        "limits": limits,
        "attained": int(runs.attained[0]),
        "attainment_fraction": None,
        "attainment_by_limit": {name: float(np.mean(runs.meets[name])) for name in limits},
    }


def _warnings(result: Result, finished: int, sessions: int) -> list[str]:
    """Lines for the reader of the numbers, from the counts of finished requests and finished sessions."""
    lines = []
    if result.status is not Status.FINISHED:
        lines.append(f"{_CAUSES[result.status]}; latencies and throughput cover the {finished} finished requests only")
    for what, of, count in (("latencies", "requests", finished), ("makespans", "sessions", sessions)):
        weak = [name for name, needed in REQUESTS_NEEDED.items() if 0 < count < needed]
        if weak:
            lines.append(f"{', '.join(weak)} of the {what} rest on only {count} finished {of}")
    if finished == 0:
        lines.append("no request finished: there are no latencies and no throughput")
    return lines
