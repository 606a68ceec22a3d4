"""Running a cluster to its end: ticks in a compiled loop, a chunk at a time, so that the host can look, log and stop between chunks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.host.collect import evicted_blocks, leap_log, request_log
from simjax.engine.host.result import Result, Status
from simjax.engine.params import ClusterParams
from simjax.engine.routing.router import next_arrival_s, route_all
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, initial_state
from simjax.engine.tick import LeapRows, leap_fields, tick

DEFAULT_MAX_TICKS = 50_000_000


class Chunk(NamedTuple):
    """What a compiled chunk of ticks returns; `pending` says whether more ticks would change anything, bool[]."""

    state: ClusterState
    log: LeapRows | None
    pending: Array


_compiled: dict[tuple, Callable[..., Any]] = {}
_compiling: dict[tuple, threading.Lock] = {}
_lock = threading.Lock()


def pending(params: ClusterParams, state: ClusterState) -> Array:
    """Whether requests are left and something can still happen, in as many slots as there are; bool[]."""
    event_s = jnp.minimum(jnp.min(state.ranks.plan.end_s), next_arrival_s(params, state))
    return (state.done < params.request_count) & jnp.isfinite(event_s) & ~state.overflow


@partial(jax.jit, static_argnums=0)
def start(shape: EngineShape, params: ClusterParams) -> ClusterState:
    """The cluster before its first tick."""
    state = initial_state(shape, params)
    return state if shape.live_routing else route_all(shape, params, state)


def advance(shape: EngineShape, params: ClusterParams, state: ClusterState, ticks: Array) -> Chunk:
    """Up to `ticks` ticks of the cluster, int32[]; fewer when it is done, stalled, or the leap log is full."""
    log = None
    if shape.log_rows:
        rows = jnp.zeros((shape.log_rows + 1, len(leap_fields(shape))), jnp.float64)
        log = LeapRows(rows, jnp.zeros((), jnp.int32))
    limit = state.ticks + ticks

    def more(carry: tuple[ClusterState, LeapRows | None]) -> Array:
        state, log = carry
        go = pending(params, state) & (state.ticks < limit)
        return go if log is None else go & (log.count < shape.log_rows)

    state, log = jax.lax.while_loop(more, lambda carry: tick(shape, params, *carry), (state, log))
    return Chunk(state, log, pending(params, state))


def compiled(function: Callable[..., Any], static: tuple, arguments: tuple) -> Callable[..., Any]:
    """`function` compiled for arguments of these shapes on the device that holds them, once in a process; `static` tells apart functions
    that are compiled for other static values.
    """
    leaves, structure = jax.tree.flatten(arguments)
    where = sorted({(device.platform, device.id) for x in leaves for device in x.devices()})  # the first of each kind has id 0
    key = (tuple(where), static, structure, tuple((x.shape, x.dtype) for x in leaves))
    with _lock:
        busy = _compiling.setdefault(key, threading.Lock())
    with busy:  # of threads that want the same program one compiles it
        if key not in _compiled:
            _compiled[key] = jax.jit(function).lower(*arguments).compile()
    return _compiled[key]


def compiled_advance(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Callable[..., Chunk]:
    """The compiled `advance` for these shapes."""
    return compiled(partial(advance, shape), (shape,), (params, state, jnp.zeros((), jnp.int32)))


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
        total, logs, status = int(params.requests.count[0]), [], Status.FINISHED
        while True:
            budget = min(ticks_per_call, max_ticks - int(state.ticks))
            state, log, going = program(params, state, jnp.asarray(budget, jnp.int32))
            if log is not None:
                logs.append(np.asarray(log.rows)[: int(log.count)])
            if on_progress is not None:
                on_progress(int(state.done), total)
            if int(state.done) >= total:
                break
            if not bool(going):
                status = Status.STALLED
                break
            if int(state.ticks) >= max_ticks:
                status = Status.TICK_LIMIT
                break
        run_s = time.perf_counter() - began
        requests = request_log(shape, params, state, status)
        leaps = leap_log(shape, logs) if shape.log_rows else None
        blocks, peak = np.asarray(params.ranks.num_blocks), np.asarray(state.peak_blocks)
        return Result(status, requests, leaps, blocks, peak, int(state.ticks), int(state.steps), compile_s, run_s, evicted_blocks(state))
