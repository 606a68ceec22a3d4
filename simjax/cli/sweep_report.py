"""Reports of a sweep's Pareto front: pareto.csv, pareto.png, and a short table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simjax.disk.files import make_folder, write_table
from simjax.explore.labels import differing_keys, format_cell, short_keys
from simjax.explore.pareto.caveats import caveats
from simjax.explore.pareto.front import ParetoResult, pareto
from simjax.explore.pareto.objective import CI95, Objective
from simjax.text import counted

PARETO_TABLE, PARETO_FIGURE, RATES_FIGURE = "pareto.csv", "pareto.png", "rates.png"
_ROWS = 15  # rows of the table on the terminal


def write_pareto(
    table: pd.DataFrame, objective: Objective, keys: Sequence[str], out: str | Path, plots: bool = True, title: str = ""
) -> ParetoResult:
    """Find the front of a sweep's table and write `pareto.csv` and, if `plots`, `pareto.png` and `rates.png` into a folder.

    `pareto.csv` has the columns of the table and `mark` ("knee", "best <metric>"); without feasible rows it has only a header. The figure
    of an earlier front is removed if none is drawn.

    Args:
        table: table of points or designs, as read by `simjax.explore.store.table`.
        objective: from `parse_objective`.
        keys: the swept keys.
        out: the folder, created when missing.
        plots: whether to draw the figure.
        title: title at the top of the figure, such as the swept keys.

    Raises:
        SimjaxError: the objective does not fit the table.
    """
    result = pareto(table, objective)
    folder = Path(out)
    make_folder(folder)
    write_table(result.rows(), folder / PARETO_TABLE)
    figure = folder / PARETO_FIGURE
    if plots and len(result.front):
        from simjax.plot.pareto.front import plot_pareto

        plot_pareto(result, figure, _columns(result, keys), title)
    else:
        figure.unlink(missing_ok=True)
    if plots:
        from simjax.plot.studies.rates import plot_rates

        if plot_rates(table, folder / RATES_FIGURE, _columns(result, keys), title) is None:
            (folder / RATES_FIGURE).unlink(missing_ok=True)
    return result


def pareto_report(result: ParetoResult, keys: Sequence[str], title: str = "") -> RenderableType:
    """The front for the terminal: at most 15 of its rows with the swept values that differ, and the rows left out with the reasons.

    If there is no front, the reasons for that.
    """
    if len(result.front) == 0:
        return Group(*(Text(line, style="yellow") for line in _no_front(result)))
    keys = _columns(result, keys)
    shown = _some(result)
    parts: list[RenderableType] = [_headline(result, title), _front_table(result, keys, shown)]
    front = result.table.iloc[result.front]
    common = [key for key in differing_keys(result.table, keys) if key not in differing_keys(front, keys)]
    if common and len(front) > 1:
        parts.append(Text("all of them: " + ", ".join(f"{short_keys(keys)[key]}={format_cell(front[key].iloc[0])}" for key in common)))
    if len(shown) < len(front):
        parts.append(Text(f"{len(front) - len(shown):,} more in {PARETO_TABLE}"))
    if result.left_out.total:
        parts.append(Text(f"left out: {result.left_out}"))
    parts += [Text(line, style="yellow") for line in caveats(result, keys)]
    return Group(*parts)


def _columns(result: ParetoResult, keys: Sequence[str]) -> list[str]:
    """The swept keys that are columns of the table; tables of designs have no seeds."""
    return [key for key in keys if key in result.table.columns]


def _headline(result: ParetoResult, title: str) -> Text:
    line = Text(f"{title}  " if title else "", style="bold")
    line.append(f"{len(result.front):,} of {counted(int(result.feasible.sum()), result.rows_are)} on the front", style="not bold")
    return line.append(f": {result.objective}", style="not bold")


def _no_front(result: ParetoResult) -> list[str]:
    """Why there is no front, and how close rows come to the constraints that none of them meets."""
    lines = [f"there is no front and no figure: none of {counted(result.left_out.rows, result.rows_are)} counts ({result.left_out})"]
    return lines + [f"the closest to {limit} is {_number(value)}" for limit, value in result.left_out.nearest.items()]


def _some(result: ParetoResult) -> np.ndarray:
    """Up to 15 evenly spaced positions of the front, including the knee and the best ones."""
    count = len(result.front)
    if count <= _ROWS:
        return result.front
    kept = {at for at, row in enumerate(result.front) if result.marks(row)}
    for at in np.linspace(0, count - 1, _ROWS).round().astype(int):
        if len(kept) < _ROWS:
            kept.add(int(at))
    return result.front[sorted(kept)]


def _front_table(result: ParetoResult, keys: Sequence[str], shown: np.ndarray) -> Table:
    rows, columns = result.table.iloc[shown], result.objective.columns
    differing = differing_keys(result.table.iloc[result.front], keys) or differing_keys(result.table, keys)
    short = short_keys(keys)
    numbered = "point" in rows.columns
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in [*(["point"] if numbered else []), *(short[key] for key in differing), *columns]:
        table.add_column(name, justify="right", overflow="fold")  # max_num_seqs and max_num_batched_tokens stay apart
    table.add_column("")
    for position, (_, row) in zip(shown, rows.iterrows(), strict=True):
        cells = [str(int(row["point"]))] if numbered else []
        cells += [format_cell(row[key]) for key in differing]
        cells += [_number(row[name]) + _half_width(row, name) for name in columns]
        marks = result.marks(position)
        table.add_row(*cells, "; ".join(marks), style="bold" if "knee" in marks else None)
    return table


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:,.4g}"


def _half_width(row: pd.Series, name: str) -> str:
    half = row.get(f"{name}{CI95}")
    return "" if half is None or pd.isna(half) else f" ± {half:.2g}"
