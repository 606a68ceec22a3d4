"""What a simulation of a `System` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.differentiate import Outcome
from simjax.engine.params import ClusterParams
from simjax.errors import SimjaxError, closest
from simjax.library.system import System
from simjax.metrics.catalog import CATALOG
from simjax.sensitivity.clients import clients_of
from simjax.sensitivity.pathwise import PATHWISE

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Metrics:
    """Metrics of a run, or of B runs with a leading axis B on every leaf: `metrics["ttft_p99_s"]` is one of `values`.

    Attributes:
        values: metrics by the names of the columns of results.csv (seconds, requests/s, tokens/s), float64[] each, over the measurement
            window; NaN where no request has the metric, or the run is not `sound`.
        sent_s, ttft_s, tpot_s, e2e_s: float64[R] in seconds, when each request was sent and its latencies; 1 in place of a latency that
            does not exist, so that a logarithm is safe. R includes padding, which has not finished.
        finished: bool[R], which requests have finished.
        measured: bool[R], which of them arrived within the measurement window.
        instance: int32[R], the rank that served each, -1 where none has.
        preemptions: int32[R], how often each was preempted.
        num_finished: int32[], number of requests that have finished.
        ticks, steps: int32[] and int64[], of the run.
        sound: bool[], whether the arrays had room for the run: false where a table overflowed, a limit exceeds what the system was
            prepared for, or a differentiated run took more than `static.ticks` ticks.
    """

    values: dict[str, Float64[Array, ""]]
    sent_s: Float64[Array, " R"]
    ttft_s: Float64[Array, " R"]
    tpot_s: Float64[Array, " R"]
    e2e_s: Float64[Array, " R"]
    finished: Bool[Array, " R"]
    measured: Bool[Array, " R"]
    instance: Int32[Array, " R"]
    preemptions: Int32[Array, " R"]
    num_finished: Int32[Array, ""]
    ticks: Int32[Array, ""]
    steps: Int64[Array, ""]
    sound: Bool[Array, ""]

    def __getitem__(self, name: str) -> Array:
        """A metric by its name.

        Raises:
            SimjaxError: there is no such metric.
        """
        if name not in self.values:
            raise SimjaxError(f"metrics: there is no '{name}'; {closest(name, list(self.values))}")
        return self.values[name]


def metrics_of(system: System, params: ClusterParams, o: Outcome, sound: Array) -> Metrics:
    """The metrics of one run of a system.

    Args:
        system: the system.
        params: the engine's parameters of the run.
        o: its outcome.
        sound: whether the arrays had room for it.
    """
    load = (system.stationary, system.warmup_s, system.cooldown_s)
    clients, lat, part = clients_of(system.static.gpus, system.static.shape, params, o, load)
    columns = {name: CATALOG[name].value(clients, jnp) for name in PATHWISE}
    return Metrics(
        values={name: jnp.where(x.known & sound, x.values, jnp.nan) for name, x in columns.items()},
        sent_s=lat.sent_s,
        ttft_s=lat.ttft_s,
        tpot_s=lat.tpot_s,
        e2e_s=lat.e2e_s,
        finished=lat.finished,
        measured=lat.finished & part.arrived,
        instance=o.instance,
        preemptions=o.preemptions,
        num_finished=jnp.sum(o.finished, dtype=jnp.int32),
        ticks=o.ticks,
        steps=o.steps,
        sound=sound,
    )
