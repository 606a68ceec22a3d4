"""One tick: the next event of the cluster, as a list of stages.

An arrival is routed; then the engine whose plan ends first, if that is before the next arrival, carries it out, lets a finished request go,
forms its next step and plans ahead.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.admission import admit_waiting, waiting_window
from simjax.engine.commit import Emitted, commit, release_one
from simjax.engine.leap import plan_next
from simjax.engine.params import ClusterParams, InstanceParams
from simjax.engine.router import next_arrival_s, route_one
from simjax.engine.scheduler import schedule_running
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClosedLoop, ClusterState, Instance
from simjax.latency.cost import row

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeapRows:
    """Leaps logged since the host last looked: rows float64[K, F] of `LEAP_FIELDS`, the first `count` of them filled."""

    rows: Array
    count: Array


def tick(shape: EngineShape, params: ClusterParams, state: ClusterState, log: LeapRows | None) -> tuple[ClusterState, LeapRows | None]:
    """Advance the cluster by one event; a tick that finds nothing to do changes nothing but its own count."""
    if shape.live_routing:
        state = route_one(shape, params, state)
    due_s = state.instances.plan.due_s()
    i = jnp.argmin(due_s).astype(jnp.int32) if shape.instances > 1 else 0
    due = due_s[i] < next_arrival_s(params, state) if shape.live_routing else jnp.ones((), bool)
    limits: InstanceParams = jax.tree.map(lambda x: x[i], params.instances)
    before: Instance = jax.tree.map(lambda x: x[i], state.instances)
    now_s, horizon_s = before.plan.end_s, before.plan.horizon_s

    e, emitted = commit(limits, before)
    e, request, outcome = release_one(e, jnp.asarray(i), limits.api_post_s, shape.requests)
    e, formation = schedule_running(limits, e, horizon_s)
    waiting = waiting_window(shape, params, limits, state, i, e)
    # Materialised once: XLA would repeat the admission inside every array that is computed from it.
    e, formation = jax.lax.optimization_barrier(admit_waiting(limits, e, formation, waiting, now_s, horizon_s))
    e = dataclasses.replace(e, plan=plan_next(shape, limits, row(params.cost, limits.cost), e, formation, now_s, horizon_s))

    if shape.live_routing:
        e = jax.tree.map(lambda new, old: jnp.where(due, new, old), e, before)
    left = due & (request < shape.requests)
    state = dataclasses.replace(
        state,
        instances=jax.tree.map(lambda x, new: x.at[i].set(new), state.instances, e),
        loop=None if state.loop is None else _answer(shape, params, state.loop, before, emitted, limits, due),
        outcome=state.outcome.at[jnp.where(left, request, shape.requests)].set(outcome),
        done=state.done + left,
        ticks=state.ticks + 1,
        steps=state.steps + jnp.where(due, before.plan.steps, 0),
        overflow=state.overflow | (due & (e.n + e.parked > shape.slots)) if shape.tight else state.overflow,
        peak_blocks=state.peak_blocks.at[i].max(
            jnp.where(due & (before.plan.steps > 0), jnp.maximum(before.plan.blocks, emitted.blocks_last), 0)
        ),
    )
    return state, None if log is None else _note(log, i, before, emitted, due)


def _answer(
    shape: EngineShape, params: ClusterParams, loop: ClosedLoop, e: Instance, emitted: Emitted, limits: InstanceParams, due: Array
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
    )
    values = jnp.stack([jnp.asarray(x).astype(jnp.float64) for x in values])
    # The row is written in any case and counted only when it says something: the next one overwrites it.
    rows = log.rows.at[log.count].set(values)
    return LeapRows(rows, log.count + (due & (plan.steps > 0)))
