"""Running a cluster to its end: ticks in a compiled loop, a chunk at a time, so that the host can look, log and stop between chunks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.accounting.leap_log import LeapRows, NoLog, empty_log
from simjax.engine.accounting.totals import Overflow
from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.whole_loops import loops_are_whole
from simjax.engine.host.collect import handover_log, instance_log, leap_log, request_log, schedule
from simjax.engine.host.lowering.handover import MORE_ROWS
from simjax.engine.host.ranks import of_instances
from simjax.engine.host.result import Result, Status
from simjax.engine.params import ClusterParams
from simjax.engine.programs import Effort, compiled
from simjax.engine.routing.route import route_all
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState, initial_state
from simjax.engine.tick import tick

DEFAULT_MAX_TICKS = 50_000_000
BRIEF_REQUESTS, BRIEF_REQUESTS_WHOLE = 256, 512  # runs of as many take some 30 ms longer if compiled in a second less, or some if whole


class Chunk(NamedTuple):
    """Results of a compiled chunk of ticks; `pending` says whether more ticks would change anything, bool[]."""

    state: ClusterState
    log: LeapRows | NoLog
    pending: Array


def pending(params: ClusterParams, state: ClusterState) -> Array:
    """Whether requests are left, something can still happen, and no buffer was too small; bool[]."""
    event_s = state.handovers.next_event_s(jnp.minimum(jnp.min(state.ranks.plan.end_s), next_arrival_s(params, state)))
    going = (state.num_finished < params.request_count) | state.groups.awake()
    return going & jnp.isfinite(event_s) & (state.overflow == 0)


def start(shape: EngineShape, params: ClusterParams) -> ClusterState:
    """The cluster before its first tick."""
    state = initial_state(shape, params)
    return state if shape.live_routing else route_all(shape, params, state)


def advance(shape: EngineShape, params: ClusterParams, state: ClusterState, ticks: Array) -> Chunk:
    """Up to `ticks` ticks of the cluster, int32[]; fewer when it is finished, stalled, or the leap log is full."""
    limit = state.ticks + ticks

    def more(carry: tuple[ClusterState, LeapRows | NoLog]) -> Array:
        state, log = carry
        return pending(params, state) & (state.ticks < limit) & log.has_room()

    state, log = jax.lax.while_loop(more, lambda carry: tick(shape, params, *carry), (state, empty_log(shape)))
    return Chunk(state, log, pending(params, state))


def on_device(tree: Any) -> Any:
    """Arrays on the default device, those that are there already left as they are.

    NumPy's scalars become arrays first: JAX compiles a program to convert each of them.
    """
    return jax.device_put(jax.tree.map(lambda x: x if isinstance(x, Array) else np.asarray(x), tree))


def on_host(tree: Any) -> Any:
    """Arrays of numpy: what reads results picks a few values of each, and of JAX's arrays that compiles a program for every size."""
    return jax.tree.map(np.asarray, tree)


def effort_for(shape: EngineShape) -> Effort:
    """How well a run is compiled that is not one of a batch."""
    few = BRIEF_REQUESTS_WHOLE if loops_are_whole() else BRIEF_REQUESTS
    return Effort.BRIEF if shape.requests <= few else Effort.MEDIUM


def compiled_start(shape: EngineShape, params: ClusterParams) -> Callable[[ClusterParams], ClusterState]:
    """The compiled `start` for these shapes."""
    return compiled(partial(start, shape), ("start", shape), (params,), effort_for(shape), keep=True)


def compiled_advance(shape: EngineShape, params: ClusterParams, state: ClusterState) -> Callable[..., Chunk]:
    """The compiled `advance` for these shapes."""
    arguments = (params, state, jax.device_put(np.zeros((), np.int32)))
    return compiled(partial(advance, shape), ("advance", shape), arguments, effort_for(shape), keep=True)


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
        placed = on_device(params)
        state = compiled_start(shape, placed)(placed)
        program = compiled_advance(shape, placed, state)
        compile_s = time.perf_counter() - began
        began = time.perf_counter()
        total, status = int(np.asarray(params.requests.count)[0]), Status.FINISHED
        pieces: list[np.ndarray] = []
        while True:
            budget = min(ticks_per_call, max_ticks - int(state.ticks))
            state, log, going = program(placed, state, np.asarray(budget, np.int32))
            pieces += log.collected()
            if on_progress is not None:
                on_progress(int(state.num_finished), total)
            if not bool(going):
                status = Status.FINISHED if int(state.num_finished) >= total else Status.STALLED
                break
            if int(state.ticks) >= max_ticks:
                status = Status.TICK_LIMIT
                break
        if int(state.overflow) & Overflow.HANDOVERS:  # more requests were on their way than the table holds
            return simulate(replace(shape, handovers=shape.handovers * MORE_ROWS), params, max_ticks, on_progress, ticks_per_call)
        if int(state.overflow) & Overflow.CACHES:
            return simulate(replace(shape, prefix_room=2 * shape.prefix_room), params, max_ticks, on_progress, ticks_per_call)
        if int(state.overflow) & Overflow.TIERS:
            larger = replace(shape, slots=2 * shape.slots, tier_room=2 * shape.tier_room)
            return simulate(larger, params, max_ticks, on_progress, ticks_per_call)
        run_s = time.perf_counter() - began
        params, state = on_host(params), on_host(state)
        requests, handovers = handover_log(shape, params, state, request_log(shape, params, state, status))
        result = Result(
            status=status,
            requests=requests,
            leaps=leap_log(shape, pieces) if shape.log_rows else None,
            instances=instance_log(shape, params.ranks, state),
            ticks=int(state.ticks),
            steps=int(state.steps),
            compile_s=compile_s,
            run_s=run_s,
            due_s=schedule(shape, params),
            handovers=handovers,
        )
        return of_instances(result, np.asarray(params.ranks.instance)) if shape.several_ranks else result
