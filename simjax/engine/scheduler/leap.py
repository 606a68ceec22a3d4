"""The plan of an engine whose next step is formed: how long the step takes, and how many pure-decode steps can follow it in one leap."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import RankParams
from simjax.engine.rank import Instance, Plan
from simjax.engine.scheduler.plan import cut_short, take_steps
from simjax.engine.scheduler.running import Formation
from simjax.engine.shape import EngineShape
from simjax.latency.step_time import StepTimeRow, decode_steps, mixed_step_s

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64

MANY = 2**30
BLOCK_STEPS = (1, 2, 3, 4, 6, 8, 12, 16)  # numbers of steps tried for the blocks they take


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """The running requests after the first step, which go on decoding.

    Attributes:
        running: bool[S+W]. context: tokens in the cache, 0 when not running.
        n, kv_max, to_finish: requests, longest context, tokens until the first of them finishes.
        kv_sum: sum of the contexts.
        some_behind: one of them has not caught up with its target, so more than decode is left.
    """

    running: Bool[Array, " A"]
    context: Int32[Array, " A"]
    n: Int32[Array, ""]
    kv_sum: Int64[Array, ""]
    kv_max: Int32[Array, ""]
    to_finish: Int32[Array, ""]
    some_behind: Bool[Array, ""]


def steps_within_blocks(batch: Decoding, free: Array, block_size: Array, wanted: Array) -> Array:
    """A number of decode steps, int32 >= 0, that the free blocks surely allow to all running requests: never more than they do.

    The larger of two bounds. One is from whole blocks, good when many are free. The other, only if that is less than `wanted`, counts for a
    few numbers of steps m up to a block the requests whose last block has fewer than m tokens of room; good when almost none is free.
    """
    size = block_size.astype(jnp.float64)
    many = jnp.clip(jnp.floor(free * size / jnp.maximum(batch.n, 1) - size + 1.0), 0, MANY).astype(jnp.int32)

    def count(running: Array, context: Array, free: Array, block_size: Array) -> Array:
        room = blocks_of(context, block_size) * block_size - context
        short, _, _ = reduce_slots([running & (room < m) for m in BLOCK_STEPS])
        allowed = [jnp.where((taken <= free) & (m <= block_size), m, 0) for m, taken in zip(BLOCK_STEPS, short, strict=True)]
        return jnp.max(jnp.stack(allowed)).astype(jnp.int32)

    none = lambda *_: jnp.zeros((), jnp.int32)  # noqa: E731
    return jnp.maximum(many, cond_any(many < wanted, count, none, batch.running, batch.context, free, block_size))


def plan_next(
    shape: EngineShape, limits: RankParams, step_time: StepTimeRow, e: Instance, f: Formation, now_s: Array, horizon_s: Array
) -> Plan:
    """The plan that follows a formation at `now_s` by an engine that saw what happened up to `horizon_s`."""
    s = e.slots
    position = jnp.arange(s.request.shape[0], dtype=jnp.int32)
    unfinished = s.target < s.final
    running = (position < e.n) & unfinished
    parked = (position >= e.n) & (position < e.n + e.parked) & unfinished
    context = jnp.where(running, s.computed + s.new, 0)
    behind = running & (context < s.target)
    left = jnp.where(running, s.final - s.target, MANY)
    long = lambda mask, x: jnp.where(mask, x, 0).astype(jnp.int64)  # noqa: E731
    (n, preempted, tokens, kv_tokens, preempted_tokens, kv_sum, all_behind), (kv_max,), (to_finish,) = reduce_slots(
        [running, parked, s.new, long(running, s.computed), long(parked, s.target), context.astype(jnp.int64), behind], [context], [left]
    )

    first_s = mixed_step_s(step_time, s.new, s.computed)
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
        kv_tokens=kv_tokens,
        preempted_tokens=preempted_tokens,
    )
    steps = jnp.ones((), jnp.int32)
    if shape.leap:
        batch = Decoding(running, context, n, kv_sum, kv_max, to_finish, all_behind > 0)
        plan, steps = leap(limits, step_time, f, plan, batch)
    busy = cut_short(take_steps(plan, steps, limits.async_scheduling), f.next_queued_s, limits.async_scheduling)
    return _choose(f, busy, plan, tokens, now_s, horizon_s)


def leap(limits: RankParams, step_time: StepTimeRow, f: Formation, plan: Plan, batch: Decoding) -> tuple[Plan, Array]:
    """The plan with the cost of its later steps, and how many steps it may have before anything but the contexts changes."""
    next_s, slope_s, valid = decode_steps(step_time, jnp.maximum(batch.n, 1), batch.kv_sum, batch.kv_max)
    allowed = ~batch.some_behind & (batch.n <= limits.max_num_batched_tokens) & (f.preempted == 0) & ~(f.refused & ~f.hopeless)
    most = jnp.where(allowed, jnp.minimum(batch.to_finish, 1 + jnp.minimum(valid, MANY)), 1)
    steps = jnp.minimum(most, 1 + steps_within_blocks(batch, limits.num_blocks - f.blocks, limits.block_size, most - 1))
    return dataclasses.replace(plan, next_s=next_s, slope_s=slope_s), jnp.maximum(steps, 1).astype(jnp.int32)


def _choose(f: Formation, busy: Plan, plan: Plan, tokens: Array, now_s: Array, horizon_s: Array) -> Plan:
    """A busy plan; or none: go on forming, form again (an engine that was busy, or has requests on their way out), or sleep."""
    steps = jnp.where(f.goes_on | (tokens == 0), 0, busy.steps)
    again = f.goes_on | (horizon_s < now_s) | f.leaving
    idle_end_s = jnp.where(again, now_s, jnp.maximum(f.next_queued_s, now_s))
    idle_horizon_s = jnp.where(f.goes_on, horizon_s, idle_end_s)
    return dataclasses.replace(
        plan,
        steps=steps.astype(jnp.int32),
        end_s=jnp.where(steps > 0, busy.end_s, idle_end_s),
        horizon_s=jnp.where(steps > 0, busy.horizon_s, idle_horizon_s),
        open=jnp.where(steps > 0, busy.open, ~again),
    )
