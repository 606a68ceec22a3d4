"""Running a plan: into a directory that a later run can go on from, or into a table in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from simjax.explore.execute import Row, run_designs
from simjax.explore.groups import make_groups
from simjax.explore.lanes import Lanes, local_lanes
from simjax.explore.objective import Objective
from simjax.explore.plan import SweepPlan
from simjax.explore.store import SweepStore
from simjax.metrics.rows import METRICS

Progress = Callable[[int, int], None]


def run_plan(
    plan: SweepPlan,
    out: str | Path,
    objective: Objective | None = None,
    *,
    on_progress: Progress | None = None,
    resume: bool = False,
    lanes: Lanes | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Simulate a sweep into a directory, chunk by chunk; what is there at any moment can be read, and a later run can go on from it.

    Args:
        plan: what to simulate.
        out: the directory; of a shard, its parent.
        objective: kept there for `simjax pareto`.
        on_progress: called now and then with (points done, points in all).
        resume: go on with the sweep in the directory: only points that have no row yet are simulated.
        lanes: devices to use; None for all local ones.

    Returns:
        The table of all points so far (columns: point, swept keys, status, reason, metrics), and lines to warn of.

    Raises:
        SimjaxError: the directory holds a sweep already, or none or another one to resume, or cannot be written.
    """
    directory = Path(out) if plan.shard is None else Path(out) / "shard-{}-of-{}".format(*plan.shard.split("/"))
    warnings: list[str] = []
    if resume:
        store, warnings = SweepStore.resume(directory, plan.points, plan.base)
    else:
        store = SweepStore.create(directory, plan.points, base=plan.base, seeds=plan.seeds, objective=_as_lists(objective))
    with store:
        total, done = len(plan.designs) + len(plan.invalid), store.done()
        finished = len(done)
        try:
            for rows in _rows(plan, done, lanes or local_lanes()):
                store.append(rows)
                finished += len(rows)
                if on_progress is not None:
                    on_progress(finished, total)
        finally:
            table = store.finish()
    assert table is not None
    return table, [*warnings, *plan.warnings]


def run_sweep(plan: SweepPlan, out: str | Path | None = None, on_progress: Progress | None = None) -> pd.DataFrame:
    """Simulate a sweep: one row a point, with its number, the swept keys, status, reason and the metrics.

    Args:
        plan: what to simulate.
        out: a directory for the tables, written as chunks finish (see `run_plan`); None keeps the table in memory only.
        on_progress: called now and then with (points done, points in all).
    """
    if out is not None:
        return run_plan(plan, out, on_progress=on_progress)[0]
    found: list[Row] = []
    total = len(plan.designs) + len(plan.invalid)
    for rows in _rows(plan, set(), local_lanes()):
        found += rows
        if on_progress is not None:
            on_progress(len(found), total)
    found.sort(key=lambda row: row["point"])
    values = [{"point": row["point"], **dict(zip(plan.points.keys, plan.points.rows[row["point"]], strict=True)), **row} for row in found]
    return pd.DataFrame(values, columns=["point", *plan.points.keys, "status", "reason", *METRICS])


def _as_lists(objective: Objective | None) -> dict[str, list[str]] | None:
    if objective is None:
        return None
    limits = [str(limit) for limit in objective.constraints]
    return {"maximize": list(objective.maximize), "minimize": list(objective.minimize), "subject_to": limits}


def _rows(plan: SweepPlan, done: set[int], lanes: Lanes) -> Iterator[list[Row]]:
    """Rows of the points that are not done: first those that cannot be simulated."""
    if invalid := [{"point": p, "status": "invalid", "reason": reason} for p, reason in plan.invalid.items() if p not in done]:
        yield invalid
    left = {point: design for point, design in plan.designs.items() if point not in done}
    groups = plan.groups
    if len(left) < len(plan.designs):
        groups = make_groups(left, lanes, plan.width)
    yield from run_designs(left, groups, lanes, plan.width)
