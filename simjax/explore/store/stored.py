"""What a sweep's directory says of its points, to go on with it or to show one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.explore.points import Points
from simjax.explore.store.directory import SWEEP, files_of, sweep_directory
from simjax.explore.store.manifest import check_base, checked_points, read_manifest


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as it was asked for.

    Attributes:
        directory: of the sweep, or of the first of its parts.
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
        """Replicate seeds, None when there are none."""
        return None if self.info["seeds"] is None else tuple(self.info["seeds"])

    def check(self, base: Sequence[str], points: Points) -> None:
        """Raise unless this is the sweep of these points.

        Raises:
            SimjaxError: saying what differs.
        """
        check_base(self.directory, self.info, base)
        if points is not self.points:
            checked_points(self.directory, self.info, points)


def read_stored(directory: str | Path) -> StoredSweep:
    """Read `sweep.json` and `points.csv` of a sweep's directory, or of its first shard.

    Raises:
        SimjaxError: it is no sweep's directory, or they are damaged or do not belong together.
    """
    path = sweep_directory(directory)
    file = next(iter(files_of(path, SWEEP)), None)
    if file is None:
        raise SimjaxError(f"{path}: {SWEEP} is missing; without it nobody knows what its points share")
    info = read_manifest(file.parent)
    return StoredSweep(file.parent, info, checked_points(file.parent, info, None))
