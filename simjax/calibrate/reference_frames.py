"""The reference frame of each request, for the derivative of a latency that a measurement would see.

With the schedule held, the end of a step moves with all the steps before it since the instance was last idle. An instance that has been
decoding for ten minutes is 0.6 s later at its end when steps get 0.1 % slower, while a request that arrives then still waits half a step
more or less: it only joins another step. Taken literally, the pathwise derivative of its TTFT is hundreds of times too large.

What counts is the work that a request found waiting. If the queue was empty when it came, its place within the step in progress is as good
as random, so the arrival moves along with the clock: only the rest of that step and what follows count. If others were waiting, it is part
of their backlog, and its arrival is held in the frame of the first of them: it counts how much slower the backlog has become. (A backlog
that lasts from the start of a run is in the frame of absolute time, where this derivative is the pathwise one.)

Clients of a closed loop who make no pause move with the clock by themselves. After a pause, also that between the calls of a session, they
come with the clock as it was when the pause began, and it has moved since: they are put in a frame as if their times had been given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from simjax.engine.differentiate import Outcome

if TYPE_CHECKING:
    from jaxtyping import Float64

APART_S = 1e8  # keeps the clocks of instances apart on one axis of time


def arrivals(o: Outcome, api_pre_s: Array, api_post_s: Array) -> Float64[Array, " R"]:
    """Arrivals, f64[R] in seconds: their values are `o.arrival_s`, their derivatives the movements of the requests' reference frames.

    Subtract them from first tokens and finishes to get latencies. The arrivals of requests that have not finished do not move.

    Args:
        o: outcome of a run.
        api_pre_s: API time of each request's instance before the queue, f64[R] in seconds.
        api_post_s: API time after the step of a token, f64[R] in seconds.
    """
    known = o.finished
    safe = lambda x: jnp.where(known, x, 0.0)
    apart_s = jnp.where(known, o.instance, -1) * APART_S
    queued_s = stop_gradient(safe(o.arrival_s) + api_pre_s) + apart_s
    events = [safe(o.scheduled_s), safe(o.first_token_s) - api_post_s, safe(o.finish_s) - api_post_s]
    drift = _drift(jnp.concatenate(events), jnp.tile(apart_s, len(events)), queued_s)

    # In order of (instance, queued): a request that was still waiting when the next one came shares its backlog.
    order = jnp.argsort(queued_s)
    scheduled_s = (stop_gradient(safe(o.scheduled_s)) + apart_s)[order]
    before_s = jnp.concatenate([jnp.full(1, -jnp.inf), scheduled_s[:-1]])
    begins = before_s <= queued_s[order]
    first = jax.lax.cummax(jnp.where(begins, jnp.arange(len(order)), 0))
    frame = jnp.zeros_like(queued_s).at[order].set(drift[order][first])
    # The queue's frame, seen from the client: later by what the request's own way to the queue takes.
    moved = frame - (api_pre_s - stop_gradient(api_pre_s))
    return stop_gradient(o.arrival_s) + jnp.where(known, moved, 0.0)


def _drift(event_s: Array, apart_s: Array, at_s: Array) -> Array:
    """Movements of the instances' clocks at some times: value 0, derivative interpolated between the events around each time."""
    place = stop_gradient(event_s) + apart_s
    order = jnp.argsort(place)
    place, moves = place[order], (event_s - stop_gradient(event_s))[order]
    after = jnp.clip(jnp.searchsorted(place, at_s), 1, len(place) - 1)
    low, high = place[after - 1], place[after]
    weight = jnp.clip((at_s - low) / jnp.maximum(high - low, 1e-12), 0.0, 1.0)
    weight = jnp.where(high - low > 0.5 * APART_S, 1.0, weight)  # the event before is another instance's
    return moves[after - 1] * (1.0 - weight) + moves[after] * weight
