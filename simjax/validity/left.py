"""Which ranges of a calibration a run, or the points of a sweep, have left: one line for each, for the user.

How far a simulation goes is known after it only. Models and tensor-parallel degrees that took no part in a calibration are known before:
see `simjax.latency.warnings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from simjax.engine.host.result import Result
from simjax.latency.profiles.profile import LatencyProfile
from simjax.text import counted
from simjax.validity.groups import InstanceGroup, same_profile
from simjax.validity.reach import Extent, extent

# Each range in words, and how the lines begin that spoke of it before a run, when only limits and the longest request were known
# (`simjax.latency.warnings.range_warnings`, `simjax.cluster.warnings.beyond_context`).
_RANGES = {
    "tokens": ("steps of {} tokens", "max_num_batched_tokens="),
    "sequences": ("{} sequences a step", "max_num_seqs="),
    "context": ("requests of {} tokens", "the longest request has "),
}


@dataclass
class _Record:
    """The points that use a profile: all that ran, and for each range those that left it and how far they went."""

    profile: LatencyProfile
    ran: set[int] = field(default_factory=set)
    left: dict[str, set[int]] = field(default_factory=lambda: {axis: set() for axis in _RANGES})
    lowest: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def add(self, point: int, found: Extent) -> None:
        self.ran.add(point)
        calibration = self.profile.calibration
        assert calibration is not None
        for axis in _RANGES:
            known, held = getattr(calibration.seen, axis), getattr(found, axis)
            below, above = held[0] < known[0] and axis != "context", held[1] > known[1]  # short requests take next to no time
            if below:
                self.lowest[axis] = min(held[0], self.lowest.get(axis, held[0]))
            if above:
                self.highest[axis] = max(held[1], self.highest.get(axis, held[1]))
            if below or above:
                self.left[axis].add(point)

    def line(self, axis: str, who: str) -> str:
        calibration = self.profile.calibration
        assert calibration is not None
        low, high = getattr(calibration.seen, axis)
        went = [f"down to {self.lowest[axis]:,}"] if axis in self.lowest else []
        went += [f"to {self.highest[axis]:,}"] if axis in self.highest else []
        calibrated = _RANGES[axis][0].format(f"{low:,} to {high:,}")
        return f"{self.profile.source}: calibrated on {calibrated}, {who} went {' and '.join(went)}"


class LeftRanges:
    """The ranges that some runs have left, a record for each calibrated profile; threads may add to it at once."""

    def __init__(self) -> None:
        self._records: list[_Record] = []
        self._adding = Lock()

    def add(self, groups: Iterable[InstanceGroup], result: Result, point: int = 0) -> None:
        """Take in a run.

        Args:
            groups: the groups of its cluster whose profile has a calibration (`calibrated_groups`).
            result: the run.
            point: its number in a sweep; adding a point again changes nothing.
        """
        together: list[tuple[LatencyProfile, list[int]]] = []
        for group in groups:
            mine = next((indices for profile, indices in together if same_profile(profile, group.profile)), None)
            if mine is None:
                together.append((group.profile, list(group.indices)))
            else:
                mine.extend(group.indices)
        for profile, indices in together:
            found = extent(result, indices)
            if found is not None:
                with self._adding:
                    self._record(profile).add(point, found)

    def warnings_of_run(self, lines: Sequence[str]) -> tuple[str, ...]:
        """The warnings of a single run: `lines`, known before it, without those that a line about a range replaces; then the latter."""
        kept, found = self._replaced(lines)
        return (*kept, *(f"{record.line(axis, 'this run')}; intervals are widened" for record, axis in found))

    def warnings_of_sweep(self, lines: Sequence[str], things: str = "points") -> tuple[str, ...]:
        """The warnings of a sweep: one line for each profile and range with the number of points that left it; then `lines`, as for a run.

        They come first because a sweep may have dozens of other lines, of which only the first few are shown. `things` is the plural of
        the word for a point.
        """
        kept, found = self._replaced(lines)
        who = [f"{len(record.left[axis]):,} of {counted(len(record.ran), things)}" for record, axis in found]
        return (*(record.line(axis, points) for (record, axis), points in zip(found, who, strict=True)), *kept)

    def _replaced(self, lines: Sequence[str]) -> tuple[list[str], list[tuple[_Record, str]]]:
        """The lines that still hold, and the ranges that were left."""
        found = [(record, axis) for record in self._records for axis in _RANGES if record.left[axis]]
        replaced = tuple(f"{record.profile.source}: {_RANGES[axis][1]}" for record, axis in found)
        return [line for line in lines if not line.startswith(replaced)], found

    def _record(self, profile: LatencyProfile) -> _Record:
        for record in self._records:
            if same_profile(record.profile, profile):
                return record
        self._records.append(_Record(profile))
        return self._records[-1]
