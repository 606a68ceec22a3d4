"""`simjax explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from simjax.cli.compilation_cache import use_compilation_cache
from simjax.cli.output import console, progress, results_in, say, warn
from simjax.config.schema import ExplainConfig
from simjax.disk.files import write_file, write_json, write_table

if TYPE_CHECKING:
    from simjax.explain.explain import Explained

_SHOWN = ("mean", "p50", "p99")
_LEAST_S = 1e-9  # parts below are rounding


def execute(config: ExplainConfig, as_yaml: str) -> Explained:
    """Simulate, print the parts of the latencies, write them and the trace."""
    use_compilation_cache()
    from simjax.explain.explain import explain
    from simjax.explain.statistics import requests_frame
    from simjax.explain.timeline import trace_events

    with results_in(config.out, "explain") as out:
        with progress("compiling the simulator") as update:
            done = explain(config, update)
        write_table(done.statistics, out / "explain.csv")
        write_table(requests_frame(done.parts), out / "parts.csv")
        if config.trace:
            write_json({"displayTimeUnit": "ms", "traceEvents": trace_events(done.run.result)}, out / "trace.json")
        write_file(out / "config.yaml", as_yaml)
        if config.plots:
            from simjax.plot.explain import plot_explain

            plot_explain(done.statistics, out / "explain.png", done.run.workload.source)
    warn(done.run.warnings)
    console().print(parts_table(done.statistics))
    say(f"results in {out}")
    return done


def parts_table(statistics: pd.DataFrame) -> Table:
    """A column for each statistic that is shown, a row for each part that some of them has, in milliseconds."""
    from simjax.explain.parts import PARTS
    from simjax.metrics.latency import NAMES

    shown = [row for row in statistics.to_dict("records") if row["statistic"] in _SHOWN]
    table = Table(title="Where latencies come from, ms", box=None, pad_edge=False, header_style="dim", title_style="bold")
    table.add_column("part", style="bold")
    for row in shown:
        table.add_column(f"{NAMES[row['latency']].split()[0]} {row['statistic']}", justify="right")
    for name, words in PARTS.items():
        if any(abs(row[name]) > _LEAST_S for row in shown):
            table.add_row(words, *(f"{row[name] * 1e3:,.2f}" for row in shown))
    table.add_row("sum", *(f"{row['value_s'] * 1e3:,.2f}" for row in shown), style="bold")
    return table
