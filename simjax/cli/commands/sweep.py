"""Sweeps of `simjax run`: from the configuration and the swept keys to tables, with a progress bar that shows the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from simjax.caveat import Estimate
from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.interrupts import NOTHING, hint
from simjax.cli.output import console, moving_bar, progress, results_in, say, warn
from simjax.config.compose import typed
from simjax.config.schema import RunConfig
from simjax.errors import SimjaxError
from simjax.explore.axes import Axis
from simjax.explore.from_config import base_of, check_base, points_of
from simjax.explore.points import Points
from simjax.text import counted, ranges

if TYPE_CHECKING:
    import pandas as pd

    from simjax.explore.pareto.objective import Objective
    from simjax.explore.plan import SweepPlan

WARNINGS = 5  # number shown at the end of a sweep, whose devices and degrees may give dozens of one kind


def execute(raw: DictConfig, overrides: Sequence[str], axes: Sequence[Axis] = (), out: str | None = None) -> None:
    """Simulate the sweep that a configuration asks for.

    Args:
        raw: the composed configuration of `simjax run`, interpolations unresolved.
        overrides: overrides that it was composed from, without the swept keys.
        axes: swept keys of the command line.
        out: directory of the results where `out` is unset; None for a dated one.

    Raises:
        SimjaxError: there is nothing to sweep, or it cannot be swept.
    """
    config: RunConfig = typed(raw)
    config = replace(config, out=out if config.out is None else config.out)
    for override in overrides:
        if override.partition("=")[0] == "timeline_interval_s":
            raise SimjaxError(f"{override} has no effect in a sweep, which writes no timelines of single points")
    if config.sweep.resume is not None:
        _resume(raw, config, overrides, axes)
        return
    points, seeds = points_of(config.sweep, axes)
    base = base_of(overrides)
    check_base(base, points, raw)
    execute_sweep(base, points, config, seeds)


def _resume(raw: DictConfig, config: RunConfig, overrides: Sequence[str], axes: Sequence[Axis]) -> None:
    """Resume a sweep: with the settings in its directory, or with those given here, which must then be the same."""
    from simjax.explore.store.directory import check_resume
    from simjax.explore.store.stored import read_stored

    directory = str(config.sweep.resume)
    check_resume(directory, config.sweep.shard)
    stored = read_stored(directory)
    base, points, seeds = base_of(overrides), stored.points, stored.seeds
    again = replace(config.sweep, resume=None)
    if again.asked or axes:
        points, seeds = points_of(again, axes)
        check_base(base, points, raw)
    elif not base:
        base = list(stored.base)
    stored.check(base, points)  # also for a shard that does not exist yet
    if not any(override.startswith("objective.") for override in overrides):
        config = replace(config, objective=replace(config.objective, **stored.info["objective"]))
    execute_sweep(base, points, config, seeds)


def execute_sweep(base: list[str], points: Points, config: RunConfig, seeds: tuple[int, ...] | None) -> None:
    """Plan and simulate points, and write their tables.

    Args:
        base: overrides that all points share.
        points: the points; with replicates, one for each seed.
        config: the directory of the results, the objective, and the options of the sweep.
        seeds: replicate seeds, None when there are none.
    """
    use_compilation_cache()
    from simjax.explore.pareto.objective import against_direction, check_columns, columns_of, parse_objective
    from simjax.explore.plan import plan_sweep
    from simjax.explore.store.directory import RESULTS, shard_directory
    from simjax.explore.store.results_file import ResultsFile
    from simjax.explore.store.store import refuse_a_sweep

    goal, sweep = config.objective, config.sweep
    objective = parse_objective(goal.maximize, goal.minimize, goal.subject_to, goal.by, goal.tie_break, goal.color)
    check_columns(objective, columns_of(points.keys, seeds is not None))
    warn(against_direction(objective))
    done: set[int] = set()
    if sweep.resume is not None:
        done = ResultsFile(shard_directory(sweep.resume, sweep.shard) / RESULTS, points).done()
    elif config.out is not None and not sweep.dry_run:
        refuse_a_sweep(shard_directory(config.out, sweep.shard))  # before the plan, which may take a minute
    with progress(f"planning {counted(len(points), 'points')}"):
        plan = plan_sweep(base, points, seeds=seeds, width=sweep.width, shard=sweep.shard)
    if sweep.dry_run:
        _describe(plan, done, sweep.resume)
    else:
        _simulate(plan, done, objective, config)


def _describe(plan: SweepPlan, done: set[int], resumed: str | None) -> None:
    """Print what would be simulated; for a sweep to resume, what is left of it."""
    if resumed is not None:
        mine = {*plan.designs, *plan.invalid}
        there = done & mine
        progress_line = f"{len(there):,} of {counted(len(mine), 'points')} done" + (f" ({ranges(there)})" if there else "")
        say(f"{resumed}: {progress_line}, {len(mine) - len(there):,} left")
        if there == mine:
            return
        plan = plan.without(there)
    say(plan.describe())


def _simulate(plan: SweepPlan, done: set[int], objective: Objective, config: RunConfig) -> None:
    from simjax.explore.run import run_plan
    from simjax.explore.store.directory import SWEEP, resume_options, shard_directory

    sweep = config.sweep
    with results_in(sweep.resume or config.out, "sweep") as out:
        where = shard_directory(out, sweep.shard)
        go_on = lambda: f"what is done is in {where}; simjax run {resume_options(where)} continues it"
        with hint(lambda: go_on() if (where / SWEEP).exists() else NOTHING), points_progress(len(done | plan.invalid.keys())) as update:
            table, warnings = run_plan(plan, out, objective, on_progress=update, resume=sweep.resume is not None)
    own = [line for line in warnings if not isinstance(line, Estimate)]
    more = [f"and {len(own) - WARNINGS} more; sweep.dry_run=true prints all of them"] if len(own) > WARNINGS else []
    warn([*own[:WARNINGS], *more, *(line for line in warnings if isinstance(line, Estimate))])
    conclude(table, where, objective, config.plots)


def conclude(table: pd.DataFrame, out: Path, objective: Objective, plots: bool) -> None:
    """Find and draw the front of a sweep's table; print it, and the number of points by status."""
    from simjax.cli.sweep_report import pareto_report, write_pareto
    from simjax.explore.store.table import read_designs, swept_keys
    from simjax.metrics.rows import too_few

    if len(table) == 0:
        say(f"{out}: nothing to simulate: there are more parts of this sweep than designs")
        return
    designs, keys, title = read_designs(out), swept_keys(table), out.resolve().name
    with progress("drawing"):
        front = write_pareto(table if designs is None else designs, objective, keys, out, plots, title)
    finished = table["requests_finished"]
    warn(too_few([{"requests_finished": None if unknown else count} for count, unknown in zip(finished, finished.isna(), strict=True)]))
    points = counted(len(table), "points")
    for reason, count in table["reason"].value_counts().head(3).items():
        warn([f"{count:,} of {points}: {reason}"])
    console().print(pareto_report(front, keys, title))
    say(f"{points}: {', '.join(f'{count:,} {status}' for status, count in table['status'].value_counts().items())}")
    say(f"results in {out}")


@contextmanager
def points_progress(before: int = 0) -> Iterator[Callable[[int, int], None]]:
    """A callback (points done, in all) that moves a `moving_bar`, with points a second and the time left.

    Both are counted from the first simulated points on: the time before is compilation.

    Args:
        before: points that are done without simulation, or were earlier.
    """
    first: list[tuple[float, int]] = []
    with moving_bar("compiling the simulator") as move:

        def update(done: int, total: int) -> None:
            count = f"{done:,} of {counted(total, 'points')}"
            if done <= before:
                move(completed=done, total=total, count=count)
                return
            now = time.perf_counter()
            if not first:
                first.append((now, done))
            began, already = first[0]
            pace = _pace(now - began, done - already, total - done)
            move(description="simulating", completed=done, total=total, count=f"{count}{pace}")

        yield update


def _pace(seconds: float, done: int, left: int) -> str:
    """Points a second and the time left, once some points have run."""
    if seconds < 0.5 or not done:
        return ""
    speed = done / seconds
    return f", {speed:,.{0 if speed >= 10 else 1}f}/s, {timedelta(seconds=round(left / speed))} left"
