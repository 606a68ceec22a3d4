"""From single simulations to a batch: which may share a program, and their arrays side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import jax
import numpy as np

from simjax.engine.host.lower import Lowered
from simjax.engine.host.lowering.handover import UNBOUNDED
from simjax.engine.params import (
    BalancerParams,
    ClusterParams,
    GroupParams,
    HandoverParams,
    NoBalancerParams,
    NoSpeculationParams,
    PowerParams,
    PrefixParams,
    RankParams,
    RequestParams,
    SessionParams,
    SpeculationParams,
    TierParams,
)
from simjax.engine.shape import EngineShape, power_of_two
from simjax.latency.join import join_step_times, padded_rows
from simjax.latency.step_time import StepTime

T = TypeVar("T")

MANY = 2**30

RANK_BUCKETS = (1, 2, 4, 8)
# A rank that is padding: no request is ever routed to it. Capacities are divided by, so they are 1.
ABSENT_RANK = {"max_model_len": 0, **dict.fromkeys(("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "slots"), 1)}
ABSENT_RANK |= {"pipeline_stages": 1, "instance": -1}
_SOMETIMES = ("open_s", "prefix", "sessions", "model", "model_turn", "priority")  # fields of requests that few designs have
ABSENT_BALANCER = {"size": 1, "api_servers": 1}
_DRAFTS_OF_RANKS = ("num_speculative_tokens", "num_lookahead_tokens", "pads", "drops_last")


def program_key(design: Lowered) -> tuple:
    """A key of the program: designs with equal keys have the same subsystems and (padded) number of ranks, and can run in one batch.

    All other sizes are stretched to the largest of the batch.
    """
    return (rank_bucket(design.shape.ranks), *design.shape.systems, jax.tree.structure(design.params.step_time))


def rank_bucket(n: int) -> int:
    """Number of ranks that a program is made for: 1, 2, 4, 8, then multiples of 8."""
    return next((size for size in RANK_BUCKETS if n <= size), -(-n // RANK_BUCKETS[-1]) * RANK_BUCKETS[-1])


@dataclass(frozen=True)
class Batch:
    """B designs side by side, host arrays.

    Attributes:
        shape: sizes that hold every one of them.
        params: parameters with the axes of `simjax.engine.batch.BATCH_AXES`: leaves of the ranks [B, N], tables [V, R] and [C, ...].
    """

    shape: EngineShape
    params: ClusterParams

    def __len__(self) -> int:
        return len(self.params.workload)


def joint_shape(designs: Sequence[Lowered], slots: int = MANY) -> EngineShape:
    """Sizes that hold all designs of one `program_key`, with at most `slots` slots (tight ones, if designs may need more)."""
    shapes = [design.shape for design in designs]
    needed = max(x.slots for x in shapes)
    return replace(
        shapes[0],
        requests=max(x.requests for x in shapes),
        slots=min(slots, needed),
        tight=slots < needed,
        ranks=rank_bucket(shapes[0].ranks),
        clients=max(x.clients for x in shapes),
        prefix_nodes=max(x.prefix_nodes for x in shapes),
        prefix_path=max(x.prefix_path for x in shapes),
        prefix_room=max(x.prefix_room for x in shapes),
        fanout=max(x.fanout for x in shapes),
        pipeline_stages=max(x.pipeline_stages for x in shapes),
        speculation=max(x.speculation for x in shapes),
        groups=(groups := max(x.groups for x in shapes)),
        group_ranks=rank_bucket(shapes[0].ranks) if groups == 1 else max(x.group_ranks for x in shapes),
        api_servers=max(x.api_servers for x in shapes),
        handovers=max(x.handovers for x in shapes),
        links=max(x.links for x in shapes),
        tier_jobs=max(x.tier_jobs for x in shapes),
        tier_room=max(x.tier_room for x in shapes),
        log_rows=0,
    )


def make_batch(designs: Sequence[Lowered], shape: EngineShape | None = None, workloads: int = 1) -> Batch:
    """The designs, which must have one `program_key`, as a batch.

    Tables hold each distinct record once (compared by identity) and are padded to a power of two rows, so that they rarely change shape.
    Call it inside `jax.enable_x64(True)`.

    Args:
        designs: single simulations.
        shape: sizes that hold them; None for the least.
        workloads: least number of rows of the table of workloads.
    """
    shape = shape or joint_shape(designs)
    # Lowering may have left out of one design's requests what another needs of them: the arrivals are the same array nevertheless.
    requests, workload = _distinct([design.params.requests for design in designs], lambda x: id(x.arrival_s))
    step_times, step_time = _distinct([design.params.step_time for design in designs], id)
    first_row = np.cumsum([0, *(_rows(x) for x in step_times)])[step_time]
    instances = [_with_ranks(design.params.ranks, shape.ranks, row) for design, row in zip(designs, first_row, strict=True)]
    params = ClusterParams(
        ranks=_side_by_side(instances),
        router=jax.tree.map(lambda *x: np.stack(x), *(design.params.router for design in designs)),
        requests=_request_table(requests, shape, workloads),
        workload=np.array(workload, np.int32),  # pyright: ignore[reportArgumentType]
        step_time=_step_time_table(step_times),
        handover=_handovers(_those(HandoverParams, [design.params.handover for design in designs]), shape),
        balancer=_balancers(_those(BalancerParams, [design.params.balancer for design in designs]), shape),
        speculation=_speculation(_those(SpeculationParams, [design.params.speculation for design in designs]), shape),
        power=_power(_those(PowerParams, [design.params.power for design in designs]), shape),
        tiers=_tiers(_those(TierParams, [design.params.tiers for design in designs]), shape),
        groups=_groups(_those(GroupParams, [design.params.groups for design in designs]), shape),
    )
    return Batch(shape, params)


def _those(kind: type[T], records: Sequence[Any]) -> list[T]:
    """The records of a subsystem: all of them, or none where it does not exist."""
    return [x for x in records if isinstance(x, kind)]


def _groups(records: Sequence[GroupParams], shape: EngineShape) -> GroupParams | None:
    """The groups of all designs, padded to those of the shape with groups of no rank; None where there are none."""
    if not records:
        return None
    lengths, fill = {"of_rank": shape.ranks}, {"of_rank": -1, "sync_interval": 1, "prefill_schedule_interval": 1}
    tables: dict[str, Any] = {}
    for name in (x for x in GroupParams.__dataclass_fields__ if getattr(records[0], x) is not None):
        rows = [np.asarray(getattr(x, name)) for x in records]
        missing = [lengths.get(name, shape.groups) - len(row) for row in rows]
        tables[name] = np.stack([np.pad(row, (0, n), constant_values=fill.get(name, 0)) for row, n in zip(rows, missing, strict=True)])
    return GroupParams(**tables)


def _tiers(records: Sequence[TierParams], shape: EngineShape) -> TierParams | None:
    """The KV tiers of all designs, padded to the ranks of the shape; None where there are none."""
    if not records:
        return None
    pad = lambda x: np.pad(np.asarray(x), (0, shape.ranks - len(x)), mode="edge") if np.ndim(x) else x
    return jax.tree.map(lambda *x: np.stack([pad(one) for one in x]), *records)


def _power(records: Sequence[PowerParams], shape: EngineShape) -> PowerParams | None:
    """The power of all designs, padded to the ranks of the shape; None where there is none."""
    if not records:
        return None
    pad = lambda x: np.pad(np.asarray(x), (0, shape.ranks - len(x)), mode="edge")
    return jax.tree.map(lambda *x: np.stack([pad(one) for one in x]), *records)


def _speculation(records: Sequence[SpeculationParams], shape: EngineShape) -> SpeculationParams | NoSpeculationParams:
    """Drafts and rates of all designs, padded to the ranks and drafts of the shape."""
    if not records:
        return NoSpeculationParams()
    ranks: dict[str, Any] = {name: [_padded(np.asarray(getattr(x, name)), shape.ranks) for x in records] for name in _DRAFTS_OF_RANKS}
    rates = [np.pad(x.rates, ((0, shape.ranks - len(x.rates)), (0, shape.speculation - x.rates.shape[1]))) for x in records]
    tables: dict[str, Any] = {name: np.stack(rows) for name, rows in {**ranks, "rates": rates, "seed": [x.seed for x in records]}.items()}
    return SpeculationParams(**tables)


def _balancers(records: Sequence[BalancerParams], shape: EngineShape) -> BalancerParams | NoBalancerParams:
    """The load balancers of all designs, padded to the ranks of the shape."""
    if not records:
        return NoBalancerParams()
    absent = {"first": np.arange(shape.ranks), **ABSENT_BALANCER}

    def padded(name: str, values: np.ndarray) -> np.ndarray:
        missing = shape.ranks - len(values)
        fill = np.broadcast_to(absent.get(name, 0), (shape.ranks,))[len(values) :]
        return np.concatenate([values, fill.astype(values.dtype)]) if missing else values

    tables: dict[str, Any] = {}
    for name in BalancerParams.__dataclass_fields__:
        values = [np.asarray(getattr(x, name)) for x in records]
        tables[name] = np.stack([padded(name, x) if x.ndim else x for x in values])
    return BalancerParams(**tables)


def _handovers(records: Sequence[HandoverParams], shape: EngineShape) -> HandoverParams | None:
    """The hand-overs of all designs, padded to the ranks and links of the shape; None where there are none."""
    if not records:
        return None
    ranks, fill = shape.ranks, shape.links - 1
    tables: dict[str, Any] = {}
    for name in ("bytes_per_token", "setup_s", "per_block_s", "layers", "role"):
        tables[name] = np.stack([_padded(np.asarray(getattr(x, name)), ranks) for x in records])
    paths = [np.where(x.path == len(x.capacity) - 1, fill, x.path).astype(np.int32) for x in records]
    tables["path"] = np.stack([_padded(path, ranks, fill) for path in paths])
    capacities = [np.asarray(x.capacity) for x in records]
    tables["capacity"] = np.stack([np.pad(x[:-1], (0, shape.links + 1 - len(x)), constant_values=UNBOUNDED) for x in capacities])
    for name in ("decode_router", "headroom"):
        tables[name] = jax.tree.map(lambda *x: np.stack(x), *(getattr(x, name) for x in records))
    rest = [name for name in HandoverParams.__dataclass_fields__ if name not in tables]
    tables |= {name: np.stack([getattr(x, name) for x in records]) for name in rest}
    return HandoverParams(**tables)


def _padded(table: np.ndarray, ranks: int, fill: int = 0) -> np.ndarray:
    """A table over ranks, or over pairs of them, with rows for ranks that are padding."""
    over = 1 if table.ndim == 1 else 2
    return np.pad(table, [(0, ranks - len(table))] * over + [(0, 0)] * (table.ndim - over), constant_values=fill)


def _distinct(records: Sequence[Any], key: Callable[[Any], int]) -> tuple[list[Any], list[int]]:
    """The records without repetitions, and the place of each of them there."""
    place: dict[int, int] = {}
    for record in records:
        place.setdefault(key(record), len(place))
    return list({key(record): record for record in records}.values()), [place[key(record)] for record in records]


def _rows(step_time: StepTime) -> int:
    return step_time.host_s.shape[0]


def _with_ranks(instances: RankParams, count: int, first_cost_row: int) -> RankParams:
    """The ranks padded to `count`, their rows of step times counted from the start of the batch's table."""
    missing = count - len(instances.step_time)
    leaves = {name: leaf for name in RankParams.__dataclass_fields__ if (leaf := getattr(instances, name)) is not None}
    leaves["step_time"] = leaves["step_time"] + np.int32(first_cost_row)
    if missing:
        leaves = {name: np.concatenate([x, np.full(missing, ABSENT_RANK.get(name, 0), x.dtype)]) for name, x in leaves.items()}
    return RankParams(**leaves)


