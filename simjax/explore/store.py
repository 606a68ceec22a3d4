"""A sweep on disk: what was asked, the points, the rows that are done; safe against kills, continued by a later run."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from simjax.errors import SimjaxError
from simjax.explore.keys import SEED
from simjax.explore.lock import DirectoryLock
from simjax.explore.manifest import POINTS, changed_versions, check_base, checked_points, read_manifest, write_manifest
from simjax.explore.points import Points, write_points
from simjax.explore.records import append_whole, cells, encode, read_bytes, records, write_whole, writing
from simjax.explore.replicates import aggregate
from simjax.explore.table import DESIGNS, RESULTS, SWEEP, read_results
from simjax.explore.values import format_value
from simjax.metrics.rows import METRICS, WHOLE_METRICS

PARQUET, LOCK = "results.parquet", "sweep.lock"
ERROR = "error"
DONE = frozenset({"finished", "tick_limit", "stalled", "invalid"})
"""Statuses that running the point again would not change."""


class SweepStore:
    """The directory of a sweep, open for writing by this process alone.

    Made by `create` or `resume`; a context manager that gives the directory back at its end. Rows are on disk when `append` returns. A
    process killed at any moment leaves whole rows and at most one line that was cut, which readers pass over and `resume` removes.

    Attributes:
        directory: holds `sweep.json`, `points.csv` and `results.csv`, and after `finish` the other tables.
        points: all points of the sweep.
        info: the content of `sweep.json`.
        columns: the header of `results.csv`.
    """

    def __init__(self, directory: Path, points: Points, info: dict[str, Any], lock: DirectoryLock) -> None:
        """Use `create` or `resume`."""
        self.directory, self.points, self.info, self._lock = directory, points, info, lock
        self.columns = ("point", *points.keys, "status", "reason", *METRICS)
        self._known = frozenset(self.columns)

    @classmethod
    def create(
        cls,
        directory: str | Path,
        points: Points,
        *,
        base: Sequence[str],
        command: str = "run",
        seeds: Sequence[int] | None = None,
        objective: Mapping[str, Sequence[str]] | None = None,
    ) -> SweepStore:
        """Begin a sweep in a directory, which is made when it is missing and may hold other files.

        Args:
            directory: where.
            points: all of its points.
            base: overrides that are the same for every point.
            command: whose configuration they override.
            seeds: the replicate seeds, when every design has the same.
            objective: lists under `maximize`, `minimize` and `subject_to`, kept for `simjax pareto`.

        Raises:
            SimjaxError: it holds a sweep already, another process is writing one there, or it cannot be written.
        """
        path = Path(directory).expanduser()
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(path / LOCK)
        try:
            if (path / SWEEP).exists() or (path / RESULTS).exists():
                raise SimjaxError(f"{path}: holds a sweep already; continue it with sweep.resume={path}, or give another directory")
            with writing(path / POINTS):
                write_points(path / POINTS, points)
            info = write_manifest(path, points, command, base, seeds, objective)  # last: it says that the sweep is there
            return cls(path, points, info, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, directory: str | Path, points: Points | None = None, base: Sequence[str] | None = None) -> tuple[SweepStore, list[str]]:
        """Open a sweep to go on with it, after it was stopped or killed.

        Args:
            directory: of the sweep.
            points: what the sweep to run now asks for; None for whatever the directory says.
            base: its overrides in any order, or None likewise.

        Returns:
            The store, and lines to warn of.

        Raises:
            SimjaxError: it is no sweep or another one, its files are damaged, or another process is writing it.
        """
        path = Path(directory).expanduser()
        read_manifest(path)  # before the lock: no file is to be left where no sweep is
        lock = DirectoryLock(path / LOCK)
        try:
            info = read_manifest(path)
            if base is not None:
                check_base(path, info, base)
            store = cls(path, checked_points(path, info, points), info, lock)
            store._mend()
            return store, changed_versions(path, info)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> SweepStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory back to other processes."""
        self._lock.release()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to `results.csv`, and return when they are on disk.

        Args:
            rows: `point` (its number), `status` and `reason` (may be left out), and metrics (those left out or None are empty cells). The
                keys' cells are the store's own business. A row with a NaN is written as an error that names the metric.

        Raises:
            SimjaxError: the file cannot be written; what was there before stays as it was.
            ValueError: a row has a wrong point, status or column.
        """
        if rows:
            append_whole(self.directory / RESULTS, encode(map(self._cells, rows)), header=encode([self.columns]))

    def done(self) -> set[int]:
        """The points that need not be run again: all with a row but for errors, which may have passed."""
        status = self.columns.index("status")
        return {point for point, line in self._latest().items() if cells(line)[status] in DONE}

    def finish(self) -> pd.DataFrame | None:
        """Write the tables of the rows so far, for good or for a while: more rows may follow.

        `results.csv` is rewritten in the order of the points with the last row of each, `results.parquet` is written where pyarrow is
        installed, and `designs.csv` when there are replicate seeds. Each file is there whole at any moment.

        Returns:
            What `read_results` reads; None when no row is there yet.

        Raises:
            SimjaxError: a file is damaged or cannot be written.
        """
        latest = self._latest()
        if not latest:
            return None
        write_whole(self.directory / RESULTS, encode([self.columns]) + b"".join(latest[point] for point in sorted(latest)))
        table = read_results(self.directory)
        _write_parquet(self.directory / PARQUET, table)
        if (seeds := self.info.get("seeds")) is not None:
            designs = aggregate(table, self.points.keys, SEED, expected=len(seeds))
            write_whole(self.directory / DESIGNS, designs.to_csv(index=False, lineterminator="\n").encode())
        return table

    def _cells(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """A row of `results.csv`."""
        point, status, metrics = int(row["point"]), row["status"], [row.get(name) for name in METRICS]
        if not 0 <= point < len(self.points.rows) or not (status in DONE or status == ERROR) or not row.keys() <= self._known:
            raise ValueError(f"not a row of this sweep: {dict(row)}")
        reason = " ".join((row.get("reason") or "").split())
        if wrong := [name for name, value in zip(METRICS, metrics, strict=True) if value != value]:
            status, reason, metrics = ERROR, f"{', '.join(wrong)}: not a number (NaN)", [None] * len(METRICS)
        return (point, *map(format_value, self.points.rows[point]), status, reason, *metrics)

    def _mend(self) -> None:
        """Remove a last line that was cut."""
        path = self.directory / RESULTS
        if not path.exists():
            return
        content = read_bytes(path)
        lines = list(records(content))
        whole = sum(map(len, lines))
        if whole < len(content):
            with writing(path):
                os.truncate(path, whole)
        if lines and cells(lines[0]) != list(self.columns):
            raise SimjaxError(f"{path}: other columns than this simjax writes; the simjax that began it can go on, or start the sweep anew")

    def _latest(self) -> dict[int, bytes]:
        """The last record of each point in `results.csv`."""
        path = self.directory / RESULTS
        latest: dict[int, bytes] = {}
        for number, line in enumerate(records(read_bytes(path)) if path.exists() else ()):
            if number == 0:
                continue
            point = line.partition(b",")[0]
            if not (point.isdigit() and int(point) < len(self.points.rows)) or line.count(b",") < len(self.columns) - 1:
                raise SimjaxError(f"{path}: damaged: row {number} is no row of a point ({line[:40]!r}); remove it")
            latest[int(point)] = line
        return latest


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """The table with the same types whatever its rows hold; none without pyarrow."""
    if find_spec("pyarrow") is None:
        return
    kinds = {str(name): "string" for name in table.columns if name in ("status", "reason") or table[name].dtype == object}
    kinds |= {name: "Int64" if name in WHOLE_METRICS else "float64" for name in METRICS}
    file = io.BytesIO()
    table.astype(kinds).to_parquet(file, index=False)
    write_whole(path, file.getvalue())
