"""`simjax capacity`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from simjax.cli.commands.sweep import WARNINGS
from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, moving_bar, results_in, say, warn
from simjax.cli.overrides import axes_override, sort_arguments
from simjax.config.capacity import CapacityConfig
from simjax.disk.files import write_file
from simjax.errors import SimjaxError
from simjax.explore.labels import differing_keys, format_cell, short_keys
from simjax.text import counted

if TYPE_CHECKING:
    from simjax.sizing.fleet import Fleet, Fleets
    from simjax.sizing.record import Capacities, Capacity

_ROWS = 20  # designs of the table on the terminal


def with_axes(overrides: Sequence[str]) -> list[str]:
    """The overrides of `simjax capacity -m`: swept keys become one override of `sweep.axes`.

    Raises:
        SimjaxError: a key cannot be swept, or a setting of Hydra is given, whose sweepers do not search.
    """
    given = sort_arguments(overrides)
    if given.hydra:
        raise SimjaxError(f"{given.hydra[0]}: Hydra's own settings have no effect on a search")
    return [*given.fixed, *axes_override(given.swept)]


def execute(config: CapacityConfig, as_yaml: str, overrides: Sequence[str]) -> None:
    """Search, print the answer, write the results."""
    use_compilation_cache()
    from simjax.explore.store.store import refuse_a_sweep
    from simjax.sizing.capacity import capacities, designs_of, search_base
    from simjax.sizing.fleet import fewest_instances

    points, base = designs_of(config.sweep), search_base(overrides)
    if config.out is not None:
        refuse_a_sweep(Path(config.out).expanduser())  # before the search, which may take minutes
    with results_in(config.out, "capacity") as out:
        if config.capacity.rate is not None:
            with _progress() as update:
                fleets = fewest_instances(base, points, config.capacity, on_progress=update)
            _write_json(out, fleets)
            _warn(fleets.warnings)
            console().print(fleets_table(fleets))
            say(fleets_answer(fleets))
        else:
            with _progress() as update:
                found = capacities(base, points, config.capacity, width=config.sweep.width, on_progress=update)
            _write_json(out, found)
            if points.keys:
                from simjax.sizing.store import write_table

                write_table(found, out, points, base)
            if config.plots:
                from simjax.plot.studies.capacity import plot_capacity

                plot_capacity(found, out / "capacity.png", config.capacity.attainment, _limits(config))
            _warn(found.warnings)
            console().print(capacities_table(found))
            say(f"interval: {_covers(found)}; {counted(found.runs, 'simulations')} in {counted(found.rounds, 'rounds')}")
        write_file(out / "config.yaml", as_yaml)
        say(f"results in {out}")


def capacities_table(found: Capacities) -> Table:
    """A row for each design, the highest capacity per GPU first; at most 20 of them."""
    order = sorted(found.designs, key=lambda x: -(x.per_gpu(x.rate_per_s) or -1.0 if x.valid else -2.0))
    table = _table(found.keys, found.designs, (f"capacity, {_unit(found)}", "interval", "per GPU", "TTFT p99, ms", "limited by"))
    for one in order[:_ROWS]:
        interval = "" if one.low is None else f"[{one.low:.4g}, {'…' if one.high is None else f'{one.high:.4g}'}]"
        ttft = one.metrics.get("ttft_p99_s")
        cells = ("-" if one.rate_per_s is None else f"{one.rate_per_s:.4g}", interval, _number(one.per_gpu(one.rate_per_s)))
        table.add_row(*_design(found.keys, found.designs, one), *cells, "-" if ttft is None else f"{ttft * 1e3:,.0f}", one.limited_by)
    if len(order) > _ROWS:
        table.caption = f"{len(order) - _ROWS:,} more in results.csv"
        table.caption_justify = "left"
    return table


def fleets_table(found: Fleets) -> Table:
    """A row for each design, the fewest devices first; at most 20 of them."""
    order = [*found.ranked, *(x for x in found.designs if x.instances is None)]
    table = _table(found.keys, found.designs, ("instances", "GPUs", "attained", "workloads that pass", "one less"))
    for one in order[:_ROWS]:
        shares = (
            ("-", "-")
            if one.attained is None or one.alone is None
            else (f"{one.attained * 100:.2f} %", f"{one.alone * one.seeds:.0f} of {one.seeds}")
        )
        counts = [str(x) if x else "-" for x in (one.instances, one.gpus)]
        table.add_row(*_design(found.keys, found.designs, one), *counts, *shares, one.limited_by)
    if len(order) > _ROWS:
        table.caption = f"{len(order) - _ROWS:,} more in capacity.json"
        table.caption_justify = "left"
    return table


def fleets_answer(found: Fleets) -> str:
    """The answer in one line."""
    rate = found.designs[0].rate_per_s
    if not found.ranked:
        return f"no design holds {rate:g}/s"
    best = found.ranked[0]
    design = ", ".join(f"{key}={format_cell(best.design[key])}" for key in found.keys)
    return f"{rate:g}/s: {counted(best.instances or 0, 'instances')}, {counted(best.gpus or 0, 'GPUs')}{f' ({design})' if design else ''}"


def _unit(found: Capacities) -> str:
    """Unit of the rates; "1/s" where designs differ in it."""
    units = {x.unit for x in found.designs if x.valid}
    return units.pop() if len(units) == 1 else "1/s"


def _covers(found: Capacities) -> str:
    """What the intervals cover, by the design whose interval rests on the fewest workloads."""
    covered = sorted((x.seeds, x.covers) for x in found.designs if x.covers)
    return covered[0][1] if covered else "none, since no capacity was found"


def _table(keys: Sequence[str], designs: Sequence[Capacity] | Sequence[Fleet], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for key in _differing(keys, designs):
        table.add_column(short_keys(keys)[key], justify="right")
    for name in columns:
        table.add_column(name, justify="left" if name in ("limited by", "one less") else "right", overflow="fold")
    return table


def _design(keys: Sequence[str], designs: Sequence[Any], one: Any) -> list[str]:
    return [format_cell(one.design[key]) for key in _differing(keys, designs)]


def _differing(keys: Sequence[str], designs: Sequence[Any]) -> list[str]:
    import pandas as pd

    return differing_keys(pd.DataFrame([x.design for x in designs], columns=list(keys)), keys)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _limits(config: CapacityConfig) -> Mapping[str, float]:
    return {name: limit for name, limit in vars(config.slo).items() if limit is not None}


def _write_json(out: Path, found: Capacities | Fleets) -> None:
    report = {"runs": found.runs, "rounds": found.rounds, "warnings": list(found.warnings), "designs": [x.as_json() for x in found.designs]}
    write_file(out / "capacity.json", json.dumps(report, indent=2, default=str) + "\n")


def _warn(lines: Sequence[str]) -> None:
    more = [f"and {len(lines) - WARNINGS} more in capacity.json"] if len(lines) > WARNINGS else []
    warn([*lines[:WARNINGS], *more])


@contextmanager
def _progress() -> Iterator[Callable[[int, int, int], None]]:
    """A callback (designs done, all designs, simulations) that moves a bar."""
    with moving_bar("compiling the simulator") as move:
        yield lambda done, total, runs: move(
            description="searching" if runs else "compiling the simulator",
            completed=done,
            total=total,
            count=f"{done:,} of {counted(total, 'designs')}, {counted(runs, 'simulations')}",
        )
