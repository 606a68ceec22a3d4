"""The summary of a run as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simjax.metrics.latency import STATISTICS

LATENCY_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "E2E latency"}
_STATUS_STYLE = {"finished": "green", "tick_limit": "yellow", "stalled": "red"}


def summary_table(summary: dict[str, Any], title: str = "") -> RenderableType:
    """Render the result of `summarize`: a headline, latencies in milliseconds, then throughput, KV cache and simulation cost."""
    parts: list[RenderableType] = [_headline(summary, title), _latencies(summary), _facts(summary)]
    parts += [Text(f"note: {line}", style="yellow") for line in summary["warnings"]]
    return Group(*parts)


def format_ms(seconds: float | None, decimals: int | None = None) -> str:
    """Milliseconds, '-' for None; with `ms_decimals(seconds)` digits after the point unless told otherwise."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.{ms_decimals(seconds) if decimals is None else decimals}f}"


def ms_decimals(seconds: float | None) -> int:
    """Digits after the point that leave about four significant ones in milliseconds."""
    ms = (seconds or 0.0) * 1e3
    return 0 if ms >= 1e4 else 1 if ms >= 100 else 2 if ms >= 1 else 3


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2}f}"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:.1f} %"


def _headline(summary: dict[str, Any], title: str) -> Text:
    requests, status = summary["requests"], summary["status"]
    line = Text(f"{title}  " if title else "", style="bold")
    line.append(status.replace("_", " "), style=f"bold {_STATUS_STYLE.get(status, 'white')}")
    line.append(f"  {requests['finished']:,} of {requests['total']:,} requests", style="not bold")
    if summary["duration_s"] is not None:
        line.append(f" in {_number(summary['duration_s'])} s", style="not bold")
    if requests["preemptions"]:
        line.append(f", {requests['preemptions']:,} preemptions", style="not bold")
    return line


def _latencies(summary: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("latency, ms", style="bold")
    for name in STATISTICS:
        table.add_column(name, justify="right", min_width=8)
    for key, label in LATENCY_NAMES.items():
        decimals = ms_decimals(summary[key]["mean"])  # one for the row, so that its numbers line up
        table.add_row(label, *(format_ms(summary[key][name], decimals) for name in STATISTICS))
    return table


def _facts(summary: dict[str, Any]) -> Table:
    rate, kv, sim = summary["throughput"], summary["kv"], summary["sim"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "throughput",
        f"{_number(rate['requests_per_s'])} requests/s, {_number(rate['prompt_tokens_per_s'])} prompt tokens/s, "
        f"{_number(rate['output_tokens_per_s'])} output tokens/s",
    )
    hits = f", {_percent(kv['prefix_hit_fraction'])} of prompt tokens cached" if kv["prefix_hit_fraction"] else ""
    table.add_row("KV cache", f"{kv['num_blocks']:,} blocks, peak use {_percent(kv['peak_used_fraction'])}{hits}")
    if len(summary["instances"]) > 1:
        table.add_row("instances", _instances(summary["instances"]))
    if (slo := summary.get("slo")) is not None:
        table.add_row("goodput", _goodput(slo))
    table.add_row(
        "simulation",
        f"{sim['ticks']:,} ticks for {sim['steps']:,} engine steps, "
        f"compile {_number(sim['compile_s'])} s, run {format_ms(sim['run_s'])} ms",
    )
    return table


def _instances(instances: list[dict[str, Any]]) -> str:
    counts = [i["requests"] for i in instances]
    busy = [i["busy_fraction"] for i in instances if i["busy_fraction"] is not None]
    text = f"{len(instances)}, requests {min(counts):,} to {max(counts):,}"
    return f"{text}, busy {_percent(min(busy))} to {_percent(max(busy))}" if busy else text


def _goodput(slo: dict[str, Any]) -> str:
    limits = ", ".join(f"{LATENCY_NAMES[name]} <= {format_ms(limit)} ms" for name, limit in slo["limits"].items()) or "no limits"
    text = f"{_number(slo['goodput_requests_per_s'])} requests/s, {_percent(slo['attainment_fraction'])} of requests meet {limits}"
    per_gpu = slo.get("goodput_requests_per_s_per_gpu")
    return text if per_gpu is None else f"{text}, {_number(per_gpu)} requests/s per GPU"
