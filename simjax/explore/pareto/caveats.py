"""Caveats for a reader of a front: best rows on the edge of a sweep, and rows that have no steady state."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from simjax.explore.labels import format_cell, short_keys
from simjax.explore.pareto.front import ParetoResult, finished_rows, numbers
from simjax.text import counted

_STEADY = "steady"
_STEPS = 3  # an axis with fewer values was not meant to find an optimum
_SMALLEST = 1  # the least instances, devices, sequences: nothing lies below


def caveats(result: ParetoResult, keys: Sequence[str]) -> list[str]:
    """One line each, none where there is nothing to say.

    Args:
        result: the front.
        keys: the swept keys that are columns of its table.
    """
    return [*_not_steady(result), *_on_edge(result, keys)]


def _not_steady(result: ParetoResult) -> list[str]:
    """The number of rows, and of those on the front, whose numbers depend on how long they run."""
    if _STEADY not in result.table.columns:
        return []
    steady = numbers(result.table, _STEADY)
    off = finished_rows(result.table) & (steady < 1.0)  # the mean over seeds, if not all of them are steady
    front = int(off[result.front].sum())
    if not front:
        return []
    of = f"{front:,} of {counted(len(result.front), result.rows_are)} on the front"
    return [f"not steady: {of} ({int(off.sum()):,} of all {len(result.table):,}), so their numbers depend on how long they run; "
            "objective.subject_to=[steady>=1] leaves them out"]  # fmt: skip


def _on_edge(result: ParetoResult, keys: Sequence[str]) -> list[str]:
    """The best rows that lie at the end of a numeric axis: a better one may lie beyond."""
    found = []
    short = short_keys(keys)
    for metric, row in result.best.items():
        ends = []
        for key in keys:
            end = _end(result.table[key], result.table[key].iloc[row])
            if end is not None:
                ends.append(f"{short[key]}={format_cell(result.table[key].iloc[row])}, the {end}")
        if ends:
            found.append(f"best {metric} ({'; '.join(ends)})")
    return [f"on the edge of the sweep: {', '.join(found)}; better ones may lie beyond"] if found else []


def _end(column: Any, value: Any) -> str | None:
    """The end of a numeric axis at which a value lies, None if it lies within or the axis is short or not numeric."""
    known = column.dropna().unique()
    if len(known) < _STEPS or not all(isinstance(x, Real) and not isinstance(x, bool | np.bool_) for x in known):
        return None
    if value == max(known):
        return "highest"
    return "lowest" if value == min(known) and value != _SMALLEST else None
