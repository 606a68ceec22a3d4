"""Derivatives of the numbers of a run with respect to what its steps cost, by forward mode through the engine.

The schedule is held, and latencies move in the frame of `simjax.calibrate.reference_frames`. The span of a run is from the first arrival
to the end of the request that finishes last, which arrives when it does: its latency moves, in the same frame. How a parameter moves step
costs is a difference over a relative change of 1e-4 in both directions, which costs follow to 1e-8: so any parameter that changes costs
will do, of the profile or of the hardware, with costs from profiles or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.calibrate.prepared_run import PreparedRun, latencies
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.differentiate import Outcome, outcome
from simjax.engine.host.lower import Lowered
from simjax.engine.params import ClusterParams
from simjax.engine.programs import compiled
from simjax.engine.shape import EngineShape
from simjax.metrics.latency import PERCENTILES, STATISTICS

NUDGE = 1e-4  # see above
_RATES = ("requests_per_s", "prompt_tokens_per_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu")
PATHWISE = ("duration_s", *_RATES, *(f"{latency}_{name}_s" for latency in ("ttft", "tpot", "e2e") for name in STATISTICS))
"""The metrics that have such a derivative: others count requests, blocks or steps, which the schedule alone decides."""

Tangents = tuple[Any, Array, Array]  # of the costs' floats by leaf, and of API times; a leading axis over parameters


def tangents_of(base: ClusterTiming, turned: Sequence[tuple[ClusterTiming, ClusterTiming, float]]) -> tuple[ClusterTiming, Tangents]:
    """A cluster's own rows of a table of costs, and how they move with each of K parameters.

    Args:
        base: the cluster's prices.
        turned: for each parameter the prices on either side, rows of the same table, and the logarithm of the ratio of its values.
    """
    rows, first, place = np.unique(base.row, return_index=True, return_inverse=True)
    own = jax.tree.map(lambda x: x[rows], base.step_time)

    def moves(x: np.ndarray) -> np.ndarray | None:
        if not np.issubdtype(x.dtype, np.floating):
            return None
        return np.stack([(x[high.row[first]] - x[low.row[first]]) / log for low, high, log in turned])

    api = [np.stack([(getattr(h, name) - getattr(low, name)) / log for low, h, log in turned]) for name in ("api_pre_s", "api_post_s")]
    timings = replace(base, step_time=own, row=place.astype(np.int32))
    return timings, ([moves(x) for x in jax.tree.leaves(base.step_time)], api[0], api[1])  # pyright: ignore[reportReturnType]


def pathwise(
    cluster: ClusterSpec, lowered: Lowered, tangents: Tangents, names: Sequence[str], max_ticks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Metrics of a run and their derivatives.

    Args:
        cluster: the engines.
        lowered: the run, priced by what `tangents_of` returned, without a log.
        tangents: of its costs.
        names: M metrics, of `PATHWISE`.
        max_ticks: bound on its length.

    Returns:
        Values, f64[M], and derivatives by the logarithm of each parameter, f64[M, K]; 0 and 0 where no request has the metric.
    """
    with jax.enable_x64(True):
        arguments = jax.tree.map(jnp.asarray, (lowered.params, tangents, np.int32(min(max_ticks, 2**31 - 1))))
        run = partial(_derivatives, cluster, lowered.shape, tuple(names))
        program = compiled(run, ("pathwise", lowered.shape, tuple(names), cluster.num_devices), arguments)
        values, derivatives = program(*arguments)
    return np.asarray(values), np.asarray(derivatives)


def _derivatives(
    cluster: ClusterSpec, shape: EngineShape, names: tuple[str, ...], params: ClusterParams, tangents: Tangents, max_ticks: Array
) -> tuple[Array, Array]:
    leaves, structure = jax.tree.flatten(params.step_time)
    step_times, pre, post = tangents

    def of(w: Array) -> tuple[Array, Array]:
        along = lambda moves: jnp.tensordot(w, moves, 1)
        step_time = jax.tree.unflatten(
            structure, [x if moves is None else x + along(moves) for x, moves in zip(leaves, step_times, strict=True)]
        )
        known = params.ranks
        instances = replace(known, api_pre_s=known.api_pre_s + along(pre), api_post_s=known.api_post_s + along(post))
        moved = replace(params, step_time=step_time, ranks=instances)
        values = _metrics(cluster, shape, moved, outcome(shape, moved, max_ticks), names)  # pyright: ignore[reportArgumentType]
        return values, values

    derivatives, values = jax.jacfwd(of, has_aux=True)(jnp.zeros(pre.shape[0]))
    return values, derivatives


def _metrics(cluster: ClusterSpec, shape: EngineShape, params: ClusterParams, o: Outcome, names: tuple[str, ...]) -> Array:
    served = PreparedRun(cluster, shape, params, shape.requests, 0)  # padding has not finished
    lat = latencies(served, params, o)
    prompts, outputs = (getattr(params.requests, f"{x}_tokens")[params.served] for x in ("prompt", "output"))
    there = {"ttft": lat.finished, "tpot": lat.finished & (outputs > 1), "e2e": lat.finished}
    last = jnp.argmax(jnp.where(o.finished, o.finish_s, -jnp.inf))
    arrival_s = jnp.where(o.finished, o.arrival_s, 0.0)
    waits = served.closed_loop or params.requests.sessions is not None
    end_s = o.finish_s[last] if waits else jax.lax.stop_gradient(arrival_s[last]) + lat.e2e_s[last]
    span_s = end_s - jax.lax.stop_gradient(jnp.min(params.requests.arrival_s[params.served]))
    count = lambda x: jnp.sum(jnp.where(o.finished, x, 0)).astype(jnp.float64)
    rates: dict[str, Callable[[], Array]] = {
        "duration_s": lambda: span_s,
        "requests_per_s": lambda: count(1) / span_s,
        "prompt_tokens_per_s": lambda: count(prompts) / span_s,
        "output_tokens_per_s": lambda: count(outputs) / span_s,
        "output_tokens_per_s_per_gpu": lambda: count(outputs) / span_s / cluster.num_devices,
    }

    def metric(name: str) -> Array:
        if name in rates:
            return jnp.where(jnp.any(o.finished), rates[name](), 0.0)
        latency, statistic = name.split("_")[:2]
        return _statistic(getattr(lat, f"{latency}_s"), there[latency], statistic)

    return jnp.stack([metric(name) for name in names])


def _statistic(values: Array, there: Array, name: str) -> Array:
    """A statistic of the values that exist, as `simjax.metrics.latency.statistics` has it; 0 when there are none."""
    n = jnp.sum(there)
    if name == "mean":
        return jnp.sum(jnp.where(there, values, 0.0)) / jnp.maximum(n, 1)
    ordered = values[jnp.argsort(jnp.where(there, jax.lax.stop_gradient(values), jnp.inf))]
    place = jnp.maximum(n - 1, 0) * (1.0 if name == "max" else PERCENTILES[name] / 100.0)
    low = jnp.floor(place).astype(jnp.int32)
    below, above = ordered[low], ordered[jnp.minimum(low + 1, jnp.maximum(n - 1, 0))]
    return jnp.where(n > 0, below + (above - below) * (place - low), 0.0)
