"""The points of a sweep: a table with one column per swept key, and its file."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simjax.disk.files import write_file
from simjax.errors import SimjaxError
from simjax.explore.axes import Axis
from simjax.explore.keys import SEED, canonical, check_key, takes_integers
from simjax.explore.values import format_value, parse_value

MAX_POINTS = 5_000_000
_NUMBER = "point"  # the column with the numbers of the rows


@dataclass(frozen=True)
class Points:
    """Values of the swept keys, one row per point.

    Attributes:
        keys: override keys such as scheduler.max_num_seqs.
        rows: plain Python values, one per key in each row; rows may share lists and mappings, which must not be changed. Whole floats
            become integers where the key takes an integer: tables of floats hold 64.0 for 64, which no configuration takes.
    """

    keys: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.keys) for row in self.rows):
            raise ValueError(f"every row of points needs {len(self.keys)} values, one per key")
        for number, key in enumerate(self.keys):
            if takes_integers(key) and any(isinstance(row[number], float) and row[number].is_integer() for row in self.rows):
                rows = tuple((*row[:number], _whole(row[number]), *row[number + 1 :]) for row in self.rows)
                object.__setattr__(self, "rows", rows)

    def __len__(self) -> int:
        return len(self.rows)

    def overrides(self, point: int) -> list[str]:
        """A point as overrides in Hydra's grammar."""
        return [f"{key}={format_value(value)}" for key, value in zip(self.keys, self.rows[point], strict=True)]


def grid(axes: Iterable[Axis]) -> Points:
    """All combinations of the steps of the axes, the first axis slowest; without axes one point without keys.

    Raises:
        SimjaxError: a key is in two axes, or there are more than `MAX_POINTS` points.
    """
    axes = list(axes)
    keys = tuple(key for axis in axes for key in axis.keys)
    for key in keys:
        if keys.count(key) > 1:
            raise SimjaxError(f"{key} is swept twice; leave one of its axes out")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MAX_POINTS:
        sizes = " x ".join(str(len(axis.values)) for axis in axes)
        raise SimjaxError(f"{sizes} = {count:,} points; at most {MAX_POINTS:,} in a sweep")
    rows = itertools.product(*(axis.values for axis in axes))
    return Points(keys, tuple(tuple(itertools.chain.from_iterable(row)) for row in rows))


def with_seeds(points: Points, seeds: Sequence[int]) -> Points:
    """Every point once per seed, with the seeds of a point in adjacent rows.

    Raises:
        SimjaxError: the seeds are swept already, or there are too many points.
    """
    if SEED in points.keys:
        raise SimjaxError(f"{SEED} is swept already; leave sweep.seeds out, or the axis")
    if not points.keys:
        return grid([Axis((SEED,), tuple((seed,) for seed in seeds))])
    return grid([Axis(points.keys, points.rows), Axis((SEED,), tuple((seed,) for seed in seeds))])


def read_seeds(given: Any) -> tuple[int, ...] | None:
    """The seeds of `sweep.seeds`: n stands for 0 to n - 1, a list for itself; None if unset.

    Raises:
        SimjaxError: the seeds are not integers, negative, none, or repeat.
    """
    if given is None:
        return None
    seeds = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else given
    if isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= MAX_POINTS:
        return tuple(range(seeds))
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds)
    if not isinstance(seeds, list) or not seeds or not whole or len(set(seeds)) < len(seeds):
        raise SimjaxError(f"sweep.seeds={format_value(given)}: give a number of seeds (5 means 0 to 4), or a list of different seeds >= 0")
    return tuple(seeds)


def points_csv(points: Points) -> str:
    """The table as text: the header `point,<key>,...`, then one row per point with cells in Hydra's override grammar."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((_NUMBER, *points.keys))
    writer.writerows((number, *map(format_value, row)) for number, row in enumerate(points.rows))
    return out.getvalue()


def sha256(points: Points) -> str:
    """The hash of `points_csv`, which is that of the file that `write_points` writes."""
    return hashlib.sha256(points_csv(points).encode()).hexdigest()


def write_points(path: Path, points: Points) -> None:
    """Write the table; a process killed meanwhile leaves no partial file behind.

    Raises:
        SimjaxError: the file cannot be written.
    """
    write_file(path, points_csv(points), sync=True)


def read_points(path: Path) -> Points:
    """Read a table of points: CSV with one column per key and cells in Hydra's grammar; a column `point` is ignored.

    Raises:
        SimjaxError: the file cannot be read, or a line or cell is malformed (`file:line: reason`).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SimjaxError(f"{path}: no such file of points") from None
    except OSError as error:
        raise SimjaxError(f"cannot read file of points {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SimjaxError(f"cannot read file of points {path}: not a text file") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(lines, [])]
        columns = [number for number, name in enumerate(header) if name != _NUMBER]
        keys = _read_header(path, [header[number] for number in columns])
        readers = [_Column(key) for key in keys]
        rows = []
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise SimjaxError(f"{path}:{lines.line_num}: {len(cells)} cells where the header names {len(header)}")
            try:
                rows.append(tuple(reader[cells[number]] for reader, number in zip(readers, columns, strict=True)))
            except SimjaxError as error:
                raise SimjaxError(f"{path}:{lines.line_num}: {error}") from None
    except csv.Error as error:
        raise SimjaxError(f"{path}:{lines.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise SimjaxError(f"{path}: it has no points, only a header")
    return Points(keys, tuple(rows))


def _read_header(path: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        raise SimjaxError(f"{path}: its first line must name the swept keys, like {_NUMBER},workload.rate")
    keys = tuple(canonical(name) for name in names)
    for key in keys:
        if keys.count(key) > 1:
            raise SimjaxError(f"{path}:1: the column {key} is there twice")
        try:
            check_key(key)
        except SimjaxError as error:
            raise SimjaxError(f"{path}:1: {error}") from None
    return keys


class _Column(dict[str, Any]):
    """The values of a column's cells; each distinct text is parsed once."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def __missing__(self, cell: str) -> Any:
        if not cell.strip():
            raise SimjaxError(f"{self.key}: the cell is empty; write null for an unset option, '' for empty text")
        try:
            value = parse_value(cell)
        except SimjaxError as error:
            raise SimjaxError(f"{self.key}: {error}") from None
        self[cell] = value
        return value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
