"""The Pareto front of a table: its feasible rows, the non-dominated ones among them, the knee and the best rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from simjax.errors import SimjaxError
from simjax.explore.labels import format_cell, short_keys
from simjax.explore.pareto.dominance import nondominated
from simjax.explore.pareto.objective import Constraint, Objective, check_columns, tie_sign

_FINISHED = "finished"  # the status of usable rows
_FEW = 3  # a front of fewer different rows has no knee


@dataclass(frozen=True)
class LeftOut:
    """Rows that are not feasible, by the first reason that applies: not finished, then a missing value, then a constraint.

    Attributes:
        rows: number of rows of the table.
        not_finished: numbers of rows that are not finished, by status.
        missing: numbers of rows without a finite value in a column of the objective, by column; a row may lack several.
        rows_missing: number of rows that lack at least one value.
        violated: numbers of rows that violate a constraint, by constraint; a row may violate several.
        rows_violating: number of rows that violate at least one constraint.
        nearest: for each constraint that no row meets, the value that comes closest; absent if no row has a value.
    """

    rows: int
    not_finished: dict[str, int]
    missing: dict[str, int]
    rows_missing: int
    violated: dict[Constraint, int]
    rows_violating: int
    nearest: dict[Constraint, float]

    @property
    def total(self) -> int:
        """Number of rows left out."""
        return sum(self.not_finished.values()) + self.rows_missing + self.rows_violating

    def __str__(self) -> str:
        """The reasons with their counts; empty if no row was left out."""
        parts = [f"{count:,} {status.replace('_', ' ')}" for status, count in self.not_finished.items()]
        if self.rows_missing:
            parts.append(f"{self.rows_missing:,} without a value of {_counts(self.missing)}")
        if self.rows_violating:
            parts.append(f"{self.rows_violating:,} outside {_counts({str(limit): count for limit, count in self.violated.items()})}")
        return "; ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items())


@dataclass(frozen=True)
class ParetoResult:
    """The front of a table, as positions of its rows (for `table.iloc`).

    Attributes:
        objective: metrics and constraints.
        table: all rows.
        feasible: bool[rows], the rows that are finished, complete and within the constraints.
        left_out: reasons why the others are not feasible.
        front: int64[m], the feasible rows that no other one (of its group, with `objective.by`) dominates, including all rows of equal
            values (without `objective.tie_break`); best in the first metric first, group by group.
        groups: name of each row's group, such as "model=qwen3-8b"; empty where the objective has no `by`.
        knee: the row of the front with the best trade-off between all metrics (see `pareto`), None if there is none.
        best: the best row of the front in each metric; with several groups empty, and `knee` None.
        knees: with several groups, the knee of each that has one.
    """

    objective: Objective
    table: pd.DataFrame
    feasible: np.ndarray
    left_out: LeftOut
    front: np.ndarray
    knee: int | None
    best: dict[str, int]
    groups: tuple[str, ...] = ()
    knees: tuple[int, ...] = ()

    @property
    def rows_are(self) -> str:
        """Name of the rows: points, or designs if they are means over replicates."""
        return "designs" if "replicates" in self.table.columns else "points"

    def marks(self, row: int) -> list[str]:
        """The distinctions of a row: "knee", "best <metric>", several or none of them."""
        return (["knee"] if row in (self.knee, *self.knees) else []) + [f"best {name}" for name, best in self.best.items() if best == row]

    def rows(self) -> pd.DataFrame:
        """The rows of the front, with a last column `mark` for the knee and the best ones."""
        return self.table.iloc[self.front].assign(mark=["; ".join(self.marks(row)) for row in self.front])


def pareto(table: pd.DataFrame, objective: Objective) -> ParetoResult:
    """The feasible rows of a table that are not dominated.

    A row is feasible if its `status` (if the table has one) is "finished", all columns of the objective have a finite value, and all
    constraints hold. The knee is determined with the metrics scaled to 0 ... 1 over the front. For two metrics, it is the row farthest from
    the line between the two best ones, on its better side (I. Das, "On characterizing the 'knee' of the Pareto curve based on
    normal-boundary intersection", Structural Optimization 18, 1999); a front that only bulges to the worse side has none. For more
    metrics, it is the row closest to the ideal point that has the best value of each (M. Zeleny, "Compromise programming", in Multiple
    Criteria Decision Making, 1973, with the Euclidean distance). One metric, or a front of fewer than three different rows, has no knee.

    Args:
        table: one row per point or design, as `simjax.explore.store.table` reads them; 100,000 rows take about a second.
        objective: from `parse_objective`.

    Raises:
        SimjaxError: the objective names a column that the table does not have, or one that does not hold numbers.
    """
    check_columns(objective, [str(name) for name in table.columns])
    values = {name: numbers(table, name) for name in objective.columns}
    feasible, left_out = _feasible(table, objective, values)
    signs = np.array([-1.0] * len(objective.maximize) + [1.0] * len(objective.minimize))
    losses = np.stack([values[name] for name in objective.metrics], axis=1) * signs
    rows = np.flatnonzero(feasible)
    groups = group_names(table, objective.by)
    names = np.array(groups or [""] * len(table), object)
    fronts = [_front_of(table, objective, losses, rows[names[rows] == name]) for name in dict.fromkeys(names[rows])]
    front = np.concatenate(fronts) if fronts else rows
    if len(fronts) > 1:  # the best of which group? The table and the figure have every front, and the table its knee
        knees = tuple(knee for one in fronts if (knee := _knee(losses, one)) is not None)
        return ParetoResult(objective, table, feasible, left_out, front, None, {}, groups, knees)
    best = {name: int(front[np.argmin(losses[front, at])]) for at, name in enumerate(objective.metrics)} if len(front) else {}
    return ParetoResult(objective, table, feasible, left_out, front, _knee(losses, front), best, groups)


def _front_of(table: pd.DataFrame, objective: Objective, losses: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of a group that no other one of it dominates, best in the first metric first."""
    front = rows[nondominated(losses[rows])]
    ties = [numbers(table, name)[front] * tie_sign(name) for name in objective.tie_break]
    order = np.lexsort([*ties[::-1], *losses[front].T[::-1]])  # stable: equal rows stay in the table's order
    front = front[order]
    if not objective.tie_break or len(front) == 0:
        return front
    first = np.ones(len(front), bool)
    first[1:] = (losses[front[1:]] != losses[front[:-1]]).any(1)
    leaders = np.maximum.accumulate(np.where(first, np.arange(len(front)), 0))
    told = np.stack([values[order] for values in ties], axis=1)
    return front[(told == told[leaders]).all(1)]  # those that even the tie-breaks do not tell apart stay


def group_names(table: pd.DataFrame, by: Sequence[str]) -> tuple[str, ...]:
    """Name of the group of each row; empty without `by`."""
    if not by:
        return ()
    short = short_keys([str(name) for name in by])
    columns = [[f"{short[name]}={format_cell(value)}" for value in table[name]] for name in by]
    return tuple(", ".join(parts) for parts in zip(*columns, strict=True))


def numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as float64[rows], NaN where it is empty.

    Raises:
        SimjaxError: it holds something else than numbers.
    """
    column: Any = table[name]
    found: Any = pd.to_numeric(column, errors="coerce")
    wrong = np.flatnonzero(column.notna() & found.isna())
    if len(wrong):
        raise SimjaxError(f"objective: column '{name}' does not hold numbers (it holds '{column.iloc[wrong[0]]}'); choose another one")
    return found.to_numpy(np.float64, na_value=np.nan)


def finished_rows(table: pd.DataFrame) -> np.ndarray:
    """The rows whose status is finished, as bool[rows]; all of them where the table has no status."""
    return np.array([name == _FINISHED for name in _status(table)], bool)


def _status(table: pd.DataFrame) -> list[str]:
    if "status" not in table.columns:
        return [_FINISHED] * len(table)
    return ["without status" if pd.isna(name) else str(name) for name in table["status"]]


def _feasible(table: pd.DataFrame, objective: Objective, values: dict[str, np.ndarray]) -> tuple[np.ndarray, LeftOut]:
    counts = finished_rows(table)
    not_finished = dict(Counter(name for name in _status(table) if name != _FINISHED).most_common())
    gaps = {name: counts & ~np.isfinite(column) for name, column in values.items()}
    gap = np.logical_or.reduce(list(gaps.values()))
    counts = counts & ~gap
    violated, nearest = {}, {}
    out = np.zeros(len(table), bool)
    for limit in objective.constraints:
        column = values[limit.column]
        wrong = counts & ~limit.holds(column)
        out |= wrong
        violated[limit] = int(wrong.sum())
        if wrong.any() and wrong.sum() == counts.sum():
            nearest[limit] = float(column[wrong].min() if limit.relation.startswith("<") else column[wrong].max())
    missing = {name: int(rows.sum()) for name, rows in gaps.items() if rows.any()}
    violated = {limit: count for limit, count in violated.items() if count}
    return counts & ~out, LeftOut(len(table), not_finished, missing, int(gap.sum()), violated, int(out.sum()), nearest)


def _knee(losses: np.ndarray, front: np.ndarray) -> int | None:
    """The knee's row, see `pareto`."""
    on_front = losses[front]
    if losses.shape[1] < 2 or len(np.unique(on_front, axis=0)) < _FEW:
        return None
    low, high = on_front.min(0), on_front.max(0)
    scaled = (on_front - low) / np.where(high > low, high - low, 1.0)
    if losses.shape[1] > 2:
        return int(front[np.argmin(np.linalg.norm(scaled, axis=1))])
    below = 1.0 - scaled.sum(1)  # the line runs from (0, 1) to (1, 0)
    knee = int(np.argmax(below))
    return int(front[knee]) if below[knee] > 1e-9 else None
