"""The plan of a sweep: which designs run together, how many side by side, in what order; made, and printed, before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from simjax.config.schema import SweepConfig
from simjax.engine.shape import EngineShape, slots_for
from simjax.engine.stack import instance_bucket, program_key
from simjax.errors import SimjaxError
from simjax.explore.forecast import forecast
from simjax.explore.from_config import points_of
from simjax.explore.points import Points
from simjax.explore.resolve import Design, resolve

# For choices only: seconds of a CPU core a tick, design and slot, seconds to compile a program, and how much faster an accelerator is.
SLOT_S, COMPILE_S, ACCELERATION = 5.5e-9, 2.0, 100.0
MEMORY_BYTES = 1 << 30  # most that all batches that run at once may hold
TABLE_BYTES = 256 << 20  # a larger table of workloads is cut to those of a batch
CPU_WIDTH, ACCELERATOR_WIDTH = 64, 8_192  # a batch that fits the cache of a core; enough designs to fill an accelerator
SLOT_BYTES, REQUEST_BYTES, ROW_BYTES = 2 * 60, 44, 24  # of a slot (twice: the old and the new state), of an outcome, of a table's row
LARGE = 4_096  # workloads of more requests do not share a program with smaller ones: outcomes are as long as the longest


Device: TypeAlias = Any  # a jax.Device, which type checkers take for a variable


class Lanes(NamedTuple):
    """What batches run on: devices of one kind, and how many batches at once on each of them."""

    devices: tuple[Device, ...]
    each: int

    @property
    def count(self) -> int:
        """Batches at once."""
        return len(self.devices) * self.each

    @property
    def accelerated(self) -> bool:
        """Whether the devices are no CPUs."""
        return self.devices[0].platform != "cpu"


def local_lanes() -> Lanes:
    """All local devices; a CPU takes a batch for each of its cores, which beats splitting each kernel of one batch over them."""
    devices = tuple(jax.local_devices())
    if devices[0].platform != "cpu":
        return Lanes(devices, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Lanes(devices, max(1, cores // len(devices)))


@dataclass(frozen=True)
class Group:
    """Designs that run through one program.

    Attributes:
        shape: sizes that hold all of them.
        chunks: numbers of points, those of a chunk side by side; longest runs first.
        width: designs of a batch; a shorter chunk is filled up.
        shared_table: whether one table holds the workloads of the whole group, or one for each chunk.
        ticks: what the runs of the group are expected to take in all.
        memory_bytes: of the batches that run at once and the table, about.
    """

    shape: EngineShape
    chunks: tuple[tuple[int, ...], ...]
    width: int
    shared_table: bool
    ticks: int
    memory_bytes: int

    @property
    def designs(self) -> int:
        """How many."""
        return sum(map(len, self.chunks))


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, ready to run: see `of` and `simjax.run_sweep`.

    Attributes:
        base: overrides that all points share.
        points: all points.
        seeds: replicate seeds, None when there are none.
        shard: the part of the points that this plan holds, "k/n"; None for all.
        width: designs side by side, None for what suits the devices.
        groups: what runs together.
        designs: by point.
        invalid: why a point cannot be simulated, by point.
        warnings: what a reader of the numbers must know.
    """

    base: tuple[str, ...]
    points: Points
    seeds: tuple[int, ...] | None
    shard: str | None
    width: int | None
    groups: tuple[Group, ...]
    designs: dict[int, Design]
    invalid: dict[int, str]
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls,
        base: Sequence[str] = (),
        axes: Mapping[str, Any] | None = None,
        *,
        zipped: Sequence[Mapping[str, Any]] = (),
        points: str | Path | None = None,
        seeds: int | Sequence[int] | None = None,
        width: int | None = None,
        shard: str | None = None,
    ) -> SweepPlan:
        """The plan of all combinations of some axes.

            SweepPlan.of(["model=qwen3-32b"], {"device": ["h100", "h200"], "workload.rate": "linspace(1, 20, 40)"}, seeds=4)

        Args:
            base: overrides that all points share, in Hydra's grammar, as for `simjax.compose`.
            axes: values of each swept key: a list, an array, or text such as "linspace(1, 20, 40)", "geomspace(1, 64, 7)", "range(1, 9)".
            zipped: axes whose keys step together, each a mapping with equally many values a key.
            points: CSV file with a column a key, beside or instead of the axes.
            seeds: every design is simulated with so many workload seeds (or those of a list): replicates.
            width: designs simulated side by side; None for what suits the devices.
            shard: "k/n" keeps the k-th of n parts of the designs.

        Raises:
            SimjaxError: a key cannot be swept, values are wrong, or no point can be simulated.
        """
        config = SweepConfig(
            axes={key: _listed(values) for key, values in (axes or {}).items()},
            zip=[{key: _listed(values) for key, values in together.items()} for together in zipped],
            points=None if points is None else str(points),
            seeds=seeds if seeds is None or isinstance(seeds, int) else list(seeds),
        )
        found, read = points_of(config)
        return plan_sweep(base, found, seeds=read, width=width, shard=shard)

    def describe(self) -> str:
        """The plan in words: groups, batch sizes, programs to compile, memory."""
        lines = [f"{len(self.designs) + len(self.invalid):,} points: {len(self.designs):,} to simulate, {len(self.invalid):,} invalid"]
        programs = f"{len(self.groups)} program{'s' if len(self.groups) != 1 else ''} to compile"
        lines[0] += f"; {programs}, {max((group.memory_bytes for group in self.groups), default=0) / 2**20:,.0f} MiB at most"
        lines += [f"  {number}. {_words(group)}" for number, group in enumerate(self.groups, 1)]
        reasons: dict[str, int] = {}
        for reason in self.invalid.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        common = sorted(reasons.items(), key=lambda item: -item[1])
        lines += [f"  invalid: {count:,} x {reason}" for reason, count in common[:5]]
        if len(common) > 5:
            lines.append(f"  invalid: {sum(count for _, count in common[5:]):,} for {len(common) - 5} other reasons")
        return "\n".join([*lines, *(f"  warning: {line}" for line in self.warnings)])


