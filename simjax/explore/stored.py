"""What a sweep's directory says of its points, to go on with it or to show one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.explore.points import Points, read_points, sha256
from simjax.explore.table import SWEEP, read_sweep, sweep_directory

POINTS = "points.csv"


@dataclass(frozen=True)
class StoredSweep:
    """A sweep as it was asked for.

    Attributes:
        base: overrides that all points share.
        points: all of its points.
        seeds: replicate seeds, None when there are none.
        objective: lists under maximize, minimize and subject_to.
        versions: of simjax, jax and python that wrote it.
    """

    base: tuple[str, ...]
    points: Points
    seeds: tuple[int, ...] | None
    objective: Mapping[str, list[str]]
    versions: Mapping[str, str]


def read_stored(directory: str | Path) -> StoredSweep:
    """Read `sweep.json` and `points.csv` of a sweep's directory, or of its first shard.

    Raises:
        SimjaxError: it is no sweep's directory, or they are damaged or do not belong together.
    """
    path = sweep_directory(directory)
    folder = next((file.parent for file in (path / SWEEP, *sorted(path.glob(f"shard-*-of-*/{SWEEP}"))) if file.is_file()), None)
    if folder is None:
        raise SimjaxError(f"{path}: {SWEEP} is missing; without it nobody knows what its points share")
    said = read_sweep(folder)
    base, seeds, objective = said.get("base", ()), said.get("seeds"), said.get("objective") or {}
    if not _is_list(base, str) or not (seeds is None or _is_list(seeds, int)) or not isinstance(objective, dict):
        raise SimjaxError(f"{folder / SWEEP}: damaged: base must be a list of overrides, seeds a list of integers, objective a mapping")
    points = read_points(folder / POINTS)
    if said.get("points_sha256") != sha256(points):
        raise SimjaxError(
            f"{folder / POINTS}: changed since the sweep began; put it back, or sweep it anew with sweep.points={folder / POINTS}"
        )
    versions = {name: str(said.get(name)) for name in ("simjax", "jax", "python")}
    return StoredSweep(tuple(base), points, None if seeds is None else tuple(seeds), objective, versions)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
