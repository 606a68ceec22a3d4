"""The simulations of a search, round by round: each round runs the rates that the designs ask for, through the same few programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from simjax.batch.execute import Row, run_designs
from simjax.batch.groups import Group, make_groups
from simjax.batch.workers import local_workers
from simjax.sizing.loads import Load
from simjax.sizing.metrics import PROBED

_RATES = 8  # that are tried on all workloads in a search, about
_SIZES = ("requests", "prefix_nodes", "prefix_path", "fanout")  # of a program, that depend on the workload


class Probe(NamedTuple):
    """A run to simulate: a point, the place of a seed among its loads, and a rate (None: all requests at once)."""

    point: int
    seed: int
    rate: float | None


class Rounds:
    """Runs probes of the loads of many designs.

    The programs are those of the first round: designs are grouped, and the sizes of a group and of its batches fixed, when all requests
    arrive at once, which needs more slots than any rate. Every chunk has its own table of workloads.

    Attributes:
        runs: number of runs so far.
    """

    def __init__(self, loads: Mapping[int, Sequence[Load]], width: int | None = None) -> None:
        self._loads, self._workers, self.runs = dict(loads), local_workers(), 0
        keys = [(point, seed) for point, seeds in loads.items() for seed in range(len(seeds))]
        bursts = {number: loads[point][seed].burst for number, (point, seed) in enumerate(keys)}
        self._groups: list[Group] = list(make_groups(bursts, self._workers, width, repeats=_RATES))
        self._group_of = {keys[number]: g for g, group in enumerate(self._groups) for chunk in group.chunks for number in chunk}

    def add(self, point: int, loads: Sequence[Load]) -> bool:
        """Give a point more loads, if they fit the program and the step times of its first one; whether they do."""
        shape, first = self._groups[self._group_of[point, 0]].shape, self._loads[point][0].design
        tables = lambda design: (getattr(design.lowered.params.step_time, name).shape[1] for name in ("tokens_s", "sequences_s"))
        fits = all(getattr(x.design.lowered.shape, name) <= getattr(shape, name) for x in loads for name in _SIZES)
        if not fits or any(new > old for x in loads for new, old in zip(tables(x.design), tables(first), strict=True)):
            return False
        self._loads[point] = (*self._loads[point], *(x.on(first) for x in loads))
        return True

    def run(self, probes: Sequence[Probe], on_runs: Callable[[int], None] | None = None) -> dict[Probe, Row]:
        """Rows of the probes: `status`, `reason` and the metrics `PROBED`."""
        designs = {}
        for number, probe in enumerate(probes):
            load = self._loads[probe.point][probe.seed]
            designs[number] = load.burst if probe.rate is None else load.at(probe.rate)
        found: dict[Probe, Row] = {}
        for rows in run_designs(designs, list(self._chunked(probes)), self._workers, catalog=PROBED):
            found.update({probes[row["point"]]: row for row in rows})
            self.runs += len(rows)
            if on_runs is not None:
                on_runs(len(rows))
        return found

    def _chunked(self, probes: Sequence[Probe]) -> Iterator[Group]:
        """The groups with the probes in chunks, slower ones first so that those side by side end together."""
        members: dict[int, list[int]] = {}
        for number, probe in enumerate(probes):
            members.setdefault(self._group_of.get((probe.point, probe.seed), self._group_of[probe.point, 0]), []).append(number)
        for g, numbers in members.items():
            group, rate = self._groups[g], lambda number: probes[number].rate or float("inf")
            numbers.sort(key=rate)
            parts = tuple(tuple(numbers[i : i + group.width]) for i in range(0, len(numbers), group.width))
            yield replace(group, chunks=parts, shared_table=False)
