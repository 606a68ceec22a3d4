"""The plan of a rank whose next step is formed: its step time, and the pure-decode steps that can follow it in one leap."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.control.together import together
from simjax.engine.handover.looks import plan_looks
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.params import ClusterParams
from simjax.engine.power.work import planned_work, verified_pairs
from simjax.engine.rank import Plan, Slots
from simjax.engine.scheduler.formation import Formation
from simjax.engine.scheduler.plan import cut_short, take_steps
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn
from simjax.latency.attention.coefficients import DecodeBatch
from simjax.latency.step_time import StepTimeRow, decode_steps, mixed_parts, row, step_s

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64

MANY = 2**30
BLOCK_STEPS = (1, 2, 3, 4, 6, 8, 12, 16)  # numbers of steps tried for the blocks they take


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """The running requests after the first step, which continue to decode.

    Attributes:
        running: requests that run, over the slots.
        context: their tokens in the KV cache, 0 where none runs.
        num_running, kv_max, to_finish: their number, longest context, and tokens until the first of them finishes.
        kv_sum: sum of the contexts.
        some_behind: one of them has not caught up with its target, so more than decode is left.
    """

    running: Bool[Array, " A"]
    context: Int32[Array, " A"]
    num_running: Int32[Array, ""]
    kv_sum: Int64[Array, ""]
    kv_max: Int32[Array, ""]
    to_finish: Int32[Array, ""]
    some_behind: Bool[Array, ""]


def plan_next(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Plan what follows the formation: its step, and a leap of decode steps."""
    limits, rank, slots, f = turn.limits, turn.rank, turn.rank.slots, turn.formation
    plan, decoding, all_end = survey(shape, turn)
    step_time = row(params.step_time, limits.step_time)
    prompts = prompts_of(params, slots) if asks_for_prompts(step_time) else None
    parts = mixed_parts(step_time, slots.num_new_tokens, slots.num_computed_tokens, slots.drafts.decoding, plan.tokens, prompts)
    plan, steps = dataclasses.replace(plan, first_s=step_s(step_time, parts)), jnp.ones((), jnp.int32)
    if shape.leap and not shape.speculation:
        plan, steps = leap(turn, step_time, plan, decoding, prompts)
    busy = cut_short(take_steps(plan, steps, limits.async_scheduling), f.next_queued_s, limits.async_scheduling)
    busy, plan = together((busy, plan))
    if shape.power:
        assert params.power is not None
        verified = verified_pairs(slots) if shape.speculation else None
        work = planned_work(params.power, turn.i, step_time, parts, decoding, verified)
        busy, plan = dataclasses.replace(busy, work=work), dataclasses.replace(plan, work=work)
    if all_end is not None:
        return plan_looks(params, turn, f, busy, plan, all_end)
    return dataclasses.replace(turn, rank=dataclasses.replace(rank, plan=_choose(f, busy, plan)))


def survey(shape: EngineShape, turn: Turn) -> tuple[Plan, Decoding, Bool[Array, ""] | None]:
    """What was formed: a plan that has no steps and no times yet, the requests that will continue to decode, and with hand-overs whether
    all requests of the rank end with the step.
    """
    rank, slots, f = turn.rank, turn.rank.slots, turn.formation
    position, unfinished = slots.position, ~slots.finished
    running = (position < rank.num_running) & unfinished
    waiting = (position >= rank.num_running) & (position < rank.num_running + rank.num_preempted) & unfinished
    context = jnp.where(running, slots.num_computed_tokens + slots.num_new_tokens, 0)
    behind = running & (context < slots.num_tokens)
    left = jnp.where(running, slots.final_tokens - slots.num_tokens, MANY)
    to_go_on = [running & (behind | (left > 1))] if shape.handovers else []  # the others have their last token with the step
    (n, preempted, tokens, kv_tokens, preempted_tokens, kv_sum, all_behind, *rest), (kv_max,), (to_finish,) = reduce_slots(
        [
            running,
            waiting,
            slots.num_new_tokens,
            _long(running, slots.num_computed_tokens),
            _long(waiting, slots.num_tokens),
            context.astype(jnp.int64),
            behind,
            *to_go_on,
        ],
        [context],
        [left],
    )
    none = jnp.zeros((), jnp.float64)
    plan = Plan(
        start_s=turn.now_s,
        end_s=turn.now_s,
        horizon_s=turn.horizon_s,
        first_s=none,
        next_s=none,
        slope_s=none,
        steps=jnp.zeros((), jnp.int32),
        open=~f.blocked,
        tokens=tokens,
        running=n,
        preempted=preempted if rank.requeued is None else preempted + rank.requeued,
        blocks=f.blocks,
        kv_tokens=kv_tokens,
        preempted_tokens=preempted_tokens,
        cached_blocks=turn.kv.num_cached(turn.kv_row),
    )
    decoding = Decoding(running, context, n, kv_sum, kv_max, to_finish, all_behind > 0)
    return plan, decoding, rest[0] == 0 if shape.handovers else None