def _listed(values: Any) -> Any:
    return values if isinstance(values, str) else [x.item() if isinstance(x, np.generic) else x for x in values]


def _words(group: Group) -> str:
    shape = group.shape
    engines = "1 engine" if shape.instances == 1 else f"up to {shape.instances} engines"
    router = ", closed loop" if shape.clients else ", live router" if shape.live_routing else ""
    sizes = f"{engines}{router}, {shape.requests:,} requests, {shape.slots} slots"
    batches = f"{len(group.chunks):,} x {group.width}" if len(group.chunks) > 1 else f"{group.width}"
    return f"{group.designs:,} designs in batches of {batches}: {sizes}; {group.ticks:,} ticks, {group.memory_bytes / 2**20:,.0f} MiB"


def plan_sweep(
    base: Sequence[str],
    points: Points,
    *,
    seeds: Sequence[int] | None = None,
    width: int | None = None,
    shard: str | None = None,
    lanes: Lanes | None = None,
) -> SweepPlan:
    """Plan a sweep.

    Args:
        base: overrides that all points share, in Hydra's grammar.
        points: what differs.
        seeds: replicate seeds, which are in the points already.
        width: designs side by side; None for what suits the devices.
        shard: "k/n" keeps every n-th design, starting with the k-th.
        lanes: devices to plan for; None for all local ones.

    Raises:
        SimjaxError: the base is wrong, or no point can be simulated.
    """
    part, parts = (int(x) for x in (shard or "1/1").split("/"))
    together = len(seeds or (0,))  # the seeds of a design, side by side in the points, go to the same part
    which = [point for point in range(len(points)) if point // together % parts == part - 1]
    resolved = resolve(base, points, which)
    if resolved.invalid and not resolved.designs:
        first = min(resolved.invalid)
        raise SimjaxError(f"none of the {len(which):,} points can be simulated; point {first}: {resolved.invalid[first]}")
    groups = make_groups(resolved.designs, lanes or local_lanes(), width)
    kept = None if seeds is None else tuple(seeds)
    return SweepPlan(tuple(base), points, kept, shard, width, groups, resolved.designs, resolved.invalid, resolved.warnings)


def make_groups(designs: dict[int, Design], lanes: Lanes, width: int | None = None, roomy: bool = False) -> tuple[Group, ...]:
    """Groups of the designs, given by the number of their point; the most work first.

    Args:
        designs: what to run.
        lanes: where.
        width: designs side by side, None for what suits the devices.
        roomy: give every engine the slots that its limits allow, not only those that it is expected to need.
    """
    guess = forecast([design.lowered for design in designs.values()])
    allowed = np.array([design.lowered.shape.slots for design in designs.values()])
    slots = allowed if roomy else np.minimum(allowed, [slots_for(int(held), 2**31, EngineShape.window) for held in guess.held])
    likely = {point: _Likely(int(s), int(t)) for point, s, t in zip(designs, slots, guess.ticks, strict=True)}
    alike: dict[tuple, list[int]] = {}
    for point, design in designs.items():
        shape = design.lowered.shape
        large = shape.requests if shape.requests > LARGE else 0
        alike.setdefault((*program_key(design.lowered), large, design.max_ticks), []).append(point)
    groups = [
        _group({point: designs[point] for point in together}, likely, lanes, width)
        for points in alike.values()
        for together in _by_slots({point: likely[point] for point in points}, lanes)
    ]
    return tuple(sorted(groups, key=lambda group: -group.ticks * group.shape.slots))


class _Likely(NamedTuple):
    """What a run is expected to need."""

    slots: int
    ticks: int


def _by_slots(designs: dict[int, _Likely], lanes: Lanes) -> list[list[int]]:
    """Split designs by their number of slots, of which every tick passes over all, where that saves more time than a program costs."""
    classes: dict[int, list[int]] = {}
    for point, likely in designs.items():
        classes.setdefault(likely.slots, []).append(point)
    slot_s = SLOT_S / ACCELERATION if lanes.accelerated else SLOT_S
    done: list[list[int]] = []
    current: list[int] = []
    for slots, following in zip(sorted(classes), [*sorted(classes)[1:], 0], strict=True):
        current += classes[slots]
        wasted_s = (following - slots) * slot_s * sum(designs[point].ticks for point in current)
        if not following or wasted_s > COMPILE_S:
            done.append(current)
            current = []
    return done


def _group(designs: dict[int, Design], likely: dict[int, _Likely], lanes: Lanes, width: int | None) -> Group:
    shapes = [design.lowered.shape for design in designs.values()]
    needed, slots = max(x.slots for x in shapes), max(likely[point].slots for point in designs)
    shape = replace(
        shapes[0],
        requests=max(x.requests for x in shapes),
        slots=slots,
        tight=slots < needed,
        clients=max(x.clients for x in shapes),
        instances=instance_bucket(shapes[0].instances),
    )
    design_bytes = shape.instances * shape.seats * SLOT_BYTES + shape.requests * REQUEST_BYTES
    design_bytes += shape.instances * shape.requests * 4 if shape.instances > 1 else 0
    tables = len({id(design.lowered.params.requests) for design in designs.values()})
    table_bytes = tables * shape.requests * ROW_BYTES
    wanted = width or (ACCELERATOR_WIDTH if lanes.accelerated else CPU_WIDTH)
    share = -(-len(designs) // lanes.count)
    fits = max(1, MEMORY_BYTES // lanes.count // design_bytes)
    side_by_side = min(wanted, 1 << (share - 1).bit_length(), 1 << (fits.bit_length() - 1))
    shared = table_bytes <= TABLE_BYTES
    order = sorted(designs, key=lambda point: -likely[point].ticks)
    chunks = tuple(tuple(order[i : i + side_by_side]) for i in range(0, len(order), side_by_side))
    held = lanes.count * side_by_side * (design_bytes + (0 if shared else shape.requests * ROW_BYTES)) + (table_bytes if shared else 0)
    return Group(shape, chunks, side_by_side, shared, sum(likely[point].ticks for point in designs), held)
