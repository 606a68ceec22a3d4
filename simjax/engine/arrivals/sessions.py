"""Sessions: calls that are sent some time after the calls that they wait for have been answered."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Instance
from simjax.engine.shape import EngineShape
from simjax.engine.state import Calls


def sent(calls: Calls, session: Array, request: Array, t_s: Array, instance: Array | int, arrives: Array) -> Calls:
    """Note that a call of a session (int32[] each) was sent to an instance at t_s, if it was: bool[]."""
    keep = lambda new, old: jnp.where(arrives, new, old)  # noqa: E731
    return dataclasses.replace(
        calls,
        due_s=calls.due_s.at[request].set(keep(NEVER, calls.due_s[request])),
        arrival_s=calls.arrival_s.at[request].set(keep(t_s, calls.arrival_s[request])),
        home=calls.home.at[session].set(keep(instance, calls.home[session])),
    )


def answer_one(
    shape: EngineShape, params: ClusterParams, calls: Calls, e: Instance, api_post_s: Array, due: Array
) -> tuple[Calls, Instance, Array]:
    """Tell the calls that wait for one finished request, if there is one that they do not know of; `due` says whether it is time, bool[].

    Returns the calls, the instance, and whether there is another one to answer, bool[].
    """
    s, sessions, served = e.slots, params.requests.sessions, params.served
    assert sessions is not None and s.answered is not None
    A, R, D = s.request.shape[0], shape.requests, shape.fanout
    position = jnp.arange(A, dtype=jnp.int32)
    new = (position < e.n + e.parked) & (s.target >= s.final) & ~s.answered
    (count,), _, (first,) = reduce_slots([new], minima=[jnp.where(new, position, A)])
    at = jnp.minimum(first, A - 1)
    request = jnp.minimum(s.request[at], R - 1)
    some = (first < A) & due
    place = (jnp.asarray(served, jnp.int32), sessions.offset[served, request])
    then = jax.lax.dynamic_slice(sessions.then, place, (1, D))[0]
    delay_s = jax.lax.dynamic_slice(sessions.delay_s, place, (1, D))[0]
    waits = (jnp.arange(D) < sessions.count[served, request]) & some
    ready_s = jnp.maximum(calls.ready_s[jnp.minimum(then, R - 1)], s.token_s[at] + api_post_s + delay_s)
    missing = calls.missing[jnp.minimum(then, R - 1)] - 1
    then = jnp.where(waits, then, R)  # out of bounds: dropped
    calls = dataclasses.replace(
        calls,
        ready_s=calls.ready_s.at[then].set(ready_s, mode="drop"),
        missing=calls.missing.at[then].set(missing, mode="drop"),
        due_s=calls.due_s.at[jnp.where(missing == 0, then, R)].set(ready_s, mode="drop"),
    )
    slots = dataclasses.replace(s, answered=s.answered | (position == first))
    return calls, dataclasses.replace(e, slots=slots), count > 1
