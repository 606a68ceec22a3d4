"""Derivatives of a run's metrics with respect to its step times and API times, by forward mode through the engine.

The schedule is held; `simjax.sensitivity.clients` says in which frame latencies and spans move. How a parameter moves the
step times is a difference over a relative change of 1e-4 in both directions, which is accurate to 1e-8. So the parameter may be any one
that changes step times, a profile's or the hardware's, whether step times come from profiles or from tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.engine.differentiate import Outcome, outcome
from simjax.engine.host.lower import Lowered
from simjax.engine.params import ClusterParams
from simjax.engine.programs import Effort, compiled
from simjax.engine.shape import EngineShape
from simjax.metrics.catalog import CATALOG, Catalog, Metric
from simjax.metrics.steady.window import AUTOMATIC, Window
from simjax.sensitivity.clients import clients_of

NUDGE = 1e-4  # see above
PATHWISE = tuple(name for name, metric in CATALOG.items() if metric.smooth)
"""The metrics that have such a derivative: others count requests, blocks or steps, which the schedule alone decides."""

Tangents = tuple[Any, Array, Array]  # tangents of the step times' floats by leaf, and of API times; a leading axis over parameters


def tangents_of(base: ClusterTiming, turned: Sequence[tuple[ClusterTiming, ClusterTiming, float]]) -> tuple[ClusterTiming, Tangents]:
    """A cluster's own rows of a table of step times, and how they move with each of K parameters.

    Args:
        base: timing of the cluster.
        turned: for each parameter the timings on its low and its high side, rows of the same table, and the logarithm of the ratio of the
            parameter's values.

    Returns:
        The cluster's timing with its own rows alone, and their tangents.
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
    cluster: ClusterSpec,
    lowered: Lowered,
    tangents: Tangents,
    names: Sequence[str],
    max_ticks: int,
    catalog: Catalog = CATALOG,
    window: Window = AUTOMATIC,
) -> tuple[np.ndarray, np.ndarray]:
    """Metrics of a run and their derivatives.

    Args:
        cluster: the cluster with its instances.
        lowered: the run without a log, with the timing that `tangents_of` returned.
        tangents: tangents of that timing.
        names: names of M metrics among `PATHWISE`.
        max_ticks: bound on the number of ticks.
        catalog: the metrics.
        window: what is left out of the metrics.

    Returns:
        Values, float64[M], and derivatives by the logarithm of each parameter, float64[M, K]; both 0 where no request has the metric.
    """
    metrics = tuple(catalog[name] for name in names)
    with jax.enable_x64(True):
        left_out = tuple(np.float64(np.nan if x is None else x) for x in (window.warmup_s, window.cooldown_s))
        load = (np.bool_(lowered.stationary), *left_out)
        arguments = jax.tree.map(jnp.asarray, (lowered.params, tangents, np.int32(min(max_ticks, 2**31 - 1)), load))
        run = partial(_derivatives, cluster, lowered.shape, metrics)
        program = compiled(run, ("pathwise", lowered.shape, metrics, cluster.num_devices), arguments, Effort.MEDIUM)
        values, derivatives = program(*arguments)
    return np.asarray(values), np.asarray(derivatives)


def _derivatives(
    cluster: ClusterSpec,
    shape: EngineShape,
    metrics: tuple[Metric, ...],
    params: ClusterParams,
    tangents: Tangents,
    max_ticks: Array,
    load: tuple[Array, Array, Array],
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
        values = _metrics(cluster, shape, moved, outcome(shape, moved, max_ticks), metrics, load)  # pyright: ignore[reportArgumentType]
        return values, values

    derivatives, values = jax.jacfwd(of, has_aux=True)(jnp.zeros(pre.shape[0]))
    return values, derivatives


def _metrics(
    cluster: ClusterSpec,
    shape: EngineShape,
    params: ClusterParams,
    o: Outcome,
    metrics: tuple[Metric, ...],
    load: tuple[Array, Array, Array],
) -> Array:
    """The values of smooth metrics, float64[M]; 0 where no request has the metric."""
    clients, _, _ = clients_of(cluster.num_devices, shape, params, o, load)
    columns = [metric.value(clients, jnp) for metric in metrics]
    return jnp.stack([jnp.where(column.known, column.values, 0.0) for column in columns])
