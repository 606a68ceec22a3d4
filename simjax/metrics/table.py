"""The summary of a run as a table for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from simjax.metrics.handover.parts import PARTS
from simjax.metrics.latency import NAMES, STATISTICS

LATENCY_NAMES = {f"{latency}_s": name for latency, name in NAMES.items()}
_RATES = {"requests_per_s": "requests/s", "prompt_tokens_per_s": "prompt tokens/s", "output_tokens_per_s": "output tokens/s"}
_SESSION_STATISTICS = ("mean", "p50", "p99")
_STATUS_STYLE = {"finished": "green", "tick_limit": "yellow", "stalled": "red"}


def summary_table(summary: dict[str, Any], title: str = "") -> RenderableType:
    """Render the result of `summarize`: a headline, latencies in milliseconds, then throughput, KV cache, sessions and simulation time.

    Where the summary has `intervals` (see `simjax.metrics.write_results`) they follow the numbers, in brackets.
    """
    parts: list[RenderableType] = [_headline(summary, title), _window(summary), _Latencies(summary), _facts(summary)]
    if (intervals := summary.get("intervals")) is not None:
        load = "and of the requests" if intervals.get("covers_load") else "under the same load"
        drawn = f"{intervals['draws']:,} draws of the profile's parameters {load}"
        parts.append(Text(f"in brackets: {intervals['level'] * 100:g} % intervals from {drawn}", style="dim"))
    parts += [Text(f"note: {line}", style="yellow") for line in summary["warnings"]]
    return Group(*parts)


def format_ms(seconds: float | None, decimals: int | None = None) -> str:
    """Seconds as milliseconds, '-' for None; `decimals` digits after the point, by default `ms_decimals(seconds)`."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e3:,.{ms_decimals(seconds) if decimals is None else decimals}f}"


def ms_decimals(seconds: float | None) -> int:
    """Number of digits after the point that leaves about four significant ones in milliseconds."""
    ms = (seconds or 0.0) * 1e3
    return 0 if ms >= 1e4 else 1 if ms >= 100 else 2 if ms >= 1 else 3


def format_interval(interval: list[float] | None, decimals: int) -> str:
    """`[low, high]` with the digits that distinguish its ends, at most `decimals` after the point; '' for None."""
    if interval is None:
        return ""
    low, high = interval
    shown = 1 - math.floor(math.log10(high - low)) if high > low else decimals
    shown = min(max(shown, 0), decimals)
    return f"[{low:,.{shown}f}, {high:,.{shown}f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.{_decimals(value)}f}"


def _decimals(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction * 100:.1f} %"


def _drawn(summary: dict[str, Any], *path: str, scale: float = 1.0, decimals: int | None = None) -> str:
    """The interval ` [low, high]` of the number at that path of the summary, '' where there is none."""
    found: Any = summary.get("intervals")
    number: Any = summary
    for name in path:
        found, number = None if found is None else found.get(name), number[name]
    if found is None or number is None:
        return ""
    text = format_interval([x * scale for x in found], _decimals(number * scale) if decimals is None else decimals)
    return f" {text}"


def _headline(summary: dict[str, Any], title: str) -> Text:
    requests, status = summary["requests"], summary["status"]
    line = Text(f"{title}  " if title else "", style="bold")
    line.append(status.replace("_", " "), style=f"bold {_STATUS_STYLE.get(status, 'white')}")
    line.append(f"  {requests['finished']:,} of {requests['total']:,} requests", style="not bold")
    if summary["duration_s"] is not None:
        line.append(f" in {_number(summary['duration_s'])}{_drawn(summary, 'duration_s')} s", style="not bold")
    if requests["preemptions"]:
        line.append(f", {requests['preemptions']:,}{_drawn(summary, 'requests', 'preemptions', decimals=0)} preemptions", style="not bold")
    return line


def _window(summary: dict[str, Any]) -> Text:
    """The part of the run that is measured, and whether the run is steady."""
    window, count = summary["window"], summary["window"]["requests"]
    state = {True: ("steady", "green"), False: ("not steady", "bold red"), None: ("too short to tell whether steady", "yellow")}
    line = Text("measured  ", style="dim")
    if window["whole_run"]:
        line.append("the whole run", style="not dim")
    else:
        line.append(f"{window['start_s']:,.4g} to {window['end_s']:,.4g} s, {count:,} requests that arrive then", style="not dim")
    return line.append(", ", style="not dim").append(*state[summary["steady"]])


