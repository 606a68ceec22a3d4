"""The objective of a sweep: columns to maximise, columns to minimise, and constraints, as the user writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError, closest
from simjax.metrics.catalog import CATALOG, Catalog

_CONSTRAINT = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=|<|>)(?!=)\s*(.*?)\s*")
_COMPARE = {"<=": np.less_equal, ">=": np.greater_equal, "<": np.less, ">": np.greater}
NOT_METRICS = ("point", "status", "reason")  # columns of a sweep's table that cannot be optimised
_SIGNS = {"higher": -1.0, "lower": 1.0}
CI95 = "_ci95"  # suffix that makes the name of a column of half-widths from that of its metric


@dataclass(frozen=True)
class Constraint:
    """A limit on a column.

    Attributes:
        column: a column of the table.
        relation: "<=", ">=", "<" or ">".
        value: the limit, in the column's unit.
    """

    column: str
    relation: str
    value: float

    def __str__(self) -> str:
        return f"{self.column}{self.relation}{self.value:.12g}"

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Where float64 values keep the limit, as bool of the same shape; a NaN does not."""
        return _COMPARE[self.relation](values, self.value)


@dataclass(frozen=True)
class Objective:
    """Columns of a table to optimise, and limits to keep.

    Attributes:
        maximize, minimize: columns, at least one of them in all; none twice.
        constraints: limits that a row must keep to count.
        by: columns whose values divide the rows: each group has a front of its own.
        tie_break: metrics that choose among rows of a front with equal values in all columns to optimise, each towards its better end.
        color: columns by whose values the figure colours the front; empty for those of `by`.
    """

    maximize: tuple[str, ...]
    minimize: tuple[str, ...]
    constraints: tuple[Constraint, ...] = ()
    by: tuple[str, ...] = ()
    tie_break: tuple[str, ...] = ()
    color: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The columns to optimise: first those to maximise."""
        return self.maximize + self.minimize

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read: the metrics, then the columns of the constraints; each once."""
        return tuple(dict.fromkeys(self.metrics + tuple(limit.column for limit in self.constraints)))

    def __str__(self) -> str:
        parts = [f"highest {name}" for name in self.maximize] + [f"lowest {name}" for name in self.minimize]
        words = ", ".join(parts) + (f" subject to {', '.join(map(str, self.constraints))}" if self.constraints else "")
        words += f", by {', '.join(self.by)}" if self.by else ""
        return words + (f", ties by {', '.join(self.tie_break)}" if self.tie_break else "")


def parse_objective(
    maximize: Sequence[str] | str,
    minimize: Sequence[str] | str,
    subject_to: Sequence[str] | str = (),
    by: Sequence[str] | str = (),
    tie_break: Sequence[str] | str = (),
    color: Sequence[str] | str = (),
    catalog: Catalog = CATALOG,
) -> Objective:
    """The objective that lists of strings describe.

    Args:
        maximize: names of columns to maximise; a name that is there twice counts once.
        minimize: names of columns to minimise, likewise.
        subject_to: constraints such as "ttft_p99_s<=0.5"; also >=, < and >.
        by: names of columns, each group of whose values has a front of its own.
        tie_break: names of metrics that choose among rows of equal values.
        color: names of columns by which the figure is coloured.
        catalog: the metrics, which say which end of a metric is better.

    Raises:
        SimjaxError: a metric of `tie_break` has no better end or is to be optimised, there is nothing to optimise, a column is both
            maximised and minimised, or a constraint cannot be read.
    """
    up, down = _names(maximize), _names(minimize)
    if not up and not down:
        raise SimjaxError("nothing to optimise: objective.maximize and objective.minimize are both empty; name a column in one of them")
    for name in up:
        if name in down:
            raise SimjaxError(f"objective: '{name}' is to be maximised and minimised; leave it out of one of the two lists{_better(name)}")
    for name in (ties := _names(tie_break)):
        if name in catalog and catalog[name].better not in _SIGNS:
            raise SimjaxError(f"objective.tie_break: {name} has no better end")
        if name in (*up, *down):
            raise SimjaxError(f"objective.tie_break: rows that are tied have the same {name}; leave it out")
    limits = tuple(dict.fromkeys(parse_constraint(text) for text in _names(subject_to)))
    return Objective(up, down, limits, _names(by), ties, _names(color))


def tie_sign(name: str, catalog: Catalog = CATALOG) -> float:
    """Factor by which a column of `tie_break` becomes a loss; of swept keys, such as a number of instances, less is better."""
    return _SIGNS[str(catalog[name].better)] if name in catalog else 1.0


def parse_constraint(text: str) -> Constraint:
    """The constraint that a string such as "ttft_p99_s <= 0.5" describes.

    Raises:
        SimjaxError: it is no comparison of a column with a finite number.
    """
    match = _CONSTRAINT.fullmatch(text)
    if match is None:
        raise SimjaxError(f"objective.subject_to: cannot read '{text}'; a constraint looks like column<=value (or >=, <, >)")
    column, relation, number = match.groups()
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SimjaxError(f"objective.subject_to: '{text}': '{number}' is not a finite number in the column's unit (0.5, not 500ms)")
    return Constraint(column, relation, value)


def columns_of(keys: Iterable[str], replicates: bool, catalog: Catalog = CATALOG) -> list[str]:
    """The columns that the objective of a sweep may name.

    Args:
        keys: the swept keys.
        replicates: whether the sweep has replicate seeds: then the half-widths of all metrics are columns too.
        catalog: the metrics.
    """
    return [*keys, *catalog, *(f"{name}{CI95}" for name in catalog if replicates)]


def against_direction(objective: Objective, catalog: Catalog = CATALOG) -> list[str]:
    """A line for each metric that the objective would drive to its worse end: that is allowed, and is rarely meant."""
    wrong = [("maximize", name) for name in objective.maximize if name in catalog and catalog[name].better == "lower"]
    wrong += [("minimize", name) for name in objective.minimize if name in catalog and catalog[name].better == "higher"]
    return [f"objective.{option} has {name}, of which {catalog[name].better} is better" for option, name in wrong]


def check_columns(objective: Objective, columns: Iterable[str]) -> None:
    """Raise unless all columns of an objective are among those of a table.

    Raises:
        SimjaxError: there is no such column; the message has the option that names it, and the nearest name that is known.
    """
    known = [name for name in columns if name not in NOT_METRICS]
    named = [("maximize", objective.maximize), ("minimize", objective.minimize)]
    named.append(("subject_to", tuple(limit.column for limit in objective.constraints)))
    named += [("by", objective.by), ("tie_break", objective.tie_break), ("color", objective.color)]
    for option, names in named:
        for name in names:
            if name not in known:
                raise SimjaxError(f"objective.{option}: there is no column '{name}'; {_hint(name, known)}")


def _hint(name: str, known: list[str]) -> str:
    if name == "itl" or name.startswith("itl_"):
        tpot = name.replace("itl", "tpot", 1)
        instead = f"; {tpot} does without" if tpot in known else ""
        return f"sweeps do not keep the log of steps that ITL percentiles need{instead}"
    return closest(name, [column for column in known if not column.endswith(CI95)])


def _better(name: str) -> str:
    """Which end of a metric is the better one, in brackets; empty where neither is."""
    better = CATALOG[name].better if name in CATALOG else None
    return f" ({better} is better)" if better else ""


def _names(given: Sequence[str] | str) -> tuple[str, ...]:
    return tuple(dict.fromkeys([given] if isinstance(given, str) else [str(name) for name in given]))
