"""Layout of a sweep's directory, in one part or in several (shards), and the options that resume the sweep."""

from __future__ import annotations

import re
from pathlib import Path

from simjax.errors import SimjaxError
from simjax.explore.values import option

RESULTS, DESIGNS, SWEEP, POINTS = "results.csv", "designs.csv", "sweep.json", "points.csv"
_SHARD = re.compile(r"shard-([1-9]\d*)-of-([1-9]\d*)")
_LISTED = 16  # parts listed in messages


def sweep_directory(directory: str | Path) -> Path:
    """The path of a directory that holds a sweep, or parts of one.

    Raises:
        SimjaxError: the path does not exist, is a file, or holds no sweep.
    """
    path = Path(directory).expanduser()
    if path.is_file():
        raise SimjaxError(f"{path}: a file; give the directory of a sweep, which holds {RESULTS}")
    if not path.is_dir():
        raise SimjaxError(f"{path}: no such directory")
    if not any(files_of(path, name) for name in (SWEEP, RESULTS)):
        raise SimjaxError(f"{path}: not a sweep: it has neither {SWEEP} nor {RESULTS}")
    return path


def files_of(directory: Path, name: str) -> list[Path]:
    """The files of that name in a directory and in its shards."""
    return [file for file in (directory / name, *(shard / name for shard in _shards_in(directory).values())) if file.is_file()]


def shard_directory(directory: str | Path, shard: str | None) -> Path:
    """The directory of part "k/n" of a sweep; for None, the whole sweep, the sweep's directory itself."""
    path = Path(directory).expanduser()
    return path if shard is None else path / "shard-{}-of-{}".format(*shard.split("/"))


def refuse_linked_part(directory: Path) -> None:
    """Raise if a directory of a part is a symbolic link, which may lead out of the sweep's directory.

    Raises:
        SimjaxError: it is one.
    """
    if _shard_of(directory) and directory.is_symlink():
        raise SimjaxError(f"{directory}: it is a symbolic link; put the directory itself there")


def check_resume(directory: str | Path, shard: str | None) -> None:
    """Raise unless the sweep in a directory can be resumed with this `sweep.shard`; the part itself need not exist yet.

    Raises:
        SimjaxError: the directory holds no sweep, or it holds one part where several were expected, or vice versa.
    """
    path = sweep_directory(directory)
    if _shard_of(path) and (path / SWEEP).is_file():
        raise SimjaxError(f"{path}: one part of a sweep; resume it with {resume_options(path)}")
    there = {number: found for number, found in _shards_in(path).items() if (found / SWEEP).is_file()}
    if (path / SWEEP).is_file():
        if shard is not None and not shard_directory(path, shard).is_dir():
            raise SimjaxError(f"{path}: this sweep has no parts; leave out sweep.shard={shard}")
    elif there and (shard is None or int(shard.partition("/")[2]) not in {parts for _, parts in there}):
        listed = ", ".join([f"{part}/{parts}" for part, parts in there][:_LISTED]) + (" ..." if len(there) > _LISTED else "")
        raise SimjaxError(f"{path}: it holds parts of a sweep ({listed}); resume all with {resume_options(path)}")


def resume_options(directory: Path) -> str:
    """The options that resume the sweep in a directory, to be pasted after `simjax run`."""
    if shard := _shard_of(directory):
        outer = directory.parent if directory.name else directory.resolve().parent
        return f"{option('sweep.resume', str(outer))} sweep.shard={shard[0]}/{shard[1]}"
    resume = option("sweep.resume", str(directory))
    shards = {} if (directory / SWEEP).is_file() else _shards_in(directory)
    if not shards:
        return resume
    parts = next(iter(shards))[1]
    listed = [f"{part}/{parts}" for part in range(1, parts + 1)]
    return f"-m {resume} sweep.shard={','.join(listed if parts <= _LISTED else [*listed[:2], '...', listed[-1]])}"


def has_parts(directory: str | Path) -> bool:
    """Whether a directory holds parts of a sweep."""
    return bool(_shards_in(Path(directory).expanduser()))


def _shard_of(directory: Path) -> tuple[int, int] | None:
    """The k and n of a directory called shard-k-of-n; None for another one."""
    match = _SHARD.fullmatch(directory.name or directory.resolve().name)
    return None if match is None else (int(match[1]), int(match[2]))


def _shards_in(directory: Path) -> dict[tuple[int, int], Path]:
    """The directories of parts (k, n) in a directory, in the order of their numbers."""
    found = {shard: path for path in directory.glob("shard-*-of-*") if (shard := _shard_of(path)) is not None}
    return {shard: found[shard] for shard in sorted(found, key=lambda shard: shard[::-1])}
