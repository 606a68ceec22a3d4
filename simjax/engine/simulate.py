"""Running a cluster to its end: ticks in a compiled loop, a chunk at a time, so that the host can look, log and stop between chunks."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.params import ClusterParams
from simjax.engine.result import LeapLog, RequestLog, Result, Status
from simjax.engine.router import next_arrival_s, route_all
from simjax.engine.shape import EngineShape
from simjax.engine.state import OUTCOME_FIELDS, ClusterState, initial_state
from simjax.engine.tick import LEAP_FIELDS, LeapRows, tick

DEFAULT_MAX_TICKS = 50_000_000


class Chunk(NamedTuple):
    """What a compiled chunk of ticks returns."""

    state: ClusterState
    log: LeapRows | None


_compiled: dict[tuple, Callable[..., Chunk]] = {}


def pending(params: ClusterParams, state: ClusterState) -> Array:
    """Whether requests are left and something can still happen, bool[]."""
    event_s = jnp.minimum(jnp.min(state.instances.plan.end_s), next_arrival_s(params, state))
    return (state.done < params.requests.count) & jnp.isfinite(event_s)


@partial(jax.jit, static_argnums=0)
def start(shape: EngineShape, params: ClusterParams) -> ClusterState:
    """The cluster before its first tick."""
    state = initial_state(shape, params)
    return state if shape.live_routing else route_all(shape, params, state)


def advance(shape: EngineShape, params: ClusterParams, state: ClusterState, ticks: Array) -> Chunk:
    """Up to `ticks` ticks of the cluster, int32[]; fewer when it is done, stalled, or the leap log is full."""
    log = None
    if shape.log_rows:
        rows = jnp.zeros((shape.log_rows + 1, len(LEAP_FIELDS)), jnp.float64)
        log = LeapRows(rows, jnp.zeros((), jnp.int32))
    limit = state.ticks + ticks

    def more(carry: Chunk) -> Array:
        go = pending(params, carry.state) & (carry.state.ticks < limit)
        return go if carry.log is None else go & (carry.log.count < shape.log_rows)

    return jax.lax.while_loop(more, lambda carry: Chunk(*tick(shape, params, *carry)), Chunk(state, log))


def compiled_advance(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Callable[..., Chunk]:
    """The compiled `advance` for these shapes."""
    leaves, structure = jax.tree.flatten((params, state))
    key = (jax.default_backend(), shape, structure, tuple((x.shape, x.dtype) for x in leaves))
    if key not in _compiled:
        _compiled[key] = jax.jit(partial(advance, shape)).lower(params, state, jnp.zeros((), jnp.int32)).compile()
    return _compiled[key]


def compile_count() -> int:
    """Distinct engine programs compiled in this process."""
    return len(_compiled)


def simulate(
    shape: EngineShape,
    params: ClusterParams,
    max_ticks: int = DEFAULT_MAX_TICKS,
    on_progress: Callable[[int, int], None] | None = None,
    ticks_per_call: int = 65_536,
) -> Result:
    """Run the cluster until every request has finished, nothing can happen any more, or `max_ticks` ticks were taken.

    Args:
        shape: static sizes.
        params: leaves as numpy or jax arrays, see `ClusterParams`.
        max_ticks: bound on the number of ticks; a run that reaches it ends with status TICK_LIMIT.
        on_progress: called between chunks with (requests finished, requests in all).
        ticks_per_call: most ticks between two looks of the host.
    """
    with jax.enable_x64(True):
        began = time.perf_counter()
        params = jax.tree.map(jnp.asarray, params)
        state = start(shape, params)
        program = compiled_advance(shape, params, state)
        compile_s = time.perf_counter() - began
        began = time.perf_counter()
        total, logs, status = int(params.requests.count), [], Status.FINISHED
        while True:
            budget = min(ticks_per_call, max_ticks - int(state.ticks))
            state, log = program(params, state, jnp.asarray(budget, jnp.int32))
            if log is not None:
                logs.append(np.asarray(log.rows)[: int(log.count)])
            if on_progress is not None:
                on_progress(int(state.done), total)
            if int(state.done) >= total:
                break
            if not bool(pending(params, state)):
                status = Status.STALLED
                break
            if int(state.ticks) >= max_ticks:
                status = Status.TICK_LIMIT
                break
        run_s = time.perf_counter() - began
        return _result(shape, params, state, logs, status, compile_s, run_s)


def _result(
    shape: EngineShape, params: ClusterParams, state: ClusterState, logs: list[np.ndarray], status: Status, compile_s: float, run_s: float
) -> Result:
    count = int(params.requests.count)
    outcome = dict(zip(OUTCOME_FIELDS, np.asarray(state.outcome)[:count].T, strict=True))
    finished = np.isfinite(outcome["finish_s"])
    instance = np.where(finished, outcome["instance"], -1).astype(np.int32)
    preemptions = np.where(finished, outcome["preemptions"], 0).astype(np.int32)
    scheduled_s, first_token_s = outcome["scheduled_s"].copy(), outcome["first_token_s"].copy()
    if not finished.all():
        _fill_in_unfinished(shape, params, state, instance, preemptions, scheduled_s, first_token_s)
    arrival_s = np.asarray(params.requests.arrival_s if state.loop is None else state.loop.arrival_s)[:count]
    requests = RequestLog(
        instance=instance,
        prompt_tokens=np.asarray(params.requests.prompt_tokens)[:count],
        output_tokens=np.asarray(params.requests.output_tokens)[:count],
        cached_tokens=np.zeros(count, np.int32),
        arrival_s=arrival_s,
        scheduled_s=scheduled_s,
        first_token_s=first_token_s,
        finish_s=outcome["finish_s"],
        preemptions=preemptions,
        finished=finished,
    )
    leaps = None
    if shape.log_rows:
        columns = dict(zip(LEAP_FIELDS, np.concatenate(logs).T, strict=True))
        leaps = LeapLog(**{k: v if k.endswith("_s") else v.astype(np.int32) for k, v in columns.items()})
    return Result(
        status=status,
        requests=requests,
        leaps=leaps,
        num_blocks=np.asarray(params.instances.num_blocks),
        peak_blocks=np.asarray(state.peak_blocks),
        ticks=int(state.ticks),
        steps=int(state.steps),
        compile_s=compile_s,
        run_s=run_s,
    )


def _fill_in_unfinished(
    shape: EngineShape,
    params: ClusterParams,
    state: ClusterState,
    instance: np.ndarray,
    preemptions: np.ndarray,
    scheduled_s: np.ndarray,
    first_token_s: np.ndarray,
) -> None:
    """Requests still in the engines: what is known of them so far, read from their slots into the arrays over requests."""
    e = state.instances
    slots = jax.tree.map(np.asarray, e.slots)
    post_s = np.asarray(params.instances.api_post_s)
    for i, (n, parked) in enumerate(zip(np.asarray(e.n), np.asarray(e.parked), strict=True)):
        inside = slice(0, int(n + parked))
        request = slots.request[i, inside]
        instance[request] = i
        preemptions[request] = slots.preemptions[i, inside]
        scheduled_s[request] = slots.scheduled_s[i, inside]
        first_token_s[request] = slots.first_token_s[i, inside] + post_s[i]
