"""`sweep.json`: the definition of a sweep, and checks that a resumed sweep has the same. No other module reads or writes the file."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from simjax.disk.documents import parse_json
from simjax.disk.files import read_bytes, write_file
from simjax.errors import SimjaxError
from simjax.explore.points import Points, read_points, sha256
from simjax.explore.store.directory import POINTS, RESULTS, SWEEP, files_of, sweep_directory
from simjax.explore.store.named import named_files
from simjax.explore.values import option
from simjax.text import counted

_VERSION = 1
_OBJECTIVE = ("maximize", "minimize", "subject_to", "by", "tie_break", "color")
_OTHERS = ("version", "simjax", "jax", "python", "command", "created")


def _list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "base": (_list_of(str), "a list of overrides"),
    "keys": (_list_of(str), "a list of swept keys"),
    "points": (lambda value: type(value) is int and value >= 0, "the number of points"),
    "points_sha256": (lambda value: isinstance(value, str), f"the hash of {POINTS}"),
    "seeds": (lambda value: value is None or _list_of(int)(value), "a list of integers, or null"),
    "objective": (
        lambda value: isinstance(value, dict) and {*value} <= {*_OBJECTIVE} and all(map(_list_of(str), value.values())),
        f"lists under {', '.join(_OBJECTIVE)}, and nothing else",
    ),
    "files": (lambda value: isinstance(value, dict), "the hashes of the files that the points read"),
    "header_sha256": (lambda value: isinstance(value, str), f"the hash of the first line of {RESULTS}"),
    "sha256": (lambda value: isinstance(value, str), "the hash of everything else"),
}
"""Required fields besides the version, each with a check and a description of valid values."""


def write_manifest(
    directory: Path,
    points: Points,
    command: str,
    base: Sequence[str],
    seeds: Sequence[int] | None,
    objective: Mapping[str, Sequence[str]] | None,
    header: bytes,
) -> dict[str, Any]:
    """Write `sweep.json` and return its content; arguments as in `SweepStore.create`, and the first line of `results.csv`.

    Raises:
        SimjaxError: the file cannot be written.
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
        "objective": {name: list((objective or {}).get(name, [])) for name in _OBJECTIVE},
        "files": named_files(base, points),
        "header_sha256": hashlib.sha256(header).hexdigest(),
        "created": datetime.now().isoformat(timespec="seconds"),
    }
    info["sha256"] = digest(info)
    write_file(directory / SWEEP, json.dumps(info, indent=2) + "\n", sync=True)
    return info


def digest(info: Mapping[str, Any]) -> str:
    """The hash of a content of `sweep.json`, its own hash left out."""
    return hashlib.sha256(json.dumps({name: info[name] for name in sorted(info) if name != "sha256"}, sort_keys=True).encode()).hexdigest()


def check_header(file: Path, header: bytes) -> None:
    """Raise unless the first line of a `results.csv` is that with which the sweep beside it began; does nothing without a sweep.

    Raises:
        SimjaxError: it is another line.
    """
    info = _read(file.with_name(SWEEP)) if file.with_name(SWEEP).is_file() else {}
    if info.get("header_sha256", "") not in ("", hashlib.sha256(header).hexdigest()):
        raise SimjaxError(f"{file}: its first line, with the names of the columns, was changed since the sweep began; put it back")


def read_sweep(directory: str | Path) -> dict[str, Any]:
    """The content of a sweep's `sweep.json` (its first shard's if only shards have one), complete or not; empty if there is none.

    Raises:
        SimjaxError: the directory does not exist or holds no sweep, or the file is damaged.
    """
    return next(map(_read, files_of(sweep_directory(directory), SWEEP)), {})


def read_manifest(directory: Path) -> dict[str, Any]:
    """The content of `sweep.json`, with all required fields.

    Raises:
        SimjaxError: the directory holds no sweep, or none that this version of simjax can resume.
    """
    file = directory / SWEEP
    if not file.is_file():
        missing = f"no sweep there: it has no {SWEEP}" if directory.is_dir() else "no such directory"
        raise SimjaxError(f"sweep.resume={directory}: {missing}")
    info = _read(file)
    if lacking := [name for name in ("version", *_FIELDS) if name not in info]:
        raise SimjaxError(f"{file}: damaged: it lacks {', '.join(lacking)}; start the sweep anew in another directory")
    return info


def _read(file: Path) -> dict[str, Any]:
    info = parse_json(read_bytes(file), f"{file}: cannot read it: it")
    if not isinstance(info, dict):
        raise SimjaxError(f"{file}: it must hold a mapping")
    if info.get("version", _VERSION) != _VERSION:
        raise SimjaxError(f"{file}: not written by this version of simjax; start the sweep anew in another directory")
    for name, (fits, wanted) in _FIELDS.items():
        if name in info and not fits(info[name]):
            raise SimjaxError(f"{file}: damaged: {name} must be {wanted}")
    if unknown := sorted(info.keys() - {*_FIELDS, *_OTHERS}):
        raise SimjaxError(f"{file}: damaged: {unknown[0]!r} is no part of it; put the file back as it was")
    if "sha256" in info and info["sha256"] != digest(info):
        raise SimjaxError(f"{file}: changed since the sweep began; put it back as it was, or sweep anew in another directory")
    return info


def checked_points(directory: Path, info: Mapping[str, Any], points: Points | None) -> Points:
    """The points of the sweep: the given ones, or those of the `points.csv` next to its `sweep.json`.

    Raises:
        SimjaxError: the points differ from those with which the sweep began.
    """
    if points is None:
        path = directory / POINTS
        if hashlib.sha256(read_bytes(path)).hexdigest() != info["points_sha256"]:
            raise SimjaxError(
                f"{path}: changed since the sweep began; put it back, or sweep it anew with {option('sweep.points', str(path))}"
            )
        return read_points(path)
    if sha256(points) != info["points_sha256"]:
        there, now = (info["points"], info["keys"]), (len(points.rows), list(points.keys))
        shown = [f"{counted(count, 'points')} of {' '.join(keys) or 'no key'}" for count, keys in (there, now)]
        how = f"it has {shown[0]}, the options give {shown[1]}" if there != now else "the same keys, but other values or another order"
        raise SimjaxError(f"sweep.resume={directory}: other points than this sweep's ({how}); leave its axes unchanged")
    return points


def check_base(directory: Path, info: Mapping[str, Any], base: Sequence[str]) -> None:
    """Raise unless the overrides shared by all points are those with which the sweep began, in any order.

    Raises:
        SimjaxError: the message names those that differ.
    """
    there, now = _last_of_each_key(info["base"]), _last_of_each_key(base)
    if there != now:
        shown = [
            " ".join(f"{key}={side[key]}" for key in side if side[key] != other.get(key)) for side, other in ((there, now), (now, there))
        ]
        raise SimjaxError(
            f"sweep.resume={directory}: other settings than this sweep's ({shown[0] or 'nothing'} there, {shown[1] or 'nothing'} now); "
            "leave them unchanged"
        )


def changed_versions(info: Mapping[str, Any], names: Sequence[str] = ("simjax", "jax", "python")) -> str:
    """The programs whose versions have changed since the sweep began, like "jax 0.9, now 0.10"; empty if none."""
    return "; ".join(f"{name} {info.get(name)}, now {now}" for name, now in _versions().items() if name in names and info.get(name) != now)


def _versions() -> dict[str, str]:
    return {"simjax": version("simjax"), "jax": version("jax"), "python": platform.python_version()}


def _last_of_each_key(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}
