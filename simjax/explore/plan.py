"""The plan of a sweep: which designs run together, how many side by side, and in which order; it is made before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from simjax.batch.design import Design
from simjax.batch.groups import Group, make_groups
from simjax.batch.workers import Workers, local_workers
from simjax.config.compose import normal
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.explore.from_config import points_of
from simjax.explore.points import Points
from simjax.explore.resolve import resolve
from simjax.text import counted


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, ready to run: see `of` and `simjax.run_sweep`.

    Attributes:
        base: overrides that all points share.
        points: all points.
        seeds: replicate seeds, None when there are none.
        shard: the part of the points that this plan holds, "k/n"; None for all points.
        width: designs side by side, None for what suits the devices.
        workers: devices that it is made for.
        groups: designs that run together.
        designs: designs by point.
        invalid: by point, why it cannot be simulated.
        extensible: points that `lengthened` makes longer.
        warnings: caveats for a reader of the numbers, one line each.
    """

    base: tuple[str, ...]
    points: Points
    seeds: tuple[int, ...] | None
    shard: str | None
    width: int | None
    workers: Workers
    groups: tuple[Group, ...]
    designs: dict[int, Design]
    invalid: dict[int, str]
    extensible: frozenset[int]
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
            points: CSV file with a column for each key, in addition to the axes or instead of them.
            seeds: number of workload seeds (or a list of them) with which every design is simulated: its replicates.
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
            width=width,
            shard=shard,
        )
        found, read = points_of(config)
        return plan_sweep(list(map(normal, base)), found, seeds=read, width=width, shard=shard)

    def without(self, done: Set[int]) -> SweepPlan:
        """The plan of the points that are not done."""
        designs = {point: design for point, design in self.designs.items() if point not in done}
        invalid = {point: reason for point, reason in self.invalid.items() if point not in done}
        groups = self.groups if len(designs) == len(self.designs) else make_groups(designs, self.workers, self.width)
        return replace(self, designs=designs, invalid=invalid, groups=groups)

    def lengthened(self, which: Sequence[int]) -> SweepPlan:
        """The plan of some of the `extensible` points with workloads as long as can be, for runs that were too short to judge."""
        longer = resolve(self.base, self.points, which, lengthen=True)
        groups = make_groups(longer.designs, self.workers, self.width)
        return replace(self, groups=groups, designs=longer.designs, invalid=longer.invalid, extensible=frozenset())

    def describe(self) -> str:
        """A description of the plan: groups, batch sizes, programs to compile, memory."""
        points = counted(len(self.designs) + len(self.invalid), "points")
        lines = [f"{points}: {len(self.designs):,} to simulate, {len(self.invalid):,} invalid"]
        programs = f"{counted(len(self.groups), 'programs')} to compile"
        batches = max((group.memory_bytes for group in self.groups), default=0)
        lines[0] += (
            f"; {programs}; about {_plan_bytes(self.designs) / 2**20:,.0f} MiB for the plan and {batches / 2**20:,.0f} MiB for batches"
        )
        lines += [f"  {number}. {group}" for number, group in enumerate(self.groups, 1)]
        reasons: dict[str, int] = {}
        for reason in self.invalid.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        common = sorted(reasons.items(), key=lambda item: -item[1])
        lines += [f"  invalid: {count:,} x {reason}" for reason, count in common[:5]]
        if len(common) > 5:
            lines.append(f"  invalid: {sum(count for _, count in common[5:]):,} for {len(common) - 5} other reasons")
        return "\n".join([*lines, *(f"  warning: {line}" for line in self.warnings)])


def _plan_bytes(designs: Mapping[int, Design]) -> int:
    """Bytes of the arrays of a plan: workloads, step times, limits."""
    tables = {id(x): x for design in designs.values() for x in (design.lowered.params.requests, design.lowered.params.step_time)}
    rest = sum(x.nbytes for design in designs.values() for x in jax.tree.leaves(design.lowered.params.ranks))
    return rest + sum(x.nbytes for table in tables.values() for x in jax.tree.leaves(table))


def _listed(values: Any) -> Any:
    if isinstance(values, str) or not isinstance(values, Iterable):
        return values  # `points_of` reads it or reports what is wrong
    return [x.item() if isinstance(x, np.generic) else x for x in values]


def plan_sweep(
    base: Sequence[str],
    points: Points,
    *,
    seeds: Sequence[int] | None = None,
    width: int | None = None,
    shard: str | None = None,
    workers: Workers | None = None,
) -> SweepPlan:
    """Plan a sweep.

    Args:
        base: overrides that all points share, in Hydra's grammar.
        points: values of the swept keys of each point.
        seeds: replicate seeds, which the points contain already.
        width: designs side by side; None for what suits the devices.
        shard: "k/n" keeps every n-th design, starting with the k-th.
        workers: devices to plan for; None for all local ones.

    Raises:
        SimjaxError: the base is wrong, or no point can be simulated.
    """
    part, parts = (int(x) for x in (shard or "1/1").split("/"))
    together = len(seeds or (0,))  # the seeds of a design, side by side in the points, go to the same part
    turn = np.random.default_rng(0).permutation(len(points) // together)  # at random, so that no axis is in step with the parts
    which = [point for point in range(len(points)) if turn[point // together] % parts == part - 1]
    resolved = resolve(base, points, which)
    if resolved.invalid and not resolved.designs and shard is None:
        first = min(resolved.invalid)
        raise SimjaxError(f"none of the {len(which):,} points can be simulated; point {first}: {resolved.invalid[first]}")
    workers = workers or local_workers()
    groups = make_groups(resolved.designs, workers, width)
    kept = None if seeds is None else tuple(seeds)
    found = (resolved.designs, resolved.invalid, resolved.extensible, resolved.warnings)
    return SweepPlan(tuple(base), points, kept, shard, width, workers, groups, *found)
