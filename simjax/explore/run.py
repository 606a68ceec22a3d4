"""Running a plan: into a directory from which a later run can resume, or into a table in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from simjax.batch.execute import Row, run_designs
from simjax.caveat import grouped
from simjax.explore.pareto.objective import Objective
from simjax.explore.plan import SweepPlan
from simjax.explore.store.directory import has_parts, shard_directory
from simjax.explore.store.store import SweepStore
from simjax.validity.left import LeftRanges

Progress = Callable[[int, int], None]


def run_plan(
    plan: SweepPlan,
    out: str | Path,
    objective: Objective | None = None,
    *,
    on_progress: Progress | None = None,
    resume: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """Simulate a sweep into a directory, chunk by chunk; its tables can be read at any moment, and a later run can resume it.

    Args:
        plan: the sweep to simulate.
        out: the directory; for a shard, its parent.
        objective: kept there for `simjax pareto`.
        on_progress: called now and then with (points done, all points).
        resume: resume the sweep in the directory: only points that have no row yet are simulated.

    Returns:
        The table of all points so far (columns: point, swept keys, status, reason, metrics), and its warnings, one line each: those of the
        plan, and one for each range of a calibration that the points simulated here have left.

    Raises:
        SimjaxError: the directory holds a sweep already, or none or another one to resume, or cannot be written.
    """
    directory = shard_directory(out, plan.shard)
    warnings: list[str] = []
    # A shard that was never begun, though others were, begins when the sweep is resumed.
    if resume and not (plan.shard is not None and not directory.exists() and has_parts(out)):
        store, warnings = SweepStore.resume(directory, plan.points, plan.base)
    else:
        store = SweepStore.create(directory, plan.points, base=plan.base, seeds=plan.seeds, objective=_as_lists(objective))
    left = LeftRanges()
    with store:
        total, done = len(plan.designs) + len(plan.invalid), store.done()
        finished = len(done)
        try:
            for rows in _rows(plan.without(done), left):
                store.append(rows)
                finished += len(rows)
                if on_progress is not None:
                    on_progress(finished, total)
        finally:
            table = store.finish()
    if table is None:  # a shard of more shards than there are points
        table = pd.DataFrame(columns=list(store.columns))
    return table, [*warnings, *grouped(left.warnings_of_sweep(plan.warnings))]


def run_sweep(
    plan: SweepPlan,
    out: str | Path | None = None,
    objective: Objective | None = None,
    *,
    on_progress: Progress | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Simulate a sweep: one row a point, with its number, the swept keys, status, reason and `simjax.metrics.rows.METRICS`.

    What a reader of the numbers must know is in the table's `attrs["warnings"]`, one line each: the plan's warnings, and those that are
    known only once the points have run.

    Args:
        plan: the sweep to simulate.
        out: a directory for the tables, see `run_plan`; None for the table alone.
        objective: kept in the directory for `simjax pareto`.
        on_progress: called now and then with (points done, all points).
        resume: resume the sweep in the directory.

    Raises:
        SimjaxError: the directory cannot be used, see `run_plan`.
    """
    if out is not None:
        return _with_warnings(*run_plan(plan, out, objective, on_progress=on_progress, resume=resume))
    with TemporaryDirectory(prefix="simjax-") as kept:
        return _with_warnings(*run_plan(plan, kept, objective, on_progress=on_progress))


def _with_warnings(table: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    table.attrs["warnings"] = warnings
    return table


def _as_lists(objective: Objective | None) -> dict[str, list[str]] | None:
    if objective is None:
        return None
    limits = [str(limit) for limit in objective.constraints]
    found = {"maximize": list(objective.maximize), "minimize": list(objective.minimize), "subject_to": limits}
    return found | {name: list(values) for name in ("by", "tie_break", "color") if (values := getattr(objective, name))}


def _rows(plan: SweepPlan, left: LeftRanges) -> Iterator[list[Row]]:
    """Rows of all points of the plan, first those of points that cannot be simulated; `left` records the ranges that the others leave.

    Points of automatic length that are too short to judge are simulated once more, as a single run would be.
    """
    if plan.invalid:
        yield [{"point": point, "status": "invalid", "reason": reason} for point, reason in plan.invalid.items()]
    undecided: list[int] = []
    for rows in run_designs(plan.designs, plan.groups, plan.workers, plan.width, left):
        short = {row["point"] for row in rows if row["point"] in plan.extensible and row.get("steady", 0) is None}
        undecided += short
        if len(short) < len(rows):
            yield [row for row in rows if row["point"] not in short]
    if undecided:
        yield from _rows(plan.lengthened(sorted(undecided)), left)