@dataclass(frozen=True)
class _Latencies:
    """The latencies of a summary, with intervals to the right of the numbers where the terminal is wide enough, else below them."""

    summary: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self.table(" ")
        wide = Measurement.get(console, options.update(width=10_000), table).maximum <= options.max_width
        yield table if wide else self.table("\n")

    def table(self, between: str) -> Table:
        """The table, with `between` between a number and its interval."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("latency, ms", style="bold")
        for name in STATISTICS:
            table.add_column(name, justify="right", min_width=8)
        intervals = self.summary.get("intervals", {})
        for key, label in LATENCY_NAMES.items():
            decimals = ms_decimals(self.summary[key]["mean"])  # one for the row, so that its numbers line up
            cells = []
            for name in STATISTICS:
                cell, interval = Text(format_ms(self.summary[key][name], decimals)), intervals.get(key, {}).get(name)
                if interval is not None:
                    cell.append(f"{between}{format_interval([x * 1e3 for x in interval], decimals)}", style="dim")
                cells.append(cell)
            table.add_row(label, *cells)
        return table


def _facts(summary: dict[str, Any]) -> Table:
    rate, kv, sim = summary["throughput"], summary["kv"], summary["sim"]
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "throughput",
        Text(", ".join(f"{_number(rate[name])}{_drawn(summary, 'throughput', name)} {unit}" for name, unit in _RATES.items())),
    )
    cached = f", {_percent(kv['prefix_hit_fraction'])} of prompt tokens cached" if kv["prefix_hit_fraction"] else ""
    cached += f", {kv['evicted_blocks']:,} cached blocks evicted" if kv["evicted_blocks"] else ""
    peak = _percent(kv["peak_used_fraction"]).removesuffix(" %") + _drawn(summary, "kv", "peak_used_fraction", scale=100.0, decimals=1)
    table.add_row("KV cache", Text(f"{kv['num_blocks']:,} blocks, peak use {peak} %{cached}"))
    if (tier := summary.get("kv_tier")) is not None:
        table.add_row("KV tier", _tier(tier))
    if (sessions := summary.get("sessions")) is not None:
        table.add_row("sessions", _sessions(sessions))
        if (later := sessions["later_turns"])["finished"]:
            table.add_row("later turns", _later_turns(later))
    if (lag := summary.get("send_lag_s")) is not None:
        table.add_row("sends", f"behind the schedule by {_number(lag['mean'])} s (mean), {_number(lag['max'])} s (max)")
    if len(summary["instances"]) > 1:
        table.add_row("instances", _instances(summary["instances"]))
    if (handover := summary.get("disaggregation")) is not None:
        table.add_row("TTFT parts", _ttft_parts(handover))
        table.add_row("transfers", _transfers(handover))
    if (slo := summary.get("slo")) is not None:
        table.add_row("goodput", Text(_goodput(summary, slo)))
    for name, one in summary.get("classes", {}).items():
        table.add_row("class", Text(_of_class(name, one)))
    for name, one in summary.get("groups", {}).items():
        if one["requests"] or handover is None:  # a request of a prefill instance counts where it is decoded
            table.add_row("group", Text(_of_group(name, one)))
    table.add_row(
        "simulation",
        f"{sim['ticks']:,} ticks for {sim['steps']:,} engine steps, "
        f"compile {_number(sim['compile_s'])} s, run {format_ms(sim['run_s'])} ms",
    )
    return table


def _tier(tier: dict[str, Any]) -> str:
    """What came from the KV tier and went there, and how long requests waited for it."""
    text = f"{_percent(tier['hit_fraction'])} of prompt tokens loaded; "
    text += f"{_bytes(tier['loaded_bytes'])} loaded, {_bytes(tier['stored_bytes'])} stored"
    if tier["wait_mean_s"] is not None:
        text += f"; {format_ms(tier['wait_mean_s'])} ms from load to first step (mean), {format_ms(tier['wait_p99_s'])} ms (P99)"
    text += f"; {tier['evicted_blocks']:,} blocks evicted" if tier["evicted_blocks"] else ""
    return text + (f"; steps waited {_number(tier['flush_s'])} s for stores" if tier["flush_s"] else "")


def _ttft_parts(handover: dict[str, Any]) -> str:
    """The mean parts of TTFT with their shares."""
    if not handover["transfers"]:
        return "no request was handed over"
    parts = (f"{words} {format_ms(handover['ttft_s'][part]['mean'])}" for part, words in PARTS.items())
    shares = " + ".join(f"{(share or 0.0) * 100:.0f}" for share in handover["ttft_share"].values())
    return f"{', '.join(parts)} ms ({shares} %)"


def _transfers(handover: dict[str, Any]) -> str:
    """How much KV cache moved, and how far the busiest link was used."""
    count, moved = handover["transfers"], handover["kv_bytes_moved"]
    text = f"{count:,} of {_bytes(moved / max(count, 1))} each, {_bytes(moved)} in all"
    if handover["local_requests"]:
        text += f", {handover['local_requests']:,} requests stayed on one instance"
    if handover["links"]:
        use, peak = _percent(handover["link_use_fraction"]), _percent(handover["link_peak_use_fraction"])
        text += f"; busiest link {use} used, {peak} in its fullest second"
    return text


def _bytes(count: float) -> str:
    """Bytes with an SI prefix, such as 131.1 MB."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{_number(count / factor)} {unit}"
    return f"{count:,.0f} bytes"


