"""The numbers of one run: the content of `summary.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import Result, Status
from simjax.metrics.caching import peak_cached_fraction
from simjax.metrics.catalog import CATALOG, INSTANCE_CATALOG, Catalog, Metric
from simjax.metrics.catalog.instances import Instances
from simjax.metrics.catalog.metric import cells
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.energy.cost import cost_summary
from simjax.metrics.energy.report import energy_summary
from simjax.metrics.groups import by_group
from simjax.metrics.handover.report import disaggregation_summary
from simjax.metrics.latency import itl_statistics
from simjax.metrics.sessions import session_summary
from simjax.metrics.slo import NO_LIMITS, Slo, by_class, limited
from simjax.metrics.steady.verdict import Verdict, verdict_of
from simjax.metrics.steady.window import AUTOMATIC, Window

REQUESTS_NEEDED = {"p90": 10, "p95": 20, "p99": 100}
"""Finished requests (or sessions) that a percentile needs: it is worth its name when about one lies beyond it."""

_CAUSES = {
    Status.TICK_LIMIT: "the run stopped at its tick limit",
    Status.STALLED: "the run stalled: requests are left that can never be served",
}


def summarize(
    result: Result,
    slo: Slo | None = None,
    gpus: int | None = None,
    warnings: Sequence[str] = (),
    catalog: Catalog = CATALOG,
    *,
    window: Window = AUTOMATIC,
) -> dict[str, object]:
    """The summary of a run, ready for strict JSON: no NaN, no infinity, None for what is unknown.

    Latencies, throughputs and attainment are those of the measurement window (`simjax.metrics.steady.window`); counts, sessions, instances
    and the KV cache are those of the whole run, whose `duration_s` is from the first arrival to the last finish. `steady` and
    `backlog_growth_per_s` say whether there is a steady state (`simjax.metrics.steady.steadiness`). `kv.peak_used_fraction` is the fullest
    moment of the fullest instance; `kv.num_blocks` counts what requests can use: one less on each instance than vLLM reports, which keeps
    one block as the null block. `kv.prefix_hit_fraction` is cached over prompt tokens of the requests that were scheduled,
    `kv.evicted_blocks` counts cached blocks that were taken for something else, and `kv.peak_cached_fraction` is
    `simjax.metrics.caching.peak_cached_fraction`. `sessions` is there when the workload has sessions
    (`simjax.metrics.sessions.session_summary`), `disaggregation` when the cluster has prefill and decode instances
    (`simjax.metrics.handover.report.disaggregation_summary`); the entries of `instances` then have a role. `kv_tier` is there when there
    are KV tiers. `classes` is there when requests have classes of service (`simjax.metrics.slo.by_class`), and attainment and goodput hold
    each to the limits of its class too. `groups` is there when instances differ (`simjax.metrics.groups.by_group`). `energy` is
    `simjax.metrics.energy.report.energy_summary`, `cost` None without prices and carbon.

    Args:
        result: the run.
        slo: limits on the latencies of all requests; with them, or limits of classes, there is the key `slo` with attainment and goodput.
        gpus: GPUs of the cluster, for goodput per GPU.
        warnings: lines to put before those that the run itself gives rise to.
        catalog: the metrics; each one with a `path` is put there.
        window: what is left out of the metrics.
    """
    runs = Runs.of([result], [slo or NO_LIMITS], [gpus or 1], [window])
    sessions = None if result.sessions is None else session_summary(result.requests, result.sessions)
    part, verdict = runs.measured, verdict_of(runs)
    summary: dict[str, Any] = {  # the order of the file; the metrics of the catalogue are filled in below
        "status": result.status.name.lower(),
        "requests": {},
        "duration_s": None,
        "steady": None,
        "backlog_growth_per_s": None,
        "window": {
            "start_s": float(part.start_s[0] - part.first_s[0]),
            "end_s": float(part.end_s[0] - part.first_s[0]),
            "whole_run": bool(part.whole[0]),
            "requests": None,
            "stay_s": float(part.stay_s[0]),
            "saturated_requests_per_s": verdict.saturated_per_s,
        },
        "throughput": {},
        "ttft_s": {},
        "tpot_s": {},
        "itl_s": itl_statistics(result, None if part.whole[0] else (float(part.start_s[0]), float(part.end_s[0]))),
        "e2e_s": {},
        "kv": dict.fromkeys(("num_blocks", "peak_used_fraction", "prefix_hit_fraction", "evicted_blocks", "peak_cached_fraction")),
        "energy": energy_summary(result),
        "cost": cost_summary(result, runs.energies[0]),
        "sim": {"ticks": None, "steps": None, "compile_s": float(result.compile_s), "run_s": float(result.run_s)},
        "instances": instances_of(result, float(runs.clients.duration_s[0])),
        "warnings": [*warnings, *_warnings(runs, verdict, 0 if sessions is None else sessions["finished"])],
    }
    summary["kv"]["peak_cached_fraction"] = peak_cached_fraction(result)
    if (ranks := result.ranks) is not None:
        each = instances_of(by_rank(result), float(runs.clients.duration_s[0]))
        numbers = zip(ranks.instance.tolist(), ranks.number.tolist(), strict=True)
        summary["ranks"] = [{**one, "instance": i, "rank": rank} for one, (i, rank) in zip(each, numbers, strict=True)]
    if sessions is not None:
        summary["sessions"] = sessions
    has_limits = limited(slo, result.classes)
    if has_limits:
        summary["slo"] = _limits(runs)
    if result.classes is not None:
        summary["classes"] = by_class(runs)
    if result.alike_instances is not None:
        summary["groups"] = by_group(runs)
    if runs.disaggregated:
        summary["disaggregation"] = disaggregation_summary(runs)
    given = {"roles": runs.disaggregated, "speculation": bool(result.instances.drafts.any())}
    given |= {"lockstep": bool(result.instances.dummy_steps.any())}
    given |= {"tiers": result.tiers is not None, "power": result.plant is not None, "prices": result.rates is not None}
    given |= {"sessions": sessions is not None, "cap": result.due_s is not None, "limits": has_limits, "gpus": gpus is not None}
    for metric in catalog.values():
        if metric.path and all(given[name] for name in metric.needs):
            put(summary, metric.path, numbers_of(metric, runs)[0])
    summary["steady"] = verdict.steady  # true or false here, 1 or 0 in tables
    return summary


def goodput(result: Result, slo: Slo, gpus: int | None = None, window: Window = AUTOMATIC) -> dict[str, object]:
    """SLO attainment over the requests of the measurement window, and goodput in requests per second.

    Args:
        result: the run.
        slo: the limits; a request counts when it finished and meets all of them.
        gpus: when given, goodput per GPU is reported too.
        window: what is left out of the run.

    Returns:
        `limits`, `attained` (requests), `attainment_fraction` (of all requests that arrived in the window; unfinished ones miss),
        `attainment_by_limit` (the fraction meeting each limit alone), `goodput_requests_per_s` (None when no request finished)
        and, with `gpus`, `goodput_requests_per_s_per_gpu`.
    """
    runs = Runs.of([result], [slo], [gpus or 1], [window])
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
    """The entries of `instances`: the number of each instance, its role where there are several, then its metrics.

    Args:
        result: the run.
        span_s: seconds from the first arrival to the last finish; 0 when no request finished.
        catalog: the metrics of an instance.
    """
    seen = Instances(result, span_s)
    columns = [cells(metric.value(seen, np)) for metric in catalog.values()]
    roles = None if result.pools is None else [role.value for role in result.pools.roles]
    about = [{"instance": i} if roles is None else {"instance": i, "role": roles[i]} for i in range(seen.count)]
    return [{**one, **dict(zip(catalog, row, strict=True))} for one, row in zip(about, zip(*columns, strict=True), strict=True)]


def put(tree: dict[str, Any], path: Sequence[str], value: object) -> None:
    """Put a value into nested dicts, which are made where they are missing."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _limits(runs: Runs) -> dict[str, object]:
    """The part of `slo` that is no metric of the catalogue; the fraction's place comes before that of its parts."""
    limits, classes = runs.slos[0].limits(), runs.results[0].classes
    of_classes = () if classes is None else {name: None for own in classes.limits for name in own}
    return {
        "limits": limits,
        "attained": int((runs.good & runs.measured.arrived)[0].sum()),
        "attainment_fraction": None,
        "attainment_by_limit": {name: cells(runs.attainment(runs.meets[name]))[0] for name in dict.fromkeys((*limits, *of_classes))},
    }


def _warnings(runs: Runs, verdict: Verdict, sessions: int) -> list[str]:
    """Lines for the reader of the numbers of one run; `sessions`: how many of them finished."""
    result, part = runs.results[0], runs.measured
    finished = int(runs.latencies.finished[0].sum())
    counted = int((runs.latencies.finished & part.arrived)[0].sum())
    lines = [] if verdict.line is None or result.status is Status.STALLED else [verdict.line]
    if result.status is not Status.FINISHED:
        lines.append(f"{_CAUSES[result.status]}; latencies and throughput cover the {finished} finished requests only")
    for what, of, count in (("latencies", "requests", counted), ("makespans", "sessions", sessions)):
        weak = [name for name, needed in REQUESTS_NEEDED.items() if 0 < count < needed]
        if weak:
            lines.append(f"{', '.join(weak)} of the {what} rest on only {count} finished {of}")
    if finished == 0:
        lines.append("no request finished: there are no latencies and no throughput")
    elif counted == 0:
        lines.append(
            f"the window from {part.start_s[0] - part.first_s[0]:.4g} to {part.end_s[0] - part.first_s[0]:.4g} s has no finished request: "
            "make the run longer, or metrics.warmup_s and metrics.cooldown_s shorter"
        )
    return lines
