"""`simjax show-point`: a point of a sweep as a single run, and whether that reproduces the numbers of the table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from simjax.cli.commands import run
from simjax.cli.output import say
from simjax.config.compose import compose_config, typed
from simjax.config.sweep import ShowPointConfig
from simjax.errors import SimjaxError
from simjax.explore.points import Points
from simjax.explore.store.directory import POINTS, RESULTS
from simjax.explore.store.manifest import changed_versions
from simjax.explore.store.stored import read_stored
from simjax.explore.store.table import read_results
from simjax.explore.values import format_value


def execute(config: ShowPointConfig, as_yaml: str) -> None:
    """Print a point's command, run it, and compare its numbers bit for bit with its row of the table.

    Raises:
        SimjaxError: there is no such sweep or point.
        SystemExit: with status 1, the run gives other numbers.
    """
    if config.directory is None or config.point is None:
        raise SimjaxError("say which point of which sweep: simjax show-point DIR NUMBER")
    stored = read_stored(config.directory)
    if not 0 <= config.point < len(stored.points):
        raise SimjaxError(f"point {config.point}: the points of {config.directory} are numbered 0 to {len(stored.points) - 1}")
    overrides = [*stored.base, *stored.points.overrides(config.point)]
    row = _row(read_results(config.directory), stored.points, config.point)
    say(shlex.join(["simjax", "run", *overrides]))
    if row is not None and row["status"] in ("invalid", "error"):
        say(f"point {config.point} has no numbers; {row['status']}: {row['reason']}")
        return
    here = [f"plots={format_value(config.plots)}", *([] if config.out is None else [f"out={format_value(config.out)}"])]
    composed = compose_config("run", [*overrides, *here])
    single = typed(composed)
    done = run.execute(single, OmegaConf.to_yaml(composed))
    if row is None:
        say(f"the table has no row of point {config.point} yet: nothing to compare with")
        return
    from simjax.job import measurement_window, service_levels
    from simjax.metrics.rows import METRICS, result_row

    found: dict[str, Any] = {
        "status": done.result.status.name.lower(),
        **result_row(done.result, service_levels(single.slo), done.cluster.num_devices, window=measurement_window(single.metrics)),
    }
    different = [name for name in ("status", *METRICS) if not same(row[name], found[name])]
    if not different:
        say(f"all {len(METRICS)} numbers of the row reproduced")
        return
    for name in different:
        say(f"{name}: {row[name]!r} in the table, {found[name]!r} here")
    changed = changed_versions(stored.info)
    say(f"{len(different)} of the {len(METRICS)} numbers of the row differ{f'; the sweep was made with {changed}' if changed else ''}")
    raise SystemExit(1)


def same(cell: Any, value: Any) -> bool:
    """Whether a cell of the table (NA where it is empty) equals a value to the last bit."""
    if value is None or pd.isna(cell):
        return value is None and bool(pd.isna(cell))
    return cell == value


def _row(table: pd.DataFrame, points: Points, point: int) -> Mapping[str, Any] | None:
    """The point's row; None when there is none yet.

    Raises:
        SimjaxError: it has other values of the swept keys than the point.
    """
    for _, row in table[table["point"] == point].astype(object).iterrows():
        for key, value in zip(points.keys, points.rows[point], strict=True):
            cell = row.get(key)
            if cell is pd.NA or cell not in (value, format_value(value)):  # tables hold values that are not numbers as overrides write them
                raise SimjaxError(f"{RESULTS}: the row of point {point} was changed: {key} is {cell} there, {value} in {POINTS}")
        return {str(name): cell for name, cell in row.items()}
    return None
