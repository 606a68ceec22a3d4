"""One tick: the next event of the cluster, as a list of stages.

An arrival is routed; then the engine whose plan ends first, if that is before the next arrival, carries it out, lets a finished request go,
forms its next step and plans ahead.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.sessions import answer_one
from simjax.engine.control.reduce import LARGE
from simjax.engine.kv.prefix_cache import evict
from simjax.engine.kv.prefix_slots import Caching, give_back
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.rank import Instance
from simjax.engine.routing.router import next_arrival_s, route_one
from simjax.engine.scheduler.admission import admit_caching, admit_waiting, waiting_window
from simjax.engine.scheduler.commit import Emitted, Gone, commit, release_one
from simjax.engine.scheduler.leap import plan_next
from simjax.engine.scheduler.running import Formation, preempt, preempt_caching, schedule_running
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClosedLoop, ClusterState, PrefixCache
from simjax.latency.step_time import row

LEAP_FIELDS = (
    "instance",
    "start_s",
    "first_step_s",
    "next_step_s",
    "slope_s",
    "steps",
    "prompt_tokens",
    "first_outputs",
    "decodes",
    "outputs",
    "resumed",
    "resumed_gap_s",
    "running",
    "preempted",
    "kv_blocks",
    "kv_blocks_last",
)
CACHED_BLOCKS = "cached_blocks"  # one more column with prefix caching


def leap_fields(shape: EngineShape) -> tuple[str, ...]:
    """Columns of the log."""
    return (*LEAP_FIELDS, CACHED_BLOCKS) if shape.prefix_nodes else LEAP_FIELDS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeapRows:
    """Leaps logged since the host last looked: rows float64[K, F] of `leap_fields`, the first `count` of them filled."""

    rows: Array
    count: Array


def tick(shape: EngineShape, params: ClusterParams, state: ClusterState, log: LeapRows | None) -> tuple[ClusterState, LeapRows | None]:
    """Advance the cluster by one event; a tick that finds nothing to do changes nothing but its own count."""
    if shape.live_routing:
        state = route_one(shape, params, state)
    due_s = state.ranks.plan.due_s()
    i = jnp.argmin(due_s).astype(jnp.int32) if shape.ranks > 1 else 0
    due = due_s[i] < next_arrival_s(params, state) if shape.live_routing else jnp.ones((), bool)
    limits: RankParams = jax.tree.map(lambda x: x[i], params.ranks)
    before: Instance = jax.tree.map(lambda x: x[i], state.ranks)
    now_s, horizon_s = before.plan.end_s, before.plan.horizon_s

    e, emitted = commit(limits, before, 0 if state.cache is None else state.cache.held[i])
    calls, more = state.calls, None
    if calls is not None:
        calls, e, more = answer_one(shape, params, calls, e, limits.api_post_s, due)
    e, gone = release_one(e, jnp.asarray(i), limits.api_post_s, shape.requests)
    if state.cache is None:
        cache = None
        e, formation, demand = schedule_running(limits, e, horizon_s, more)
        e, formation = preempt(limits, e, formation, demand)
        waiting = waiting_window(shape, params, limits, state, i, e)
        # Materialised once: XLA would repeat the admission inside every array that is computed from it.
        e, formation = jax.lax.optimization_barrier(admit_waiting(limits, e, formation, waiting, now_s, horizon_s))
    else:
        more = gone.more if more is None else gone.more | more
        e, formation, cache = _form_caching(shape, params, limits, state, i, e, gone, more, due)
    e = dataclasses.replace(e, plan=plan_next(shape, limits, row(params.step_time, limits.step_time), e, formation, now_s, horizon_s))
    if cache is not None:
        e = dataclasses.replace(e, plan=dataclasses.replace(e.plan, cached=cache.listed[i]))

    if shape.live_routing:
        e = jax.tree.map(lambda new, old: jnp.where(due, new, old), e, before)
    left = due & gone.some
    state = dataclasses.replace(
        state,
        ranks=jax.tree.map(lambda x, new: x.at[i].set(new), state.ranks, e),
        loop=None if state.loop is None else _answer(shape, params, state.loop, before, emitted, limits, due),
        calls=calls,
        cache=cache,
        outcome=state.outcome.at[jnp.where(left, gone.request, shape.requests)].set(gone.outcome),
        done=state.done + left,
        ticks=state.ticks + 1,
        steps=state.steps + jnp.where(due, before.plan.steps, 0),
        overflow=state.overflow | (due & (e.n + e.parked > shape.slots)) if shape.tight else state.overflow,
        peak_blocks=state.peak_blocks.at[i].max(
            jnp.where(due & (before.plan.steps > 0), jnp.maximum(before.plan.blocks, emitted.blocks_last), 0)
        ),
    )
    return state, None if log is None else _note(log, i, before, emitted, due)


def _form_caching(
    shape: EngineShape,
    params: ClusterParams,
    limits: RankParams,
    state: ClusterState,
    i: Array | int,
    e: Instance,
    gone: Gone,
    waits: Array,
    due: Array,
) -> tuple[Instance, Formation, PrefixCache]:
    """The next step of an engine with a prefix cache. Blocks are evicted for the running requests, whose steps come first, and then for
    the one that is admitted, before the next looks at the cache; it finds nothing of what it takes itself.

    The caches are large: they are not chosen between old and new when the engine is not due, but left alone.
    """
    assert state.cache is not None and gone.holding is not None
    now_s, horizon_s = e.plan.end_s, e.plan.horizon_s
    waits = waits | ~due
    caching = Caching.of(params, limits, i)
    cache = give_back(shape, caching, state.cache, gone.request, gone.computed, gone.holding, gone.some & due)
    e, formation, demand = schedule_running(limits, e, horizon_s, waits, cache.held[i])
    e, formation, cache = preempt_caching(shape, limits, e, formation, demand, caching, cache)
    room = lambda f: jnp.where(waits, LARGE, limits.num_blocks - f.blocks)  # noqa: E731
    cache = evict(shape, cache, i, room(formation))
    waiting = waiting_window(shape, params, limits, state, i, e)
    e, formation, cache = admit_caching(shape, limits, e, formation, waiting, now_s, horizon_s, caching, cache)
    return e, formation, evict(shape, cache, i, room(formation))


def _answer(
    shape: EngineShape, params: ClusterParams, loop: ClosedLoop, e: Instance, emitted: Emitted, limits: RankParams, due: Array
) -> ClosedLoop:
    """Clients whose request has finished send their next one after the pause; `e` is the instance before the finished ones left."""
    finished = emitted.finished & due
    send_s = e.plan.end_s + limits.api_post_s + params.requests.think_s[params.served]
    client = jnp.where(finished, loop.client[jnp.minimum(e.slots.request, shape.requests - 1)], shape.clients)
    return dataclasses.replace(loop, send_s=loop.send_s.at[client].set(send_s, mode="drop"))


def _note(log: LeapRows, i: Array | int, e: Instance, emitted: Emitted, due: Array) -> LeapRows:
    """Log the committed plan of instance i, if it had steps."""
    plan = e.plan
    values = (
        i,
        plan.start_s,
        plan.first_s,
        plan.next_s,
        plan.slope_s,
        plan.steps,
        emitted.prompt_tokens,
        emitted.first_outputs,
        emitted.decodes,
        emitted.outputs,
        emitted.resumed,
        emitted.resumed_gap_s,
        plan.running,
        plan.preempted,
        plan.blocks,
        emitted.blocks_last,
        *(() if plan.cached is None else (plan.cached,)),
    )
    values = jnp.stack([jnp.asarray(x).astype(jnp.float64) for x in values])
    # The row is written in any case and counted only when it says something: the next one overwrites it.
    rows = log.rows.at[log.count].set(values)
    return LeapRows(rows, log.count + (due & (plan.steps > 0)))
