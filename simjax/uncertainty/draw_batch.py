"""Simulating many draws of a cluster's step costs side by side: they differ in rows of one table of costs, and in API times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from simjax.batch.execute import Row, run_designs
from simjax.batch.groups import MEMORY_BYTES, REQUEST_BYTES, SLOT_BYTES, Group
from simjax.batch.workers import Workers, local_workers
from simjax.cluster.timing import ClusterTiming, LatencySource, cluster_timings
from simjax.engine.host.batch import joint_shape
from simjax.engine.host.lower import Lowered, lower
from simjax.engine.host.lower_requests import request_params
from simjax.engine.shape import EngineShape, power_of_two, slots_for
from simjax.errors import SimjaxError
from simjax.explore.resolve import Design
from simjax.job import Run
from simjax.latency.priors import parameter
from simjax.latency.step_time import StepTime
from simjax.metrics.slo import Slo
from simjax.uncertainty.draws import Values
from simjax.validity.groups import InstanceGroup

TOGETHER, TOGETHER_ACCELERATED = 64, 1_024  # draws that are priced at a time, and share one table of costs


@dataclass(frozen=True)
class DrawnRun:
    """What all draws of a run have in common.

    Attributes:
        done: the run, with its leap log.
        source: its step costs, a profile.
        groups: the instances of its cluster, by profile, model and tensor-parallel degree.
        seed, leap, max_ticks: as for `simjax.simulate_cluster`.
        slo: limits for goodput.
    """

    done: Run
    source: LatencySource
    groups: tuple[InstanceGroup, ...]
    seed: int
    leap: bool
    max_ticks: int
    slo: Slo | None


def simulate_values(batch: DrawnRun, values: Sequence[tuple[Values, ...]]) -> Iterator[list[Row]]:
    """Rows of the draws as they finish, as `simjax.batch.execute.run_designs` gives them; `point` is the number of the draw.

    One program serves any number of draws, for tables and batches have sizes of their own.

    Args:
        batch: what is drawn.
        values: parameters, of each draw for each kind of engine.

    Raises:
        SimjaxError: a draw has no price.
    """
    workers = local_workers()
    together = min(max(power_of_two(len(values)), TOGETHER), TOGETHER_ACCELERATED) if workers.accelerated else TOGETHER
    for first in range(0, len(values), together):
        designs = _designs(batch, values[first : first + together], together)
        group = _group(batch, next(iter(designs.values())).lowered, len(designs), together, workers)
        for rows in run_designs(designs, [group], workers, group.width):
            yield [{**row, "point": first + row["point"]} for row in rows]


def _designs(batch: DrawnRun, values: Sequence[tuple[Values, ...]], rows: int) -> dict[int, Design]:
    """Some draws, priced: their engines differ in the row of one table of costs, which has room for so many draws, and in API times."""
    cluster, workload = batch.done.cluster, batch.done.workload
    sources = [_sources(batch, draw) for draw in values]
    timings: list[ClusterTiming] = []
    for timing in cluster_timings([cluster.instances] * len(values), sources, workload.tokens, len(workload)):
        if isinstance(timing, SimjaxError):
            raise timing
        timings.append(timing)
    step_time = _with_rows(timings[0].step_time, power_of_two(rows * len(batch.groups)))
    requests = request_params([workload], len(workload), [batch.seed])
    base = lower(
        cluster, replace(timings[0], step_time=step_time), workload, seed=batch.seed, leap=batch.leap, log=False, requests=requests
    )
    designs = {}
    for number, timing in enumerate(timings):
        own = replace(base.params.ranks, step_time=timing.row, api_pre_s=timing.api_pre_s, api_post_s=timing.api_post_s)  # pyright: ignore[reportArgumentType]
        lowered = replace(base, params=replace(base.params, ranks=own))
        designs[number] = Design(lowered, batch.slo, cluster.num_devices, batch.max_ticks)
    return designs


def _sources(batch: DrawnRun, draw: tuple[Values, ...]) -> list[LatencySource]:
    """Where each engine of a cluster takes its step costs from in a draw."""
    of_kind = [_source(batch.source, values) for values in draw]
    kind_at = {place: source for kind, source in zip(batch.groups, of_kind, strict=True) for place in kind.indices}
    return [kind_at[place] for place in range(len(kind_at))]


def _source(source: LatencySource, drawn: Values) -> LatencySource:
    """The source of a draw: factors multiply those that it has, other numbers replace them."""
    given = dict(source.parameters)
    values = {name: x * given.get(name, 1.0) if parameter(name).unit == "factor" else x for name, x in drawn.items()}
    return replace(source, parameters=tuple((given | values).items()))


def _with_rows(step_time: StepTime, rows: int) -> StepTime:
    """The table filled up with its last row."""
    missing = rows - step_time.host_s.shape[0]
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x, step_time)


def _group(batch: DrawnRun, lowered: Lowered, designs: int, together: int, workers: Workers) -> Group:
    """The draws through one program, with as many slots as the run needed and some to spare: a draw that needs more is run again."""
    leaps = batch.done.result.leaps
    assert leaps is not None
    held = float((leaps.running + leaps.preempted).max(initial=1))
    spare = math.ceil(1.25 * held + 3.0 * math.sqrt(held) + 8.0)
    shape = joint_shape([lowered], slots_for(spare, 2**31, EngineShape.window))
    bytes_each = shape.ranks * (shape.seats * SLOT_BYTES + shape.requests * 4) + shape.requests * REQUEST_BYTES
    width = max(1, min(-(-together // workers.count), MEMORY_BYTES // workers.count // bytes_each))
    chunks = tuple(tuple(range(i, min(i + width, designs))) for i in range(0, designs, width))
    return Group(shape, chunks, width, True, designs * batch.done.result.ticks, workers.count * width * bytes_each)
