"""A batch is formed: its way through the stages, and what the loop does next."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.flight import NOT_SAMPLED, Flight
from simjax.engine.pipeline.line import Line, most_batches
from simjax.engine.pipeline.outcome import Outcome, outcome_of
from simjax.engine.rank import Plan, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn
from simjax.latency.step_time import mixed_step_s, row, send_s

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


def dispatch(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Send the batch through the stages and plan the next turn of the rank.

    While the formation continues nothing is sent. Then the loop fills its queue, waits for the oldest batch, or sleeps until a request
    comes: if there is none, or if calls find nothing to run and nothing is in flight (a prompt that may not be split exceeds the budget).
    """
    limits, rank, slots, f = turn.limits, turn.rank, turn.rank.slots, turn.formation
    line, flight = rank.pipeline, slots.flight
    assert isinstance(line, Line) and isinstance(flight, Flight)
    position, now_s = slots.position, turn.now_s
    running = position < rank.num_running
    waiting = ~running & (position < rank.num_running + rank.num_preempted)
    new = jnp.where(running, slots.num_new_tokens, 0)
    inside, decode = new > 0, jnp.isfinite(flight.ready_s)
    outcome = outcome_of(params, turn, new)
    (n, preempted, tokens, prefill, prompt, sequences, kv_tokens, preempted_tokens, *lost), _, _ = reduce_slots(
        [
            running,
            waiting,
            new,
            jnp.where(slots.drafts.in_prompt(new), new, 0),
            jnp.where(decode, 0, new),
            inside,
            jnp.where(running, slots.num_computed_tokens, 0).astype(jnp.int64),
            jnp.where(waiting, slots.num_tokens, 0).astype(jnp.int64),
            *outcome.lost,
        ]
    )
    some = f.refused | (n + preempted > 0)
    if shape.speculation:
        some |= line.waiting
    called = ~f.continues & some
    ran = called & (tokens > 0)

    ready_s = jnp.max(jnp.where(inside & limits.async_scheduling, flight.ready_s, NOT_SAMPLED))
    start_s, free_s = _through_stages(params, turn, new, jnp.maximum(now_s, ready_s), tokens)
    end_s = free_s[-1]
    free_s = together(jnp.where(ran, free_s, line.free_s))
    at = jnp.arange(line.places, dtype=jnp.int32) == line.place(line.call)
    batch = {
        "start_s": start_s,
        "end_s": jnp.where(ran, end_s, now_s),
        "tokens": tokens,
        "prompt_tokens": prompt,
        "prefill_tokens": prefill,
        "sequences": sequences,
    }
    batches = together(line.batches.with_batch(at & called, together(batch)))

    slots = _in_flight(turn, line, outcome, ran, start_s, end_s)
    line = dataclasses.replace(
        line,
        free_s=free_s,
        batches=batches,
        call=line.call + called.astype(jnp.int32),
        ran=jnp.where(called, ran, line.ran),
        waiting=jnp.where(f.continues, line.waiting, f.refused),
        empty_calls=jnp.where(ran, 0, line.empty_calls + called.astype(jnp.int32)),
    )
    plan = dataclasses.replace(
        rank.plan,
        running=n,
        preempted=preempted,
        blocks=jnp.where(f.continues, rank.plan.blocks, f.blocks),
        kv_tokens=kv_tokens + jnp.where(ran, tokens - sum(lost), 0).astype(jnp.int64),
        preempted_tokens=preempted_tokens,
        cached_blocks=turn.kv.num_cached(turn.kv_row),
    )
    plan, line = _in_one_kernel(*_go_on(shape, turn, plan, line, some))
    emitted = dataclasses.replace(turn.emitted, drafts=outcome.counts(ran))
    return dataclasses.replace(turn, rank=dataclasses.replace(rank, slots=slots, plan=plan, pipeline=line), emitted=emitted)


