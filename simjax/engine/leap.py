"""The plan of an engine whose next step is formed: how long the step takes, and how many pure-decode steps can follow it in one leap."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from simjax.engine.blocks import blocks_of
from simjax.engine.params import InstanceParams
from simjax.engine.plan import cut_short, take_steps
from simjax.engine.scheduler import Formation
from simjax.engine.shape import EngineShape
from simjax.engine.state import Instance, Plan
from simjax.latency.cost import CostRow, decode_steps, mixed_step_s

MANY = 2**30
BLOCK_STEPS = (1, 2, 3, 4, 6, 8, 12, 16)  # numbers of steps tried for the blocks they take


def steps_within_blocks(context: Array, running: Array, n: Array, free: Array, block_size: Array) -> Array:
    """A number of decode steps, int32 >= 0, that the free blocks surely allow to all running requests; never more than they do allow.

    The larger of two bounds: one from whole blocks (good when many are free), one from counting, for a few numbers of steps m up to a block,
    the requests whose last block has fewer than m tokens of room (good when almost none is free).
    """
    size = block_size.astype(jnp.float64)
    many = jnp.floor(free * size / jnp.maximum(n, 1) - size + 1.0)
    room = blocks_of(context, block_size) * block_size - context
    tried = jnp.asarray(BLOCK_STEPS, jnp.int32)
    short = jnp.sum(running[:, None] & (room[:, None] < tried), axis=0)
    few = jnp.max(jnp.where((short <= free) & (tried <= block_size), tried, 0))
    return jnp.maximum(few, jnp.clip(many, 0, MANY).astype(jnp.int32))


def plan_next(
    shape: EngineShape, limits: InstanceParams, cost: CostRow, e: Instance, f: Formation, now_s: Array, horizon_s: Array
) -> Plan:
    """The plan that follows a formation at `now_s` by an engine that saw what happened up to `horizon_s`."""
    s = e.slots
    position = jnp.arange(s.request.shape[0])
    unfinished = s.target < s.final
    running = (position < e.n) & unfinished
    parked = (position >= e.n) & (position < e.n + e.parked) & unfinished
    n = jnp.sum(running, dtype=jnp.int32)
    preempted = jnp.sum(parked, dtype=jnp.int32)
    tokens = jnp.sum(s.new, dtype=jnp.int32)
    f64sum = lambda mask, x: jnp.sum(jnp.where(mask, x, 0), dtype=jnp.int64)  # noqa: E731

    first_s = mixed_step_s(cost, s.new, s.computed)
    plan = Plan(
        start_s=now_s,
        end_s=now_s,
        horizon_s=horizon_s,
        first_s=first_s,
        next_s=jnp.zeros((), jnp.float64),
        slope_s=jnp.zeros((), jnp.float64),
        steps=jnp.zeros((), jnp.int32),
        open=~f.hopeless,
        tokens=tokens,
        running=n,
        preempted=preempted,
        blocks=f.blocks,
        kv_tokens=f64sum(running, s.computed),
        preempted_tokens=f64sum(parked, s.target),
    )
    steps = jnp.ones((), jnp.int32)
    if shape.leap:
        plan, steps = leap(limits, cost, e, f, plan, running)
    busy = cut_short(take_steps(plan, steps, limits.async_scheduling), f.next_queued_s, limits.async_scheduling)
    return _choose(f, busy, plan, tokens, now_s, horizon_s)


def leap(
    limits: InstanceParams, cost: CostRow, e: Instance, f: Formation, plan: Plan, running: Array
) -> tuple[Plan, Array]:
    """The plan with the cost of its later steps, and how many steps it may have before anything but the contexts changes."""
    s, n = e.slots, plan.running
    context = s.computed + s.new
    next_s, slope_s, valid = decode_steps(
        cost,
        jnp.maximum(n, 1),
        jnp.sum(jnp.where(running, context, 0), dtype=jnp.int64),
        jnp.min(jnp.where(running, context, MANY)),
        jnp.max(jnp.where(running, context, 0)),
    )
    all_decode_next = jnp.all(~running | (context == s.target)) & (n <= limits.max_num_batched_tokens)
    to_finish = jnp.min(jnp.where(running, s.final - s.target, MANY))
    to_shortage = steps_within_blocks(context, running, n, limits.num_blocks - f.blocks, limits.block_size)
    most = jnp.minimum(jnp.minimum(to_finish, 1 + jnp.minimum(valid, MANY)), 1 + to_shortage)
    allowed = all_decode_next & (f.preempted == 0) & ~(f.refused & ~f.hopeless)
    steps = jnp.where(allowed, jnp.maximum(most, 1), 1).astype(jnp.int32)
    return dataclasses.replace(plan, next_s=next_s, slope_s=slope_s), steps


def _choose(f: Formation, busy: Plan, plan: Plan, tokens: Array, now_s: Array, horizon_s: Array) -> Plan:
    """A busy plan; or none: go on forming, form again with open eyes (an engine that was busy, or has requests on their way out), or sleep."""
    steps = jnp.where(f.unfinished | (tokens == 0), 0, busy.steps)
    again = f.unfinished | (horizon_s < now_s) | f.leaving
    idle_end_s = jnp.where(again, now_s, jnp.maximum(f.next_queued_s, now_s))
    idle_horizon_s = jnp.where(f.unfinished, horizon_s, idle_end_s)
    return dataclasses.replace(
        plan,
        steps=steps.astype(jnp.int32),
        end_s=jnp.where(steps > 0, busy.end_s, idle_end_s),
        horizon_s=jnp.where(steps > 0, busy.horizon_s, idle_horizon_s),
        open=jnp.where(steps > 0, busy.open, ~again),
    )


