"""Statistics of a workload as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simjax.workload.describe import PrefixStats, WorkloadDescription
from simjax.workload.formats.base import Reading

if TYPE_CHECKING:
    from rich.console import RenderableType


def describe_table(description: WorkloadDescription) -> RenderableType:
    """The description as a table for the terminal."""
    from rich.console import Group
    from rich.table import Table

    facts = Table(title=description.source, title_justify="left", show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()
    for name, value in _facts(description):
        facts.add_row(name, value)
    lengths = Table(box=None, pad_edge=False)
    lengths.add_column("tokens", style="dim")
    for name in ("mean", "p50", "p90", "p99", "max"):
        lengths.add_column(name, justify="right")
    for name, stats in (("prompt", description.prompt_tokens), ("output", description.output_tokens)):
        lengths.add_row(name, *(f"{value:,.0f}" for value in (stats.mean, stats.p50, stats.p90, stats.p99, stats.max)))
    if description.prefixes is None:
        return Group(facts, "", lengths)
    return Group(facts, "", lengths, "", _cache_table(description.prefixes))


def _cache_table(prefixes: PrefixStats) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(f"prefix cache, {prefixes.block_size:,}-token blocks", style="dim")
    table.add_column("tokens", justify="right")
    table.add_column("prompt tokens found", justify="right")
    for cache in prefixes.lru:
        table.add_row(f"{cache.blocks:,} blocks, LRU", f"{cache.blocks * prefixes.block_size:,}", f"{100 * cache.hit_fraction:.1f} %")
    table.add_row("without limit", "", f"{100 * prefixes.ideal_hit_fraction:.1f} %")
    return table


def _facts(description: WorkloadDescription) -> list[tuple[str, str]]:
    facts = [] if description.reading is None else _how_read(description.reading)
    facts += [("requests", f"{description.requests:,}"), ("longest prompt + output", f"{description.max_total_tokens:,} tokens")]
    arrivals, sessions, prefixes = description.arrivals, description.sessions, description.prefixes
    if prefixes is not None:
        facts.append(("requests that share a prefix block", f"{100 * prefixes.hit_requests_fraction:.1f} %"))
    if sessions is not None:
        facts.append(("sessions", f"{sessions.sessions:,}; {sessions.waiting_calls:,} calls wait for others"))
        calls = sessions.calls
        facts.append(("calls of a session", f"mean {calls.mean:.1f}, p50 {calls.p50:.0f}, p90 {calls.p90:.0f}, max {calls.max:,}"))
        if sessions.recorded_calls:
            facts.append(("calls at recorded times", f"{sessions.recorded_calls:,}, or when the call before has finished, if later"))
        if sessions.mean_pause_s is not None:
            pauses = (sessions.mean_pause_s, sessions.p50_pause_s, sessions.p90_pause_s, sessions.max_pause_s)
            facts.append(("pause between calls", "mean {:,.4g}, p50 {:,.4g}, p90 {:,.4g}, max {:,.6g} s".format(*pauses)))
    if description.max_concurrency:
        facts.append(("client", f"keeps to the arrivals with at most {description.max_concurrency:,} in flight"))
    if description.concurrency:
        return [*facts, ("closed loop", f"{description.concurrency:,} in flight"), ("think time", f"{description.think_s:g} s")]
    if arrivals is None:
        return [*facts, ("arrivals" if sessions is None else "session starts", "all at once")]
    arriving = "sessions" if arrivals.of_sessions else "requests"
    dispersion = [f"{value:.2f}" if value is not None else "—" for value in (arrivals.dispersion_1s, arrivals.dispersion_60s)]
    return [
        *facts,
        ("span", f"{arrivals.span_s:,.1f} s"),
        ("mean rate", f"{arrivals.mean_rate:.4g} {arriving}/s"),
        (
            "peak rate in 1 / 10 / 60 s",
            f"{arrivals.peak_rate_1s:g} / {arrivals.peak_rate_10s:.1f} / {arrivals.peak_rate_60s:.2f} {arriving}/s",
        ),
        ("CV of the gaps (1: Poisson)", f"{arrivals.interarrival_cv:.2f}"),
        ("dispersion in 1 / 60 s (1: Poisson)", " / ".join(dispersion)),
        (f"distinct {'start' if arrivals.of_sessions else 'arrival'} times", f"{arrivals.distinct_stamps:,}"),
        *(
            (f"{what} tokens", f"{per_s:,.0f} /s")
            for what, per_s in (("prompt", arrivals.prompt_tokens_per_s), ("output", arrivals.output_tokens_per_s))
            if per_s is not None
        ),
    ]


def _how_read(reading: Reading) -> list[tuple[str, str]]:
    """Facts about how the file was read."""
    clock = "" if reading.clock is None else f", clock in {reading.clock}" if reading.clock != "date-times" else ", date-times"
    facts = [("read as", reading.format + clock)]
    if reading.tokens_per_id is not None:
        facts.append(("tokens of an id", f"{reading.tokens_per_id:,}"))
    left_out = [f"{count:,} {what}" for count, what in ((reading.skipped, "malformed"), (reading.dropped, "failed")) if count]
    facts.append(("rows", f"{reading.rows:,}" + (f"; left out: {', '.join(left_out)}" if left_out else "")))
    facts.append(("zero outputs", f"{reading.zero_outputs:,}" + (", played with 1 token" if reading.zero_outputs else "")))
    if reading.failed:
        facts.append(("failed requests", f"{reading.failed:,}, played"))
    return facts