def _instances(instances: list[dict[str, Any]]) -> str:
    if "role" in instances[0]:
        roles: dict[str, list[dict[str, Any]]] = {}
        for one in instances:
            roles.setdefault(one["role"], []).append(one)
        return "; ".join(f"{role}: {_alike(members)}" for role, members in roles.items())
    return _alike(instances)


def _alike(instances: list[dict[str, Any]]) -> str:
    counts = [i["requests"] for i in instances]
    busy = [i["busy_fraction"] for i in instances if i["busy_fraction"] is not None]
    text = f"{len(instances)}, requests {min(counts):,} to {max(counts):,}"
    return f"{text}, busy {_percent(min(busy))} to {_percent(max(busy))}" if busy else text


def _sessions(sessions: dict[str, Any]) -> str:
    text = f"{sessions['finished']:,} of {sessions['total']:,} finished"
    if not sessions["finished"]:
        return text
    mean, *others = (f"{name} {_number(sessions['makespan_s'][name])}" for name in _SESSION_STATISTICS)
    return f"{text}, makespan {mean} ({_number(sessions['in_calls_s']['mean'])} in calls), {', '.join(others)} s"


def _later_turns(later: dict[str, Any]) -> str:
    ttft = ", ".join(f"{name} {format_ms(later['ttft_s'][name])}" for name in _SESSION_STATISTICS)
    return f"{later['finished']:,} calls, TTFT {ttft} ms, {_percent(later['cached_fraction'])} of prompt tokens cached"


def _of_class(name: str, one: dict[str, Any]) -> str:
    """A class of service: its share of the requests, how long they wait, and how many meet its limits."""
    ttft, tpot = (", ".join(f"{which} {format_ms(one[latency][which])}" for which in ("p50", "p99")) for latency in ("ttft_s", "tpot_s"))
    text = f"{name}: {one['requests']:,} requests, TTFT {ttft} ms, TPOT {tpot} ms"
    if "limits" not in one:
        return text
    limits = ", ".join(f"{LATENCY_NAMES[limit]} <= {format_ms(value)} ms" for limit, value in one["limits"].items())
    return f"{text}; {_percent(one['attainment_fraction'])} meet {limits}, {_number(one['goodput_requests_per_s'])} requests/s"


def _of_group(name: str, one: dict[str, Any]) -> str:
    """A group of a mixed cluster: its share of the requests, how long they wait, and what it gives."""
    count = len(one["instances"])
    text = f"{name}: {count:,} instance{'s' if count != 1 else ''}, {one['requests']:,} requests"
    if not one["finished"]:
        return text
    ttft, tpot = (", ".join(f"{which} {format_ms(one[latency][which])}" for which in ("p50", "p99")) for latency in ("ttft_s", "tpot_s"))
    return f"{text}, TTFT {ttft} ms, TPOT {tpot} ms, {_number(one['output_tokens_per_s'])} output tokens/s"


def _goodput(summary: dict[str, Any], slo: dict[str, Any]) -> str:
    limits = ", ".join(f"{LATENCY_NAMES[name]} <= {format_ms(limit)} ms" for name, limit in slo["limits"].items()) or "no limits"
    if any("limits" in one for one in summary.get("classes", {}).values()):
        limits = "those of their classes"
    met = _percent(slo["attainment_fraction"]).removesuffix(" %") + _drawn(summary, "slo", "attainment_fraction", scale=100.0, decimals=1)
    rate = _number(slo["goodput_requests_per_s"]) + _drawn(summary, "slo", "goodput_requests_per_s")
    text = f"{rate} requests/s, {met} % of requests meet {limits}"
    per_gpu = slo.get("goodput_requests_per_s_per_gpu")
    if per_gpu is None:
        return text
    return f"{text}, {_number(per_gpu)}{_drawn(summary, 'slo', 'goodput_requests_per_s_per_gpu')} requests/s per GPU"
