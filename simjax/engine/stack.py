"""From single simulations to a batch: which may share a program, and their arrays side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from simjax.engine.lower import Lowered
from simjax.engine.params import ClusterParams, InstanceParams, RequestParams
from simjax.engine.shape import EngineShape, power_of_two
from simjax.latency.cost import StepCost
from simjax.latency.stack import stack_costs

INSTANCE_BUCKETS = (1, 2, 4, 8)
# An engine that is not there: no request is ever routed to it. Capacities are divided by, so they are 1.
NOBODY = {"max_model_len": 0, "num_blocks": 1, "block_size": 1, "max_num_seqs": 1, "max_num_batched_tokens": 1, "slots": 1}


def program_key(design: Lowered) -> tuple:
    """Designs with equal keys can run in one batch: the subsystems that exist and the (padded) number of engines are the same.

    All other sizes are stretched to the largest of the batch.
    """
    shape = design.shape
    return (instance_bucket(shape.instances), shape.live_routing, shape.clients > 0, shape.leap, jax.tree.structure(design.params.cost))


def instance_bucket(n: int) -> int:
    """Engines a program is made for: 1, 2, 4, 8, then multiples of 8."""
    return next((size for size in INSTANCE_BUCKETS if n <= size), -(-n // INSTANCE_BUCKETS[-1]) * INSTANCE_BUCKETS[-1])


@dataclass(frozen=True)
class Stack:
    """B designs side by side, host arrays.

    Attributes:
        shape: sizes that hold every one of them.
        params: as `simjax.engine.batch.BATCH_AXES` says: leaves of the engines [B, N], tables [V, R] and [C, ...].
    """

    shape: EngineShape
    params: ClusterParams

    def __len__(self) -> int:
        return len(self.params.workload)


def joint_shape(designs: Sequence[Lowered], slots: int | None = None) -> EngineShape:
    """Sizes that hold all designs of one `program_key`, with at most so many slots (tight ones, if designs may need more)."""
    shapes = [design.shape for design in designs]
    needed = max(x.slots for x in shapes)
    return replace(
        shapes[0],
        requests=max(x.requests for x in shapes),
        slots=needed if slots is None else min(slots, needed),
        tight=slots is not None and slots < needed,
        instances=instance_bucket(shapes[0].instances),
        clients=max(x.clients for x in shapes),
        log_rows=0,
    )


def stack(designs: Sequence[Lowered], shape: EngineShape | None = None, workloads: int = 1) -> Stack:
    """The designs, which must have one `program_key`, as a batch.

    Tables hold each distinct record once (compared by identity) and are padded to a power of two rows, so that they seldom change shape.
    Call it inside `jax.enable_x64(True)`.

    Args:
        designs: single simulations.
        shape: sizes that hold them; None for the least.
        workloads: the table of workloads has room for so many at least.
    """
    shape = shape or joint_shape(designs)
    requests, workload = _distinct([design.params.requests for design in designs])
    costs, cost = _distinct([design.params.cost for design in designs])
    first_row = np.cumsum([0, *(_rows(x) for x in costs)])[cost]
    instances = [_with_engines(design.params.instances, shape.instances, row) for design, row in zip(designs, first_row, strict=True)]
    params = ClusterParams(
        instances=_side_by_side(instances),
        num_instances=np.array([design.params.num_instances for design in designs], np.int32),  # pyright: ignore[reportArgumentType]
        router=np.array([design.params.router for design in designs], np.int32),  # pyright: ignore[reportArgumentType]
        requests=_request_table(requests, shape.requests, workloads),
        workload=np.array(workload, np.int32),  # pyright: ignore[reportArgumentType]
        cost=_cost_table(costs),
    )
    return Stack(shape, params)


def _distinct(records: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """The records without repetitions, and the place of each of them there."""
    place: dict[int, int] = {}
    for record in records:
        place.setdefault(id(record), len(place))
    return list({id(record): record for record in records}.values()), [place[id(record)] for record in records]


def _rows(cost: StepCost) -> int:
    return cost.host_s.shape[0]


def _with_engines(instances: InstanceParams, count: int, first_cost_row: int) -> InstanceParams:
    """The engines padded to `count`, their cost rows counted from the start of the batch's table."""
    missing = count - len(instances.cost)
    leaves = {name: getattr(instances, name) for name in InstanceParams.__dataclass_fields__}
    leaves["cost"] = leaves["cost"] + np.int32(first_cost_row)
    if missing:
        leaves = {name: np.concatenate([x, np.full(missing, NOBODY.get(name, 0), x.dtype)]) for name, x in leaves.items()}
    return InstanceParams(**leaves)


def _side_by_side(records: Sequence[InstanceParams]) -> InstanceParams:
    return InstanceParams(**{name: np.stack([getattr(x, name) for x in records]) for name in InstanceParams.__dataclass_fields__})  # pyright: ignore[reportArgumentType]


def _request_table(records: Sequence[RequestParams], size: int, rows: int) -> RequestParams:
    """All workloads in one table, [V, size]; the padding rows hold no request."""
    fill = {"arrival_s": np.inf, "prompt_tokens": 1, "output_tokens": 1}
    real = sum(len(x.count) for x in records)
    padding = power_of_two(max(real, rows)) - real

    def table(name: str) -> Any:
        rows = [np.asarray(getattr(x, name)) for x in records]
        value = fill.get(name, 0)
        if rows[0].ndim == 2:
            rows = [np.pad(x, ((0, 0), (0, size - x.shape[1])), constant_values=value) if x.shape[1] < size else x for x in rows]
        return np.concatenate([*rows, np.full((padding, *rows[0].shape[1:]), value, rows[0].dtype)])

    return RequestParams(**{name: table(name) for name in RequestParams.__dataclass_fields__})


def _cost_table(costs: Sequence[StepCost]) -> StepCost:
    """All step costs in one table; the padding repeats its last row."""
    table = jax.tree.map(np.asarray, costs[0] if len(costs) == 1 else stack_costs(costs))
    padding = power_of_two(_rows(table)) - _rows(table)
    return jax.tree.map(lambda x: np.concatenate([x, np.repeat(x[-1:], padding, axis=0)]) if padding else x, table)
