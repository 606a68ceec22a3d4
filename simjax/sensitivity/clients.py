"""What the clients of a run observe, in JAX: metrics that have derivatives are functions of it.

Latencies move in the frame of `simjax.calibrate.reference_frames`. The span of a run is from the first arrival to the end of the request
that finishes last, which arrives when it does: its latency moves, in the same frame. So do the two finishes between which a measurement
window counts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.prepared_run import ClientLatencies, latencies
from simjax.engine.differentiate import Outcome
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.metrics.catalog import Column
from simjax.metrics.catalog.clients import Clients
from simjax.metrics.latency import statistics_of
from simjax.metrics.steady.window import Measured, measure


def clients_of(
    gpus: int, shape: EngineShape, params: ClusterParams, o: Outcome, load: tuple[Array, Array, Array]
) -> tuple[Clients, ClientLatencies, Measured]:
    """Observations of the clients of one simulated run, the latencies that they are of, and the part of the run that is measured.

    Args:
        gpus: GPUs of the cluster.
        shape: static sizes of the run.
        params: its parameters.
        o: its outcome, differentiable or not.
        load: whether the load is stationary, and the seconds that the window leaves out at its ends (NaN: automatic).
    """
    lat = latencies(shape, params, o, np.arange(shape.requests))  # padding has not finished
    prompts, outputs = (getattr(params.requests, f"{x}_tokens")[params.served] for x in ("prompt", "output"))
    held = lambda x, otherwise: jax.lax.stop_gradient(jnp.where(o.finished, x, otherwise))
    sessions = params.requests.sessions
    roots = jnp.ones_like(o.finished) if sessions is None else sessions.predecessors[params.served] == 0
    part = measure(held(o.arrival_s, jnp.inf), held(o.finish_s, jnp.inf), o.finished, roots, *load, jnp)
    there = {"ttft": lat.finished & part.arrived, "tpot": lat.finished & (outputs > 1) & part.arrived, "e2e": lat.finished & part.arrived}
    waits = shape.clients > 0 or sessions is not None
    arrival_s = held(o.arrival_s, 0.0)

    def last_finish(until_s: Array) -> tuple[Array, Array]:
        """The last finish that is not later than a time, in its frame, and whether there is one."""
        counts = o.finished & (held(o.finish_s, jnp.inf) <= until_s)
        last = jnp.argmax(jnp.where(counts, o.finish_s, -jnp.inf))
        end_s = o.finish_s[last] if waits else arrival_s[last] + lat.e2e_s[last]
        return jnp.where(jnp.any(counts), end_s, 0.0), jnp.any(counts)

    run_end_s, some = last_finish(jnp.float64(jnp.inf))
    begin_s, before = last_finish(part.start_s)
    begin_s = jnp.where(part.whole | ~before, part.start_s, begin_s)
    stop_s, _ = last_finish(jnp.where(part.whole, jnp.inf, part.end_s))
    total = lambda x: jnp.sum(jnp.where(part.finished, x, 0)).astype(jnp.float64)

    def statistics(latency: str) -> dict[str, Column]:
        found = statistics_of(getattr(lat, f"{latency}_s"), there[latency], jnp)
        return {name: Column(value, jnp.any(there[latency])) for name, value in found.items()}

    clients = Clients(
        gpus=jnp.float64(gpus),
        finished=total(1),
        prompt_tokens=total(prompts),
        output_tokens=total(outputs),
        span_s=jnp.where(jnp.any(part.finished), stop_s - begin_s, 0.0),
        served=jnp.sum(o.finished).astype(jnp.float64),
        duration_s=jnp.where(some, run_end_s - part.first_s, 0.0),
        latencies={latency: statistics(latency) for latency in there},
    )
    return clients, lat, part
