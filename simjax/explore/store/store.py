"""A sweep on disk: its definition, its points and the completed rows; robust against kills, resumable by a later run."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from simjax.disk.files import make_folder, write_file
from simjax.errors import SimjaxError
from simjax.explore.keys import SEED
from simjax.explore.pareto.replicates import aggregate
from simjax.explore.points import Points, write_points
from simjax.explore.store.directory import DESIGNS, POINTS, RESULTS, SWEEP, refuse_linked_part, resume_options
from simjax.explore.store.lock import DirectoryLock
from simjax.explore.store.manifest import changed_versions, check_base, checked_points, read_manifest, write_manifest
from simjax.explore.store.results_file import ResultsFile
from simjax.explore.store.table import read_results
from simjax.metrics.rows import METRICS, WHOLE_METRICS

PARQUET, LOCK = "results.parquet", "sweep.lock"


def refuse_a_sweep(directory: Path) -> None:
    """Raise if a sweep in this directory would overwrite another one.

    Raises:
        SimjaxError: the directory holds a sweep.
    """
    if (directory / SWEEP).exists() or (directory / RESULTS).exists():
        raise SimjaxError(f"{directory}: holds a sweep already; resume it with {resume_options(directory)}, or give another directory")


class SweepStore:
    """The directory of a sweep, open for writing by this process alone.

    Created by `create` or `resume`; a context manager that releases the directory at its end. Rows are on disk when `append` returns. A
    process killed at any moment leaves complete rows and at most one incomplete line, which readers ignore and `resume` removes.

    Attributes:
        directory: the directory, with `sweep.json`, `points.csv` and `results.csv`, and after `finish` the other tables.
        points: all points of the sweep.
        info: the content of `sweep.json`.
        columns: the header of `results.csv`.
    """

    def __init__(
        self,
        directory: Path,
        points: Points,
        info: dict[str, Any],
        lock: DirectoryLock,
        metrics: Sequence[str] = METRICS,
        whole: Set[str] = WHOLE_METRICS,
    ) -> None:
        """Not for direct use; see `create` and `resume`."""
        self.directory, self.points, self.info, self._lock = directory, points, info, lock
        self._metrics, self._whole = tuple(metrics), whole
        self._results = ResultsFile(directory / RESULTS, points, metrics)
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
        metrics: Sequence[str] = METRICS,
        whole: Set[str] = WHOLE_METRICS,
    ) -> SweepStore:
        """Begin a sweep in a directory, which is created when missing and may hold other files.

        Args:
            directory: the directory.
            points: all points of the sweep.
            base: overrides shared by all points.
            command: the command whose configuration they override.
            seeds: the replicate seeds, if all designs have the same ones.
            objective: lists under `maximize`, `minimize`, `subject_to`, `by`, `tie_break` and `color`, kept for `simjax pareto`.
            metrics: the columns after the reason.
            whole: those of them that hold whole numbers.

        Raises:
            SimjaxError: the directory holds a sweep already, is in use by another process, or cannot be written.
        """
        path = Path(directory).expanduser()
        refuse_linked_part(path)
        make_folder(path)
        header = ResultsFile(path / RESULTS, points, metrics).header
        lock = DirectoryLock(path / LOCK)
        try:
            refuse_a_sweep(path)
            write_points(path / POINTS, points)
            info = write_manifest(path, points, command, base, seeds, objective, header)  # last: it marks the directory as a sweep
            return cls(path, points, info, lock, metrics, whole)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, directory: str | Path, points: Points | None = None, base: Sequence[str] | None = None) -> tuple[SweepStore, list[str]]:
        """Open a sweep that was stopped or killed, to continue it.

        Args:
            directory: the sweep's directory.
            points: the points that it must have; None accepts those of the directory.
            base: the shared overrides that it must have, in any order; None accepts those of the directory.

        Returns:
            The store, and warnings, one line each.

        Raises:
            SimjaxError: the directory holds no sweep or a different one, its files are damaged, or another process is using it.
        """
        path = Path(directory).expanduser()
        refuse_linked_part(path)
        read_manifest(path)  # before the lock, so that no lock file is left in a directory without a sweep
        lock = DirectoryLock(path / LOCK)
        try:
            info = read_manifest(path)
            if base is not None:
                check_base(path, info, base)
            store = cls(path, checked_points(path, info, points), info, lock)
            store._results.mend()
            changed = changed_versions(info, ("simjax", "jax"))
            return store, [f"{path}: this sweep began with {changed}: old and new rows may not be comparable"] if changed else []
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> SweepStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory for other processes."""
        self._lock.release()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to `results.csv` and return once they are on disk.

        Args:
            rows: `point` (its number), `status` and `reason` (may be left out), and metrics (those left out or None are empty cells). The
                store adds the cells of the keys. A row with a NaN is written as an error that names the metric.

        Raises:
            SimjaxError: the file cannot be written; it is unchanged.
            ValueError: a row has a wrong point, status or column.
        """
        self._results.append(rows)

    def done(self) -> set[int]:
        """The points that need not be run again: those with a row, except errors, which may not recur."""
        return self._results.done()

    def finish(self) -> pd.DataFrame | None:
        """Write the tables of the rows so far; more rows may follow.

        `results.csv` is rewritten in the order of the points with the last row of each, `results.parquet` is written if pyarrow is
        installed, and `designs.csv` if there are replicate seeds. Every file is complete at any moment.

        Returns:
            The table as `read_results` reads it; None if there are no rows yet.

        Raises:
            SimjaxError: a file is damaged or cannot be written.
        """
        if not self._results.sort():
            return None
        table = read_results(self.directory)
        _write_parquet(self.directory / PARQUET, table, self._metrics, self._whole)
        if (seeds := self.info.get("seeds")) is not None:
            designs = aggregate(table, self.points.keys, SEED, expected=len(seeds))
            write_file(self.directory / DESIGNS, designs.to_csv(index=False, lineterminator="\n"), sync=True)
        return table


def _write_parquet(path: Path, table: pd.DataFrame, metrics: Sequence[str], whole: Set[str]) -> None:
    """Write the table with types that do not depend on its rows; does nothing without pyarrow."""
    if find_spec("pyarrow") is None:
        return
    kinds = {str(name): "string" for name in table.columns if name in ("status", "reason") or table[name].dtype == object}
    kinds |= {name: "Int64" if name in whole else "float64" for name in metrics}
    file = io.BytesIO()
    table.astype(kinds).to_parquet(file, index=False)
    write_file(path, file.getvalue(), sync=True)
