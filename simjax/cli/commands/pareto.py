"""`simjax pareto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from simjax.cli.output import console, progress, results_in, say, warn
from simjax.config.sweep import ObjectiveConfig, ParetoConfig
from simjax.errors import SimjaxError

if TYPE_CHECKING:
    import pandas as pd

    from simjax.explore.pareto.objective import Objective


def execute(config: ParetoConfig, as_yaml: str) -> None:
    """Find the front of a sweep's table, write and draw it, print it."""
    from simjax.cli.sweep_report import pareto_report, write_pareto
    from simjax.explore.pareto.objective import against_direction
    from simjax.explore.store.directory import SWEEP, resume_options, sweep_directory
    from simjax.explore.store.manifest import read_sweep
    from simjax.explore.store.table import read_results, swept_keys

    if not config.directory:
        raise SimjaxError("no sweep given: simjax pareto DIR")
    directory = sweep_directory(config.directory)
    sweep = read_sweep(directory)
    objective = _objective(config, sweep)
    with results_in(str(directory) if config.out is None else config.out, "pareto") as out, progress("reading the results"):
        results = read_results(directory)
        keys, title = swept_keys(results), directory.resolve().name
        result = write_pareto(_rows(directory, sweep, results, keys), objective, keys, out, config.plots, title)
    if (planned := sweep.get("points", 0)) > len(results):
        part = (directory / SWEEP).is_file() and title.startswith("shard-")  # a shard may be complete
        hint = "" if part else f"; {resume_options(directory)} continues it"
        warn([f"the table has {len(results):,} of the {planned:,} points of this sweep{hint}"])
    warn(against_direction(objective))
    console().print(pareto_report(result, keys, title))
    say(f"results in {out}")


def _rows(directory: Path, sweep: dict[str, Any], results: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows that are compared: designs (means over the seeds) where the sweep has replicates, else points."""
    from simjax.explore.keys import SEED
    from simjax.explore.pareto.replicates import aggregate
    from simjax.explore.store.table import read_designs

    seeds = sweep.get("seeds")
    if seeds is not None and SEED in keys:  # not designs.csv: that of a killed or sharded sweep is incomplete
        return aggregate(results, keys, expected=len(seeds))
    designs = read_designs(directory)
    return results if designs is None else designs


def _objective(config: ParetoConfig, sweep: dict[str, Any]) -> Objective:
    """The objective of the user; where it is unset, that of the sweep."""
    from simjax.explore.pareto.objective import parse_objective

    default, saved = ObjectiveConfig(), sweep.get("objective", {})
    if not (saved.get("maximize") or saved.get("minimize")):
        saved = {}

    def chosen(name: str) -> list[str]:
        given = getattr(config.objective, name)
        return list(saved.get(name, getattr(default, name))) if given is None else given

    return parse_objective(chosen("maximize"), chosen("minimize"), chosen("subject_to"), chosen("by"), chosen("tie_break"), chosen("color"))
