"""`results.csv` while rows are added to it: one row per completed point, in the order of completion; detects cut lines and edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simjax.disk.files import append_file, cell, is_link, read_bytes, write_file
from simjax.errors import SimjaxError
from simjax.explore.points import Points
from simjax.explore.store.directory import POINTS
from simjax.explore.store.records import CHECK, cells, encode, records, sealed, unsealed
from simjax.explore.values import format_value, shortened
from simjax.metrics.rows import METRICS

ERROR = "error"
_DIGITS = 10  # of the number of a point, at most
DONE = frozenset({"finished", "tick_limit", "stalled", "invalid"})
"""Statuses of completed points, which another run would not change."""
CHANGED = "row {} was changed: its checksum is not that of its cells; put it back, or remove the row to simulate the point again"


class ResultsFile:
    """The file, whether it exists or not. Every method reads it anew; only `append`, `mend` and `sort` write.

    Attributes:
        path: path of the file.
        points: all points of the sweep.
        columns: names of the columns; in the file, a column of checksums follows them.
        header: the first line of the file, without its end.
    """

    def __init__(self, path: Path, points: Points, metrics: Sequence[str] = METRICS) -> None:
        self.path, self.points, self._metrics = path, points, tuple(metrics)
        self.columns = ("point", *points.keys, "status", "reason", *metrics)
        self.header = encode([(*self.columns, CHECK)])[:-1]
        self._known = frozenset(self.columns)

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows and return once they are on disk, see `SweepStore.append`."""
        if rows:
            added = b"".join(sealed(encode([self._cells(row)])) for row in rows)
            append_file(self.path, added, header=self.header + b"\n")

    def done(self) -> set[int]:
        """The points that need not be run again: those with a row, except errors, which may not recur.

        Raises:
            SimjaxError: the file is damaged.
        """
        status = self.columns.index("status")
        return {point for point, line in self._latest().items() if cells(line)[status] in DONE}

    def sort(self) -> bool:
        """Rewrite the file in the order of the points with the last row of each; returns whether there is any row.

        Raises:
            SimjaxError: the file is damaged or cannot be written.
        """
        latest = self._latest()
        if latest:
            write_file(self.path, self.header + b"\n" + b"".join(latest[point] for point in sorted(latest)), sync=True)
        return bool(latest)

    def mend(self) -> None:
        """Remove an incomplete last line, and put a copy in the place of a link.

        Raises:
            SimjaxError: the file has another header, or cannot be written.
        """
        if not self.path.exists():
            return
        content = read_bytes(self.path)
        lines = list(records(content))
        whole = sum(map(len, lines))
        if whole < len(content) or is_link(self.path):
            write_file(self.path, content[:whole], sync=True)
        self._check_header(lines)

    def _cells(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The cells of a row."""
        point, status, metrics = int(row["point"]), row["status"], [row.get(name) for name in self._metrics]
        if not 0 <= point < len(self.points.rows) or not (status in DONE or status == ERROR) or not row.keys() <= self._known:
            raise ValueError(f"not a row of this sweep: {dict(row)}")
        reason = " ".join((row.get("reason") or "").split())
        if wrong := [name for name, value in zip(self._metrics, metrics, strict=True) if value != value]:
            status, reason, metrics = ERROR, f"{', '.join(wrong)}: not a number (NaN)", [None] * len(metrics)
        return (*self._first_cells(point), status, cell(reason), *metrics)

    def _first_cells(self, point: int) -> tuple[Any, ...]:
        """The first cells of a row: the point's number and the values of the swept keys."""
        return (point, *map(format_value, self.points.rows[point]))

    def _latest(self) -> dict[int, bytes]:
        """The last record of each point."""
        lines = list(records(read_bytes(self.path))) if self.path.exists() else []
        self._check_header(lines)
        latest: dict[int, bytes] = {}
        for number, line in enumerate(lines[1:], 1):
            if not line.strip():  # editors leave such lines at the end
                continue
            point = line.partition(b",")[0]
            known = point.isdigit() and len(point) < _DIGITS and int(point) < len(self.points.rows)
            if not known or line.count(b",") < len(self.columns):
                raise SimjaxError(f"{self.path}: damaged: row {number} is not the row of a point ({line[:40]!r}); remove it")
            self._check_keys(number, int(point), line)
            if unsealed(line) is None:
                raise SimjaxError(f"{self.path}: {CHANGED.format(number)}")
            latest[int(point)] = line
        return latest

    def _check_header(self, lines: Sequence[bytes]) -> None:
        if lines and cells(lines[0]) != [*self.columns, CHECK]:
            raise SimjaxError(
                f"{self.path}: its columns are not those of this version of simjax; resume it with the version that began it, or start anew"
            )

    def _check_keys(self, number: int, point: int, line: bytes) -> None:
        """Raise unless a row has the swept values of its point, that is, if its values or its number were edited."""
        wanted = self._first_cells(point)
        if line.startswith(encode([wanted])[:-1] + b","):
            return
        for key, there, value in zip(self.points.keys, cells(line)[1:], wanted[1:], strict=False):
            if there != value:
                raise SimjaxError(
                    f"{self.path}: row {number} was changed: {key} is {shortened(' '.join(there.split()) or 'empty')} there, "
                    f"{shortened(value)} in {POINTS} for point {point}; put it back, or remove the row to simulate the point again"
                )