def _in_flight(
    turn: Turn, line: Line, outcome: Outcome, ran: Bool[Array, ""], start_s: Float64[Array, ""], end_s: Float64[Array, ""]
) -> Slots:
    """The slots once the batch is on its way, if it `ran`: from `start_s` on the first stage to `end_s` on the last one."""
    limits, slots, flight = turn.limits, turn.rank.slots, turn.rank.slots.flight
    assert isinstance(flight, Flight) and limits.pipeline_stages is not None and limits.broadcast_s is not None
    running = slots.position < turn.rank.num_running
    new = jnp.where(running, slots.num_new_tokens, 0)
    inside = new > 0
    bit = jnp.where(ran, jnp.left_shift(jnp.int32(1), line.place(line.call)), 0)
    sampled = outcome.sampled & ran
    flight = Flight(
        batches=flight.batches | jnp.where(inside, bit, 0),
        sampled=flight.sampled | jnp.where(sampled, bit, 0),
        eligible=jnp.where(sampled, line.call + limits.pipeline_stages, flight.eligible),
        # What was preempted gets its tokens from the scheduler when it comes back.
        ready_s=jnp.where(sampled, end_s + limits.broadcast_s, jnp.where(running, flight.ready_s, NOT_SAMPLED)),
    )
    first_step = inside & ran & (slots.num_computed_tokens == slots.held.cached_tokens) & (slots.preemptions == 0)
    return dataclasses.replace(
        slots,
        num_computed_tokens=jnp.where(ran, outcome.num_computed_tokens, slots.num_computed_tokens),
        scheduled_s=jnp.where(first_step, start_s, slots.scheduled_s),
        flight=flight,
        drafts=select(ran, outcome.drafts, slots.drafts),
    )


def _in_one_kernel(plan: Plan, line: Line) -> tuple[Plan, Line]:
    """The plan and the line, whose scalars have most of their arithmetic in common."""
    bare = dataclasses.replace(line, free_s=None, batches=None)
    plan, bare = together((plan, bare))
    return plan, dataclasses.replace(bare, free_s=line.free_s, batches=line.batches)


def _through_stages(
    params: ClusterParams, turn: Turn, new: Int32[Array, " A"], formed_s: Float64[Array, ""], tokens: Int32[Array, ""]
) -> tuple[Float64[Array, ""], Float64[Array, " J"]]:
    """Start of a batch on the first stage, and its ends on all of them; stages that the rank does not have take no time."""
    limits, slots, line = turn.limits, turn.rank.slots, turn.rank.pipeline
    assert isinstance(line, Line) and limits.pipeline_stages is not None
    free_s, computed = line.free_s, slots.num_computed_tokens
    start_s = come_s = jnp.maximum(formed_s, free_s[0])
    ends_s = []
    for stage in range(free_s.shape[0]):
        model = row(params.step_time, limits.step_time + jnp.minimum(stage, limits.pipeline_stages - 1))
        exists = stage < limits.pipeline_stages
        took_s = jnp.where(exists, mixed_step_s(model, new, computed, slots.drafts.decoding, tokens), 0.0)
        end_s = jnp.maximum(come_s, free_s[stage]) + took_s
        ends_s.append(end_s)
        come_s = end_s + jnp.where(stage + 1 < limits.pipeline_stages, send_s(model, tokens), 0.0)
    return start_s, jnp.stack(ends_s)


def _go_on(shape: EngineShape, turn: Turn, plan: Plan, line: Line, some: Array) -> tuple[Plan, Line]:
    """What the loop does next: the plan until the rank's next turn, and the line with how that begins.

    With drafts a batch may be under way for requests that have ended: the loop waits for it, and sees no request meanwhile.
    """
    limits, f, now_s = turn.limits, turn.formation, turn.now_s
    assert limits.empty_pass_s is not None
    most = most_batches(limits)
    full = line.call - line.first >= most
    stuck = line.empty_calls > 2 * most
    under_way = line.call > line.first if shape.speculation else jnp.zeros((), bool)
    idle = ~f.continues & ((~some & ~under_way) | stuck)
    pops = ~f.continues & ~idle & (full | ~some)
    sleeps = f.continues & line.pauses & ~turn.departed.more
    back_s = jnp.maximum(now_s, line.batches.end_s[line.oldest])
    slept_s = now_s + jnp.where(sleeps | (~f.continues & ~line.ran), limits.empty_pass_s, 0.0)
    end_s = jnp.where(pops, back_s, jnp.where(idle, jnp.maximum(f.next_queued_s, now_s), slept_s))
    tokens = line.batches.tokens[line.oldest]
    steps = (pops & (tokens > 0)).astype(jnp.int32)
    start_s = jnp.where(steps > 0, jnp.maximum(line.batches.start_s[line.oldest], line.returned_s), now_s)
    plan = dataclasses.replace(
        plan, start_s=start_s, end_s=end_s, horizon_s=end_s, first_s=end_s - start_s, steps=steps, open=idle, tokens=tokens
    )
    line = dataclasses.replace(
        line,
        first=jnp.where(idle, line.call, line.first),
        pops=pops,
        at_once=~idle & (end_s <= now_s),
        pauses=line.pauses & f.continues & ~sleeps,
    )
    return plan, line
