"""The result of a validation as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simjax.metrics.table import LATENCY_NAMES, format_ms, ms_decimals
from simjax.validate.compare import COMPARED, METRICS


def comparison_table(report: dict[str, Any], title: str = "", notes: tuple[str, ...] = ()) -> RenderableType:
    """Render the result of `compare`: measured, simulated and error, latencies in milliseconds; `notes` are printed below it."""
    table = Table(box=None, pad_edge=False, header_style="dim", title=title or None, title_justify="left", title_style="bold")
    table.add_column("", style="bold")
    table.add_column("")
    for name in ("measured", "simulated", "error"):
        table.add_column(name, justify="right", min_width=10)
    for metric in METRICS:
        decimals = ms_decimals(report[metric]["mean"]["measured"])
        for at, name in enumerate(COMPARED):
            row = report[metric][name]
            label = f"{LATENCY_NAMES[metric]}, ms" if at == 0 else ""
            cells = (format_ms(row["measured"], decimals), format_ms(row["simulated"], decimals), _error(row["error_pct"]))
            table.add_row(label, name, *cells, end_section=name == COMPARED[-1])
    for label, unit, row in (
        ("makespan", "s", report["makespan"]),
        ("throughput", "requests/s", report["throughput"]["requests_per_s"]),
        ("", "output tokens/s", report["throughput"]["output_tokens_per_s"]),
    ):
        table.add_row(label, unit, _number(row["measured"]), _number(row["simulated"]), _error(row["error_pct"]))
    parts: list[RenderableType] = [table, _per_request(report)]
    missing = report["requests"]["measured"] - report["requests"]["finished"]
    if missing:
        parts.append(Text(f"note: {missing} of {report['requests']['measured']} requests did not finish in the simulation", style="yellow"))
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in notes))


def _per_request(report: dict[str, Any]) -> Text:
    errors = report["per_request"]
    cells = (f"{m.removesuffix('_s').upper()} {_percent(errors[m.removesuffix('_s') + '_mape_pct'])}" for m in METRICS)
    return Text(f"mean absolute error per request: {', '.join(cells)}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.{1 if value >= 1000 else 2}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _error(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:+.1f} %", style="green" if abs(value) < 2.0 else "yellow" if abs(value) < 5.0 else "red")
