"""Which designs run together, through one program, and how many of them side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from simjax.batch.design import Design
from simjax.batch.forecast import forecast
from simjax.batch.workers import Workers
from simjax.engine.host.batch import joint_shape, program_key
from simjax.engine.shape import EngineShape, power_of_two, slots_for
from simjax.text import counted

# Only for choices: seconds per tick, design and slot on a CPU core, seconds to compile a program, and how much faster an accelerator is.
SLOT_S, COMPILE_S, ACCELERATION = 5.5e-9, 2.0, 100.0
MEMORY_BYTES = 1 << 30  # limit for all batches that run at once
TABLE_BYTES = 256 << 20  # a larger table of workloads is replaced by one for each batch
CPU_WIDTH, ACCELERATOR_WIDTH = 64, 8_192  # a batch that fits the cache of a core; enough designs to fill an accelerator
CACHING_CPU_WIDTH = 16
# Bytes of a slot (twice: the old and the new state), of an outcome, of a row of a table, and of the tables of a prefix cache.
SLOT_BYTES, REQUEST_BYTES, ROW_BYTES = 2 * 60, 44, 24
RUN_BYTES, HOLD_BYTES, NODE_BYTES = 36, 12, 8
OWN_PROGRAM_REQUESTS = 4_096  # workloads of more requests do not share a program with smaller ones: outcomes are as long as the longest


@dataclass(frozen=True)
class Group:
    """Designs that run through one program.

    Attributes:
        shape: sizes that hold all of them.
        chunks: numbers of points, those of a chunk side by side; longest runs first.
        width: designs of a batch; a shorter chunk is padded with its last design.
        shared_table: whether one table holds the workloads of the whole group, rather than one for each chunk.
        ticks: total number of ticks that the runs of the group are expected to take.
        memory_bytes: approximate memory of the batches that run at once and of the table.
    """

    shape: EngineShape
    chunks: tuple[tuple[int, ...], ...]
    width: int
    shared_table: bool
    ticks: int
    memory_bytes: int

    @property
    def designs(self) -> int:
        """Number of designs."""
        return sum(map(len, self.chunks))

    def __str__(self) -> str:
        shape = self.shape
        instances = "1 instance" if shape.ranks == 1 else f"up to {shape.ranks} instances"
        router = ", capped clients" if shape.capped else ", closed loop" if shape.clients else ", live router" if shape.live_routing else ""
        sizes = f"{instances}{router}, {shape.requests:,} requests, {shape.slots} slots"
        batches = f"{len(self.chunks):,} x {self.width}" if len(self.chunks) > 1 else f"{self.width}"
        expected = f"{self.ticks:,} ticks, {self.memory_bytes / 2**20:,.0f} MiB"
        return f"{counted(self.designs, 'designs')} in batches of {batches}: {sizes}; {expected}"


def make_groups(
    designs: dict[int, Design], workers: Workers, width: int | None = None, roomy: bool = False, repeats: int = 1
) -> tuple[Group, ...]:
    """Groups of designs that run through one program each, those with the most work first.

    Args:
        designs: the designs by the number of their point.
        workers: devices that they run on.
        width: designs side by side, None for what suits the devices.
        roomy: give every instance the slots that its limits allow, not only those that it is expected to need.
        repeats: number of runs of each design, for which it pays to compile more programs.
    """
    if not designs:
        return ()
    guess = forecast([design.lowered for design in designs.values()])
    allowed = np.array([design.lowered.shape.slots for design in designs.values()])
    slots = allowed if roomy else np.minimum(allowed, [slots_for(int(held), 2**31, EngineShape.window) for held in guess.held])
    likely = {point: _Likely(int(s), int(t)) for point, s, t in zip(designs, slots, guess.ticks, strict=True)}
    alike: dict[tuple, list[int]] = {}
    for point, design in designs.items():
        shape = design.lowered.shape
        large = shape.requests if shape.requests > OWN_PROGRAM_REQUESTS else 0
        alike.setdefault((*program_key(design.lowered), large, design.max_ticks), []).append(point)
    groups = [
        _group({point: designs[point] for point in together}, likely, workers, width)
        for points in alike.values()
        for together in _by_slots({point: likely[point] for point in points}, workers, repeats)
    ]
    return tuple(sorted(groups, key=lambda group: -group.ticks * group.shape.slots))


def design_bytes(shape: EngineShape) -> int:
    """Bytes that a design of this shape holds while its batch runs, about."""
    routes = shape.ranks * shape.requests * 4 if shape.ranks > 1 else 0
    caches = shape.ranks * (shape.prefix_entries * RUN_BYTES + shape.prefix_holds * HOLD_BYTES + shape.prefix_nodes * NODE_BYTES)
    caches = 2 * caches if shape.prefix_nodes else 0  # the old and the new state
    return shape.ranks * shape.seats * SLOT_BYTES + shape.requests * REQUEST_BYTES + routes + caches


class _Likely(NamedTuple):
    """Slots and ticks that a run is expected to need."""

    slots: int
    ticks: int


def _by_slots(designs: dict[int, _Likely], workers: Workers, repeats: int) -> list[list[int]]:
    """Designs split by their number of slots, all of which every tick reads, where that saves more time than compiling a program takes."""
    classes: dict[int, list[int]] = {}
    for point, likely in designs.items():
        classes.setdefault(likely.slots, []).append(point)
    slot_s = SLOT_S / ACCELERATION if workers.accelerated else SLOT_S
    done: list[list[int]] = []
    current: list[int] = []
    for slots, following in zip(sorted(classes), [*sorted(classes)[1:], 0], strict=True):
        current += classes[slots]
        wasted_s = repeats * (following - slots) * slot_s * sum(designs[point].ticks for point in current)
        if not following or wasted_s > COMPILE_S:
            done.append(current)
            current = []
    return done


def _group(designs: dict[int, Design], likely: dict[int, _Likely], workers: Workers, width: int | None) -> Group:
    shape = joint_shape([design.lowered for design in designs.values()], max(likely[point].slots for point in designs))
    each_bytes = design_bytes(shape)
    tables = len({id(design.lowered.params.requests) for design in designs.values()})
    table_bytes = power_of_two(tables) * shape.requests * ROW_BYTES
    shared = table_bytes <= TABLE_BYTES
    wanted = width or (ACCELERATOR_WIDTH if workers.accelerated else CACHING_CPU_WIDTH if shape.prefix_nodes else CPU_WIDTH)
    fits = max(1, MEMORY_BYTES // workers.count // each_bytes)
    count = workers.count * -(-len(designs) // (workers.count * min(wanted, fits)))  # number of chunks, such that the workers end together
    share = -(-len(designs) // count)
    step = 1 if share <= 4 else 4 if share <= 16 else 8  # a program is made for each width
    side_by_side = min(-(-share // step) * step, wanted, fits)
    order = sorted(designs, key=lambda point: -likely[point].ticks)
    chunks = tuple(tuple(order[i : i + share]) for i in range(0, len(order), share))
    table_of_chunks = workers.count * power_of_two(side_by_side) * shape.requests * ROW_BYTES
    held = workers.count * side_by_side * each_bytes + (table_bytes if shared else table_of_chunks)
    return Group(shape, chunks, side_by_side, shared, sum(likely[point].ticks for point in designs), held)
