"""The definition of a stored sweep, to resume it or to show one of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.explore.points import Points
from simjax.explore.store.directory import SWEEP, files_of, sweep_directory
from simjax.explore.store.manifest import check_base, checked_points, read_manifest
from simjax.explore.store.named import check_recorded


@dataclass(frozen=True)
class StoredSweep:
    """The definition of a sweep.

    Attributes:
        directory: directory of the sweep, or of the first of its parts.
        info: the content of its `sweep.json`.
        points: all points of the sweep.
    """

    directory: Path
    info: Mapping[str, Any]
    points: Points

    @property
    def base(self) -> tuple[str, ...]:
        """Overrides that all points share."""
        return tuple(self.info["base"])

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Replicate seeds, None if there are none."""
        return None if self.info["seeds"] is None else tuple(self.info["seeds"])

    def check(self, base: Sequence[str], points: Points) -> None:
        """Raise unless the sweep has these points and this base.

        Raises:
            SimjaxError: the message names the differences.
        """
        check_base(self.directory, self.info, base)
        if points is not self.points:
            checked_points(self.directory, self.info, points)


def read_stored(directory: str | Path) -> StoredSweep:
    """Read `sweep.json` and `points.csv` of the directory of a sweep of `simjax run`, or of its first shard.

    Raises:
        SimjaxError: the directory holds no sweep or that of another command, the files are damaged or do not belong together, or they ask
            for more than a point may (see `simjax.explore.store.named`).
    """
    path = sweep_directory(directory)
    file = next(iter(files_of(path, SWEEP)), None)
    if file is None:
        raise SimjaxError(f"{path}: {SWEEP} is missing; without it the options that its points share are unknown")
    info = read_manifest(file.parent)
    if (command := info.get("command", "run")) != "run":
        raise SimjaxError(f"{path}: its rows are no runs but the results of `simjax {command}`; repeat that command instead")
    points = checked_points(file.parent, info, None)
    check_recorded(file, info, points)
    return StoredSweep(file.parent, info, points)
