"""Simulating many draws of a run side by side: they differ in rows of one table of step times, in API times, and in their requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simjax.batch.design import Design, RunOptions, design_of, required_timings
from simjax.batch.execute import Row, run_designs
from simjax.batch.groups import MEMORY_BYTES, Group, design_bytes
from simjax.batch.workers import Workers, local_workers
from simjax.cluster.latency_source import LatencySource
from simjax.engine.host.batch import joint_shape
from simjax.engine.host.lower import Lowered
from simjax.engine.host.lowering.requests import request_params
from simjax.engine.host.lowering.speculation import speculation_part
from simjax.engine.shape import EngineShape, power_of_two, slots_for
from simjax.job import Run
from simjax.latency.join import padded_rows
from simjax.latency.priors import parameter
from simjax.uncertainty.draws import Values
from simjax.validity.groups import InstanceGroup
from simjax.workload.workload import Workload

TOGETHER, TOGETHER_ACCELERATED = 64, 1_024  # draws that share one table of step times, on CPUs and on accelerators


@dataclass(frozen=True)
class DrawnRun:
    """All that the draws of a run have in common.

    Attributes:
        done: the run, with its leap log.
        source: source of its step times, a profile.
        groups: the instances of its cluster, by profile, model and tensor-parallel degree.
        options: options of how each draw is run and judged.
    """

    done: Run
    source: LatencySource
    groups: tuple[InstanceGroup, ...]
    options: RunOptions
    seeded: Callable[[int], Workload] | None = None
    """The workload with another seed; None where all draws meet the same requests."""

    def load(self, draw: int) -> tuple[Workload, int]:
        """The requests of a draw, and the seed of the random router."""
        if self.seeded is None:
            return self.done.workload, self.options.seed
        seed = self.options.seed + 1 + draw
        return self.seeded(seed), seed


def simulate_values(batch: DrawnRun, values: Sequence[tuple[Values, ...]]) -> Iterator[list[Row]]:
    """Rows of the draws as they finish, as `simjax.batch.execute.run_designs` gives them; `point` is the number of the draw.

    One program serves any number of draws: the sizes of tables and batches do not depend on it.

    Args:
        batch: the run that is drawn.
        values: parameters, for each draw and each group of instances.

    Raises:
        SimjaxError: a draw has no step times.
    """
    workers = local_workers()
    together = min(max(power_of_two(len(values)), TOGETHER), TOGETHER_ACCELERATED) if workers.accelerated else TOGETHER
    for first in range(0, len(values), together):
        designs = _designs(batch, values[first : first + together], first, together)
        group = _group(batch, [design.lowered for design in designs.values()], together, workers)
        for rows in run_designs(designs, [group], workers, group.width):
            yield [{**row, "point": first + row["point"]} for row in rows]


def _designs(batch: DrawnRun, values: Sequence[tuple[Values, ...]], first: int, draws: int) -> dict[int, Design]:
    """The designs of some draws, of which the first one is number `first`; their table of step times has room for `draws`."""
    cluster, options = batch.done.cluster, batch.options
    loads = [batch.load(first + number) for number in range(len(values) if batch.seeded is not None else 1)]
    timings = required_timings([cluster.instances] * len(values), [_sources(batch, draw) for draw in values], [x for x, _ in loads])
    step_time = padded_rows(timings[0].step_time, power_of_two(draws * len(batch.groups)))
    bases = []
    for workload, seed in loads:
        requests = request_params([workload], len(workload), [seed])
        bases.append(design_of(cluster, replace(timings[0], step_time=step_time), workload, options, requests))
    designs, of_rank = {}, np.array(cluster.instance_of_rank)
    for number, timing in enumerate(timings):
        base = bases[number % len(bases)]
        row, pre_s, post_s = (x[of_rank] for x in (timing.row, timing.api_pre_s, timing.api_post_s))
        own = replace(base.lowered.params.ranks, step_time=row, api_pre_s=pre_s, api_post_s=post_s)  # pyright: ignore[reportArgumentType]
        drafts = speculation_part(cluster, timing.draft_acceptance).params
        params = replace(base.lowered.params, ranks=own, **drafts)
        designs[number] = replace(base, lowered=replace(base.lowered, params=params))
    return designs


def _sources(batch: DrawnRun, draw: tuple[Values, ...]) -> list[LatencySource]:
    """The sources of step times of the cluster's instances in a draw."""
    of_group = [_source(batch.source, values) for values in draw]
    at = {index: source for group, source in zip(batch.groups, of_group, strict=True) for index in group.indices}
    return [at[index] for index in range(len(at))]


def _source(source: LatencySource, drawn: Values) -> LatencySource:
    """The source of a draw: factors multiply those that it has, other numbers replace them."""
    given = dict(source.parameters)
    values = {name: x * given.get(name, 1.0) if parameter(name).unit == "factor" else x for name, x in drawn.items()}
    return replace(source, parameters=tuple((given | values).items()))


def _group(batch: DrawnRun, lowered: Sequence[Lowered], together: int, workers: Workers) -> Group:
    """The draws through one program, with as many slots as the run needed and some to spare: a draw that needs more is run again."""
    leaps = batch.done.result.leaps
    assert leaps is not None
    held = float((leaps.running + leaps.preempted).max(initial=1))
    spare = math.ceil(1.25 * held + 3.0 * math.sqrt(held) + 8.0)
    shape = joint_shape(lowered, slots_for(spare, 2**31, EngineShape.window))
    each_bytes = design_bytes(shape)
    width = max(1, min(-(-together // workers.count), MEMORY_BYTES // workers.count // each_bytes))
    designs = len(lowered)
    chunks = tuple(tuple(range(i, min(i + width, designs))) for i in range(0, designs, width))
    return Group(shape, chunks, width, True, designs * batch.done.result.ticks, workers.count * width * each_bytes)
