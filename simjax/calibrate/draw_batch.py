"""Simulating many draws of a cluster's step costs side by side: they differ in rows of one table of costs, and in API times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np

from simjax.calibrate.domain import Engines
from simjax.calibrate.draws import Values
from simjax.cluster.pricing import ClusterPrices, CostSource, price_clusters
from simjax.engine.lower import Lowered, lower
from simjax.engine.lower_requests import request_params
from simjax.engine.shape import EngineShape, power_of_two, slots_for
from simjax.engine.stack import joint_shape
from simjax.errors import SimjaxError
from simjax.explore.execute import Row, run_designs
from simjax.explore.groups import MEMORY_BYTES, REQUEST_BYTES, SLOT_BYTES, Group
from simjax.explore.lanes import Lanes, local_lanes
from simjax.explore.resolve import Design
from simjax.job import Run
from simjax.latency.cost import StepCost
from simjax.latency.priors import parameter
from simjax.metrics.slo import Slo

TOGETHER, TOGETHER_ACCELERATED = 64, 1_024  # draws that are priced at a time, and share one table of costs


@dataclass(frozen=True)
class DrawnRun:
    """What all draws of a run have in common.

    Attributes:
        done: the run, with its leap log.
        source: its step costs, a profile.
        engines: those of its cluster, by profile, model and degree.
        seed, leap, max_ticks: as for `simjax.simulate_cluster`.
        slo: limits for goodput.
    """

    done: Run
    source: CostSource
    engines: tuple[Engines, ...]
    seed: int
    leap: bool
    max_ticks: int
    slo: Slo | None


def simulate_values(batch: DrawnRun, values: Sequence[tuple[Values, ...]]) -> Iterator[list[Row]]:
    """Rows of the draws as they finish, as `simjax.explore.execute.run_designs` gives them; `point` is the number of the draw.

    One program serves any number of draws, for tables and batches have sizes of their own.

    Args:
        batch: what is drawn.
        values: parameters, of each draw for each kind of engine.

    Raises:
        SimjaxError: a draw has no price.
    """
    lanes = local_lanes()
    together = min(max(power_of_two(len(values)), TOGETHER), TOGETHER_ACCELERATED) if lanes.accelerated else TOGETHER
    for first in range(0, len(values), together):
        designs = _designs(batch, values[first : first + together], together)
        group = _group(batch, next(iter(designs.values())).lowered, len(designs), together, lanes)
        for rows in run_designs(designs, [group], lanes, group.width):
            yield [{**row, "point": first + row["point"]} for row in rows]


def _designs(batch: DrawnRun, values: Sequence[tuple[Values, ...]], rows: int) -> dict[int, Design]:
    """Some draws, priced: their engines differ in the row of one table of costs, which has room for so many draws, and in API times."""
    cluster, workload = batch.done.cluster, batch.done.workload
    sources = [_sources(batch, draw) for draw in values]
    prices: list[ClusterPrices] = []
    for price in price_clusters([cluster.instances] * len(values), sources, workload.tokens, len(workload)):
        if isinstance(price, SimjaxError):
            raise price
        prices.append(price)
    cost = _with_rows(prices[0].cost, power_of_two(rows * len(batch.engines)))
    requests = request_params([workload], len(workload), [batch.seed])
    base = lower(cluster, replace(prices[0], cost=cost), workload, seed=batch.seed, leap=batch.leap, log=False, requests=requests)
    designs = {}
    for number, price in enumerate(prices):
        own = replace(base.params.instances, cost=price.row, api_pre_s=price.api_pre_s, api_post_s=price.api_post_s)  # pyright: ignore[reportArgumentType]
        lowered = replace(base, params=replace(base.params, instances=own))
        designs[number] = Design(lowered, batch.slo, cluster.num_devices, batch.max_ticks)
    return designs


def _sources(batch: DrawnRun, draw: tuple[Values, ...]) -> list[CostSource]:
    """Where each engine of a cluster takes its step costs from in a draw."""
    of_kind = [_source(batch.source, values) for values in draw]
    kind_at = {place: source for kind, source in zip(batch.engines, of_kind, strict=True) for place in kind.places}
    return [kind_at[place] for place in range(len(kind_at))]


def _source(source: CostSource, drawn: Values) -> CostSource:
    """The source of a draw: factors multiply those that it has, other numbers replace them."""
    given = dict(source.parameters)
    values = {name: x * given.get(name, 1.0) if parameter(name).unit == "factor" else x for name, x in drawn.items()}
    return replace(source, parameters=tuple((given | values).items()))


def _with_rows(cost: StepCost, rows: int) -> StepCost:
    """The table filled up with its last row."""
    missing = rows - cost.host_s.shape[0]
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x, cost)


def _group(batch: DrawnRun, lowered: Lowered, designs: int, together: int, lanes: Lanes) -> Group:
    """The draws through one program, with as many slots as the run needed and some to spare: a draw that needs more is run again."""
    leaps = batch.done.result.leaps
    assert leaps is not None
    held = float((leaps.running + leaps.preempted).max(initial=1))
    spare = math.ceil(1.25 * held + 3.0 * math.sqrt(held) + 8.0)
    shape = joint_shape([lowered], slots_for(spare, 2**31, EngineShape.window))
    bytes_each = shape.instances * (shape.seats * SLOT_BYTES + shape.requests * 4) + shape.requests * REQUEST_BYTES
    width = max(1, min(-(-together // lanes.count), MEMORY_BYTES // lanes.count // bytes_each))
    chunks = tuple(tuple(range(i, min(i + width, designs))) for i in range(0, designs, width))
    return Group(shape, chunks, width, True, designs * batch.done.result.ticks, lanes.count * width * bytes_each)
