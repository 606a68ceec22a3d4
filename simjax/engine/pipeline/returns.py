"""The oldest batch is back: its requests get their tokens, and those that have finished leave before the scheduler is called again."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.flight import Flight
from simjax.engine.pipeline.line import Line
from simjax.engine.scheduler.commit import Emitted
from simjax.engine.scheduler.departure import depart
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn


def take_back(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Give the tokens of the oldest batch to its requests, also to those that were preempted meanwhile; the place in the queue is free.

    The gaps between a request's tokens are no step times, so `Emitted` counts all tokens but the first of a request as resumed.
    """
    rank, slots = turn.rank, turn.rank.slots
    line, flight = rank.pipeline, slots.flight
    assert isinstance(line, Line) and isinstance(flight, Flight) and turn.limits.empty_pass_s is not None
    bit = jnp.where(line.pops, jnp.left_shift(jnp.int32(1), line.oldest), 0)
    token = (flight.sampled & bit) != 0
    count = slots.drafts.back(token, (flight.sampled & ~bit) != 0)
    fresh = token & ~jnp.isfinite(slots.first_token_s)
    resumed = token & ~fresh
    after = dataclasses.replace(
        slots,
        num_tokens=slots.num_tokens + count,
        first_token_s=jnp.where(fresh, turn.now_s, slots.first_token_s),
        token_s=jnp.where(token, turn.now_s, slots.token_s),
        flight=dataclasses.replace(flight, batches=flight.batches & ~bit, sampled=flight.sampled & ~bit),
    )
    (tokens, num_resumed), _, _ = reduce_slots([count, resumed])
    none = jnp.zeros((), jnp.int32)
    emitted = Emitted(
        finished=token & after.finished,
        prompt_tokens=line.batches.prompt_tokens[line.oldest],
        first_outputs=tokens,
        decodes=none,
        resumed=num_resumed,
        outputs=none,
        resumed_gap_s=jnp.sum(jnp.where(resumed, turn.now_s - slots.token_s, 0.0)),
        blocks_last=rank.plan.blocks,
    )
    left = line.waiting | (rank.num_running + rank.num_preempted > 0)
    # vLLM's loop calls the scheduler once more after the end of a request. That matters if others are in flight which compute for nothing.
    waiting = line.waiting | jnp.any(emitted.finished) if shape.speculation else line.waiting
    pauses = line.pauses | (line.pops & ~line.ran & left & (turn.limits.empty_pass_s > 0))
    line = dataclasses.replace(
        line,
        first=line.first + line.pops.astype(jnp.int32),
        returned_s=jnp.where(rank.plan.steps > 0, turn.now_s, line.returned_s),
        pops=jnp.zeros((), bool),
        waiting=waiting,
        pauses=pauses,
    )
    rank = dataclasses.replace(rank, slots=after, pipeline=line)
    return dataclasses.replace(turn, rank=rank, emitted=emitted, waits=turn.waits | pauses)


def depart_all(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Take one finished request out of the slots; the call of the scheduler waits for the others."""
    turn = depart(shape, params, turn)
    return dataclasses.replace(turn, waits=turn.waits | turn.departed.more)
