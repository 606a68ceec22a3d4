"""A run as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing: steps, queues and KV blocks of ranks, and the life of requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import NEVER, Result
from simjax.errors import SimjaxError
from simjax.metrics.steps import leap_durations

_US = 1e6
_REQUESTS = 1_000_000  # the process of requests, apart from those of ranks


def trace_events(result: Result) -> list[dict[str, Any]]:
    """Events of the Trace Event Format, times in microseconds: a process for each rank with a slice for each leap and counters, and one in
    which every finished request has its phases.

    Raises:
        SimjaxError: the run has no leap log.
    """
    if result.leaps is None:
        raise SimjaxError("explain: the run has no leap log; simulate it by simjax.run")
    result = by_rank(result)
    leaps = result.leaps
    assert leaps is not None
    events = [_named(i, f"rank {i}") for i in range(len(result.instances.num_blocks))]
    events.append(_named(_REQUESTS, "requests"))
    spans = leap_durations(leaps)
    columns = {name: getattr(leaps, name).tolist() for name in ("instance", "start_s", "steps", "prompt_tokens", "running", "preempted")}
    for k, (rank, start_s, steps, tokens, running, preempted) in enumerate(zip(*columns.values(), strict=True)):
        kind = "prefill and decode" if tokens and leaps.decodes[k] else "prefill" if tokens else "decode"
        args = {"steps": steps, "prompt_tokens": tokens, "output_tokens": int(leaps.first_outputs[k] + (steps - 1) * leaps.outputs[k])}
        at = {"pid": rank, "tid": 0, "ts": start_s * _US}
        events.append({"ph": "X", "name": kind, "cat": "steps", "dur": float(spans[k]) * _US, "args": args, **at})
        events.append({"ph": "C", "name": "requests", "args": {"running": running, "preempted": preempted}, **at})
        events.append({"ph": "C", "name": "KV blocks", "args": {"allocated": int(leaps.kv_blocks[k])}, **at})
    for r in np.flatnonzero(result.requests.finished).tolist():
        events += _life(result, r)
    return events


def _life(result: Result, r: int) -> list[dict[str, Any]]:
    """The phases of one request, nested in its whole life."""
    log, handovers = result.requests, result.handovers
    times = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
    arrival_s, scheduled_s, first_s, finish_s = (float(getattr(log, x)[r]) for x in times)
    phases = [("API and queue", arrival_s, scheduled_s)]
    if handovers is not None and handovers.prefill_instance[r] >= 0 and handovers.transfer_end_s[r] != NEVER:
        end_s, begin_s, landed_s = (float(getattr(handovers, x)[r]) for x in ("prefill_finish_s", "transfer_start_s", "transfer_end_s"))
        phases += [("prefill", scheduled_s, end_s), ("hand-over", end_s, begin_s), ("transfer", begin_s, landed_s)]
        phases += [("first decode step", landed_s, first_s)]
    else:
        phases += [("prefill", scheduled_s, first_s)]
    phases += [("decode", first_s, finish_s)]
    args = {"rank": int(log.instance[r]), "preemptions": int(log.preemptions[r])}
    args |= {name: int(getattr(log, name)[r]) for name in ("prompt_tokens", "output_tokens", "cached_tokens")}
    whole = [(f"request {r}", arrival_s, finish_s, args)]
    events = []
    for name, start_s, stop_s, more in [*whole, *((*phase, {}) for phase in phases)]:
        at = {"cat": "request", "id": r, "pid": _REQUESTS, "tid": 0, "name": name}
        events += [{"ph": "b", "ts": start_s * _US, "args": more, **at}, {"ph": "e", "ts": stop_s * _US, **at}]
    return events


def _named(process: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}}
