"""`sweep.json`: what a sweep was asked for, and whether a later run asks for the same."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simjax.errors import SimjaxError
from simjax.explore.points import Points, read_points, sha256
from simjax.explore.records import read_bytes, write_whole
from simjax.explore.table import SWEEP, read_sweep

POINTS = "points.csv"
_VERSION = 1


def write_manifest(
    directory: Path,
    points: Points,
    command: str,
    base: Sequence[str],
    seeds: Sequence[int] | None,
    objective: Mapping[str, Sequence[str]] | None,
) -> dict[str, Any]:
    """Write `sweep.json` and return its content; the arguments are those of `SweepStore.create`.

    Raises:
        SimjaxError: it cannot be written.
    """
    info = {
        "version": _VERSION,
        **_versions(),
        "command": command,
        "base": list(base),
        "keys": list(points.keys),
        "points": len(points.rows),
        "points_sha256": sha256(points),
        "seeds": None if seeds is None else list(seeds),
        "objective": {name: list((objective or {}).get(name, [])) for name in ("maximize", "minimize", "subject_to")},
        "created": datetime.now().isoformat(timespec="seconds"),
    }
    write_whole(directory / SWEEP, (json.dumps(info, indent=2) + "\n").encode())
    return info


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of `sweep.json`.

    Raises:
        SimjaxError: the directory holds no sweep, or none that this simjax can go on with.
    """
    if not (directory / SWEEP).is_file():
        missing = f"no sweep there: it has no {SWEEP}" if directory.is_dir() else "no such directory"
        raise SimjaxError(f"sweep.resume={directory}: {missing}")
    info = read_sweep(directory)
    kinds = {"base": list, "keys": list, "points": int, "points_sha256": str}
    if info.get("version") != _VERSION or not all(isinstance(info.get(name), kind) for name, kind in kinds.items()):
        raise SimjaxError(f"{directory / SWEEP}: not written by a sweep of this simjax; start the sweep anew in another directory")
    return info


def checked_points(directory: Path, info: Mapping[str, Any], points: Points | None) -> Points:
    """The points of the sweep: the given ones, or those of `points.csv`.

    Raises:
        SimjaxError: they are not those that the sweep began with.
    """
    if points is None:
        path = directory / POINTS
        if hashlib.sha256(read_bytes(path)).hexdigest() != info["points_sha256"]:
            raise SimjaxError(f"{path}: changed since the sweep began; put it back, or start a new sweep from it with sweep.points={path}")
        return read_points(path)
    if sha256(points) != info["points_sha256"]:
        there, now = (info["points"], info["keys"]), (len(points.rows), list(points.keys))
        said = [f"{count:,} points of {' '.join(keys) or 'no key'}" for count, keys in (there, now)]
        how = f"it has {said[0]}, now there are {said[1]}" if there != now else "the same keys, but other values or another order"
        raise SimjaxError(f"sweep.resume={directory}: other points than this sweep's ({how}); leave its axes as they were")
    return points


def check_base(directory: Path, info: Mapping[str, Any], base: Sequence[str]) -> None:
    """Raise unless the overrides that are the same for all points say what they said when the sweep began, in whatever order.

    Raises:
        SimjaxError: naming those that differ.
    """
    there, now = _last_of_each_key(info["base"]), _last_of_each_key(base)
    if there != now:
        said = [
            " ".join(f"{key}={side[key]}" for key in side if side[key] != other.get(key)) for side, other in ((there, now), (now, there))
        ]
        raise SimjaxError(
            f"sweep.resume={directory}: other settings than this sweep's ({said[0] or 'nothing'} there, {said[1] or 'nothing'} now); "
            "leave them as they were"
        )


def changed_versions(directory: Path, info: Mapping[str, Any]) -> list[str]:
    """At most one line: the sweep began with another simjax or jax."""
    moved = [f"{name} {info.get(name)}, now {now}" for name, now in _versions().items() if name != "python" and info.get(name) != now]
    return [f"{directory}: this sweep began with {'; '.join(moved)}: rows of then and of now may not compare"] if moved else []


def _versions() -> dict[str, str]:
    return {"simjax": version("simjax"), "jax": version("jax"), "python": platform.python_version()}


def _last_of_each_key(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}
