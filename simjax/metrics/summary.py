"""The numbers of one run: the content of `summary.json`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simjax.engine.host.result import Result, Status
from simjax.metrics.caching import peak_cached_fraction
from simjax.metrics.latency import itl_statistics, latencies, statistics
from simjax.metrics.sessions import cached_fraction, session_summary
from simjax.metrics.slo import Slo, duration_s, goodput
from simjax.metrics.steps import leap_durations

REQUESTS_NEEDED = {"p90": 10, "p95": 20, "p99": 100}
"""Finished requests (or sessions) that a percentile needs: it is worth its name when about one lies beyond it."""

_CAUSES = {
    Status.TICK_LIMIT: "the run stopped at its tick limit",
    Status.STALLED: "the run stalled: requests are left that can never be served",
}


def summarize(result: Result, slo: Slo | None = None, gpus: int | None = None, warnings: Sequence[str] = ()) -> dict[str, object]:
    """The summary of a run, ready for strict JSON: no NaN, no infinity, None for what is unknown.

    Throughputs are over the finished requests and `duration_s` (first arrival to last finish). `kv.peak_used_fraction` is the fullest
    moment of the fullest instance; `kv.num_blocks` counts what requests can use: one less on each instance than vLLM reports, which keeps
    one block as the null block. `kv.prefix_hit_fraction` is cached over prompt tokens of the requests that were scheduled,
    `kv.evicted_blocks` counts cached blocks that were taken for something else, and `kv.peak_cached_fraction` is
    `simjax.metrics.caching.peak_cached_fraction`. `sessions` is there when the workload has sessions
    (`simjax.metrics.sessions.session_summary`). `energy` and `cost` hold None: they are not modelled yet.

    Args:
        result: the run.
        slo: adds the key `slo` with attainment and goodput.
        gpus: GPUs of the cluster, for goodput per GPU.
        warnings: lines to put before what the run itself gives reason to warn of.
    """
    requests, lat, span = result.requests, latencies(result.requests), duration_s(result)
    sessions = None if result.sessions is None else session_summary(requests, result.sessions)
    done = lat.finished
    tokens = {"prompt": int(requests.prompt_tokens[done].sum()), "output": int(requests.output_tokens[done].sum())}
    summary: dict[str, object] = {
        "status": result.status.name.lower(),
        "requests": {
            "total": len(done),
            "finished": int(done.sum()),
            "unfinished": int((~done).sum()),
            "preemptions": int(requests.preemptions.sum()),
        },
        "duration_s": span,
        "throughput": {
            "requests_per_s": _rate(int(done.sum()), span),
            "prompt_tokens_per_s": _rate(tokens["prompt"], span),
            "output_tokens_per_s": _rate(tokens["output"], span),
        },
        "ttft_s": statistics(lat.ttft_s[lat.finished]),
        "tpot_s": statistics(lat.tpot_s[lat.has_tpot]),
        "itl_s": itl_statistics(result),
        "e2e_s": statistics(lat.e2e_s[lat.finished]),
        "kv": {
            "num_blocks": int(result.instances.num_blocks.sum()),
            "peak_used_fraction": float(np.max(_peak_fractions(result))),
            "prefix_hit_fraction": cached_fraction(requests),
            "evicted_blocks": int(result.instances.evicted_blocks.sum()),
            "peak_cached_fraction": peak_cached_fraction(result),
        },
        "energy": {"total_j": None, "per_output_token_j": None, "mean_power_w": None},
        "cost": None,
        "sim": {"ticks": int(result.ticks), "steps": int(result.steps), "compile_s": float(result.compile_s), "run_s": float(result.run_s)},
        "instances": [_instance(result, i, span) for i in range(len(result.instances.num_blocks))],
        "warnings": [*warnings, *_warnings(result, int(done.sum()), 0 if sessions is None else sessions["finished"])],
    }
    if sessions is not None:
        summary["sessions"] = sessions
    if slo is not None:
        summary["slo"] = goodput(result, slo, gpus)
    return summary


def _rate(count: int, span: float | None) -> float | None:
    return count / span if span else None


def _peak_fractions(result: Result) -> np.ndarray:
    return result.instances.peak_blocks / np.maximum(result.instances.num_blocks, 1)


def _instance(result: Result, instance: int, span: float | None) -> dict[str, object]:
    """One instance: the requests routed to it, the tokens of those it finished, and how busy it was."""
    mine = result.requests.instance == instance
    done = mine & result.requests.finished
    busy = None
    if result.leaps is not None and span:
        busy = float(leap_durations(result.leaps)[result.leaps.instance == instance].sum()) / span
    return {
        "instance": instance,
        "requests": int(mine.sum()),
        "finished": int(done.sum()),
        "prompt_tokens": int(result.requests.prompt_tokens[done].sum()),
        "output_tokens": int(result.requests.output_tokens[done].sum()),
        "preemptions": int(result.requests.preemptions[mine].sum()),
        "busy_fraction": busy,
        "num_blocks": int(result.instances.num_blocks[instance]),
        "peak_used_fraction": float(_peak_fractions(result)[instance]),
        "prefix_hit_fraction": cached_fraction(result.requests, mine),
        "evicted_blocks": int(result.instances.evicted_blocks[instance]),
    }


def _warnings(result: Result, finished: int, sessions: int) -> list[str]:
    """What a reader of the numbers must know, of so many finished requests and sessions."""
    said = []
    if result.status is not Status.FINISHED:
        said.append(f"{_CAUSES[result.status]}; latencies and throughput cover the {finished} finished requests only")
    for what, of, count in (("latencies", "requests", finished), ("makespans", "sessions", sessions)):
        weak = [name for name, needed in REQUESTS_NEEDED.items() if 0 < count < needed]
        if weak:
            said.append(f"{', '.join(weak)} of the {what} rest on only {count} finished {of}")
    if finished == 0:
        said.append("no request finished: there are no latencies and no throughput")
    return said