def _long(mask: Array, x: Array) -> Array:
    return jnp.where(mask, x, 0).astype(jnp.int64)


def asks_for_prompts(step_time: StepTimeRow) -> bool:
    """Whether some step times depend on the prompts of the requests; known when the program is compiled."""
    return step_time.times.pim is not None and step_time.times.pim.prompts_only is not None


def prompts_of(params: ClusterParams, slots: Slots) -> Int32[Array, " A"]:
    """Tokens of the prompt of each slot's request; of an unused one any number."""
    last = params.requests.prompt_tokens.shape[1] - 1
    return params.request("prompt_tokens", jnp.minimum(slots.request, last))


def leap(
    turn: Turn, step_time: StepTimeRow, plan: Plan, decoding: Decoding, prompts: Int32[Array, " A"] | None = None
) -> tuple[Plan, Int32[Array, ""]]:
    """The plan with the times of its later steps, and the steps that it may have before anything but the contexts changes."""
    n = decoding.num_running
    batch = None
    if prompts is not None:
        (prompt_sum,), (longest,), _ = reduce_slots([_long(decoding.running, prompts)], [jnp.where(decoding.running, prompts, 0)], [])
        batch = DecodeBatch(*(x.astype(jnp.float64) for x in (n, prompt_sum, longest)))
    next_s, slope_s, valid = decode_steps(step_time, jnp.maximum(n, 1), decoding.kv_sum, decoding.kv_max, batch)
    return dataclasses.replace(plan, next_s=next_s, slope_s=slope_s), steps_allowed(turn, decoding, jnp.minimum(valid, MANY))


def steps_allowed(turn: Turn, decoding: Decoding, valid: Int32[Array, ""] | int) -> Int32[Array, ""]:
    """Steps that a plan may have before anything but the contexts changes, of which those after the first are `valid`; at least 1."""
    limits, f, n = turn.limits, turn.formation, decoding.num_running
    allowed = ~decoding.some_behind & (n <= limits.max_num_batched_tokens) & (f.preempted == 0) & ~(f.refused & ~f.stays)
    most = jnp.where(allowed, jnp.minimum(decoding.to_finish, 1 + valid), 1)
    steps = jnp.minimum(most, 1 + steps_within_blocks(decoding, limits.num_blocks - f.blocks, limits.block_size, most - 1))
    return jnp.maximum(steps, 1).astype(jnp.int32)


def steps_within_blocks(
    decoding: Decoding, free: Int32[Array, ""], block_size: Int32[Array, ""], wanted: Int32[Array, ""]
) -> Int32[Array, ""]:
    """A number of decode steps (>= 0) that the free blocks surely allow to all running requests: never more than they do.

    The larger of two bounds. One is from whole blocks, good when many are free. The other, only if that is less than `wanted`, counts for a
    few numbers of steps m up to a block the requests whose last block has fewer than m tokens of room; good when almost none is free.
    """
    size = block_size.astype(jnp.float64)
    each = free.astype(jnp.float64) * size / jnp.maximum(decoding.num_running, 1).astype(jnp.float64)
    many = jnp.clip(jnp.floor(each - size + 1.0), 0, MANY).astype(jnp.int32)
    return jnp.maximum(many, cond_any(many < wanted, _counted, _none, decoding.running, decoding.context, free, block_size))


def _counted(running: Array, context: Array, free: Array, block_size: Array) -> Array:
    room = blocks_of(context, block_size) * block_size - context
    short, _, _ = reduce_slots([running & (room < m) for m in BLOCK_STEPS])
    allowed = [jnp.where((taken <= free) & (m <= block_size), m, 0) for m, taken in zip(BLOCK_STEPS, short, strict=True)]
    return jnp.max(jnp.stack(allowed)).astype(jnp.int32)


def _none(running: Array, context: Array, free: Array, block_size: Array) -> Array:
    return jnp.zeros((), jnp.int32)


def _choose(f: Formation, busy: Plan, plan: Plan) -> Plan:
    """The busy plan; or none: continue to form, form again (a rank that was busy, or has requests on their way out), or sleep."""
    now_s, horizon_s = plan.start_s, plan.horizon_s
    steps = jnp.where(f.continues | (plan.tokens == 0), 0, busy.steps)
    again = f.continues | (horizon_s < now_s) | f.leaving
    idle_end_s = jnp.where(again, now_s, jnp.maximum(f.next_queued_s, now_s))
    idle_horizon_s = jnp.where(f.continues, horizon_s, idle_end_s)
    return dataclasses.replace(
        plan,
        steps=steps.astype(jnp.int32),
        end_s=jnp.where(steps > 0, busy.end_s, idle_end_s),
        horizon_s=jnp.where(steps > 0, busy.horizon_s, idle_horizon_s),
        open=jnp.where(steps > 0, busy.open, ~again),
    )
