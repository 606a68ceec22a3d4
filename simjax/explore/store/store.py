"""A sweep on disk: what was asked, the points, the rows that are done; safe against kills, continued by a later run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from simjax.errors import SimjaxError
from simjax.explore.keys import SEED
from simjax.explore.pareto.replicates import aggregate
from simjax.explore.points import Points, write_points
from simjax.explore.store.directory import DESIGNS, POINTS, RESULTS, SWEEP, resume_words
from simjax.explore.store.lock import DirectoryLock
from simjax.explore.store.manifest import changed_versions, check_base, checked_points, read_manifest, write_manifest
from simjax.explore.store.records import write_whole, writing
from simjax.explore.store.results_file import ResultsFile
from simjax.explore.store.table import read_results
from simjax.metrics.rows import METRICS, WHOLE_METRICS

PARQUET, LOCK = "results.parquet", "sweep.lock"


def refuse_a_sweep(directory: Path) -> None:
    """Raise where a sweep would overwrite another one.

    Raises:
        SimjaxError: the directory holds a sweep.
    """
    if (directory / SWEEP).exists() or (directory / RESULTS).exists():
        raise SimjaxError(f"{directory}: holds a sweep already; continue it with {resume_words(directory)}, or give another directory")


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
        self._results = ResultsFile(directory / RESULTS, points)
        self.columns = self._results.columns

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
            refuse_a_sweep(path)
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
            store._results.mend()
            changed = changed_versions(info, ("simjax", "jax"))
            return store, [f"{path}: this sweep began with {changed}: rows of then and of now may not compare"] if changed else []
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
        self._results.append(rows)

    def done(self) -> set[int]:
        """The points that need not be run again: all with a row but for errors, which may have passed."""
        return self._results.done()

    def finish(self) -> pd.DataFrame | None:
        """Write the tables of the rows so far, for good or for a while: more rows may follow.

        `results.csv` is rewritten in the order of the points with the last row of each, `results.parquet` is written where pyarrow is
        installed, and `designs.csv` when there are replicate seeds. Each file is there whole at any moment.

        Returns:
            What `read_results` reads; None when no row is there yet.

        Raises:
            SimjaxError: a file is damaged or cannot be written.
        """
        if not self._results.sort():
            return None
        table = read_results(self.directory)
        _write_parquet(self.directory / PARQUET, table)
        if (seeds := self.info.get("seeds")) is not None:
            designs = aggregate(table, self.points.keys, SEED, expected=len(seeds))
            write_whole(self.directory / DESIGNS, designs.to_csv(index=False, lineterminator="\n").encode())
        return table


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    """The table with the same types whatever its rows hold; none without pyarrow."""
    if find_spec("pyarrow") is None:
        return
    kinds = {str(name): "string" for name in table.columns if name in ("status", "reason") or table[name].dtype == object}
    kinds |= {name: "Int64" if name in WHOLE_METRICS else "float64" for name in METRICS}
    file = io.BytesIO()
    table.astype(kinds).to_parquet(file, index=False)
    write_whole(path, file.getvalue())