def _side_by_side(records: Sequence[RankParams]) -> RankParams:
    """The ranks of designs that all have a field, or none of them."""
    given = [name for name in RankParams.__dataclass_fields__ if getattr(records[0], name) is not None]
    return RankParams(**{name: np.stack([getattr(x, name) for x in records]) for name in given})  # pyright: ignore[reportArgumentType]


def _request_table(records: Sequence[RequestParams], shape: EngineShape, rows: int) -> RequestParams:
    """All workloads in one table, [V, R]; the padding rows hold no request."""
    fill = {"arrival_s": np.inf, "prompt_tokens": 1, "output_tokens": 1}
    padding = power_of_two(max(sum(len(x.count) for x in records), rows)) - sum(len(x.count) for x in records)

    def table(records: Sequence[Any], name: str, width: int, fill: float = 0) -> Any:
        rows = [np.asarray(getattr(x, name)) for x in records]
        if rows[0].ndim == 2:
            rows = [np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=fill) if x.shape[1] < width else x for x in rows]
        return np.concatenate([*rows, np.full((padding, *rows[0].shape[1:]), fill, rows[0].dtype)])

    def part(kind: type, records: Sequence[Any], **widths: int) -> Any:
        """The record of tables that each of these has; those whose width is not given are over requests."""
        return kind(**{name: table(records, name, widths.get(name, shape.requests)) for name in kind.__dataclass_fields__})

    trees, calls = _those(PrefixParams, [x.prefix for x in records]), _those(SessionParams, [x.sessions for x in records])
    # A slice of the longest path, or of the most calls that wait for one, may start at the last entry.
    longest = lambda tables: max((x.shape[1] for x in tables), default=0)
    entries = power_of_two(1 + shape.prefix_path + longest(x.nodes for x in trees))
    edges = power_of_two(1 + shape.fanout + longest(x.then for x in calls))
    names = [name for name in RequestParams.__dataclass_fields__ if name not in _SOMETIMES]
    return RequestParams(
        **{name: table(records, name, shape.requests, fill.get(name, 0)) for name in names},
        open_s=table(records, "open_s", shape.clients, np.inf) if shape.capped else None,
        prefix=part(PrefixParams, trees, start_tokens=shape.prefix_nodes, end_tokens=shape.prefix_nodes, nodes=entries) if trees else None,
        sessions=part(SessionParams, calls, then=edges, delay_s=edges) if calls else None,
        model=table(records, "model", shape.requests, -1) if shape.models else None,
        model_turn=table(records, "model_turn", shape.requests) if shape.models else None,
        priority=table(records, "priority", shape.requests) if shape.priorities else None,
    )


def _step_time_table(step_times: Sequence[StepTime]) -> StepTime:
    """All step times in one table; the padding repeats its last row."""
    table = jax.tree.map(np.asarray, step_times[0] if len(step_times) == 1 else join_step_times(step_times))
    return padded_rows(table, power_of_two(_rows(table)))
