"""The capacities of many designs at once: rounds of simulations in which every design tries the rates that its own search asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simjax.batch.execute import Row
from simjax.config.capacity import CapacityConfig, SearchConfig
from simjax.config.compose import compose_config, normal, typed
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.explore.from_config import base_of, points_of
from simjax.explore.points import Points
from simjax.metrics.catalog import CATALOG
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.sizing.interval import interval
from simjax.sizing.loads import Load, loads_of
from simjax.sizing.metrics import SATURATED
from simjax.sizing.record import Capacities, Capacity, Tried
from simjax.sizing.rounds import Probe, Rounds
from simjax.sizing.search import RateSearch
from simjax.sizing.verdict import Outcome, verdict

Progress = Callable[[int, int, int], None]
"""A function of (designs done, all designs, simulations so far)."""


def capacity(overrides: Sequence[str] = (), axes: Mapping[str, Any] | None = None, *, on_progress: Progress | None = None) -> Capacities:
    """The highest rate that each of some designs holds: steadily, and with its service levels met.

        simjax.capacity(["model=qwen3-32b", "slo.ttft_s=1", "capacity.seeds=8"], {"device": ["h100", "h200"]}).designs[0].rate_per_s

    Args:
        overrides: options of `simjax capacity`, in Hydra's grammar.
        axes: values of each swept key, as for `simjax.SweepPlan.of`; designs are all combinations.
        on_progress: called now and then with (designs done, all designs, simulations so far).

    Raises:
        SimjaxError: an option is wrong, or no design can be simulated.
    """
    config: CapacityConfig = typed(compose_config("capacity", list(overrides)))
    asked = SweepConfig(**{**vars(config.sweep), "axes": {**config.sweep.axes, **(axes or {})}})
    return capacities(search_base(overrides), designs_of(asked), config.capacity, on_progress=on_progress)


def search_base(overrides: Sequence[str]) -> list[str]:
    """The overrides of a search that every design shares: without those of the search, the sweep and the output."""
    return [x for x in base_of([normal(x) for x in overrides]) if not x.lstrip("+").startswith("capacity.")]


def designs_of(sweep: SweepConfig) -> Points:
    """The designs of a configured sweep; without one a single design.

    Raises:
        SimjaxError: an option of sweeps has no meaning here, or values cannot be swept.
    """
    if sweep.seeds is not None:
        raise SimjaxError("sweep.seeds has no effect on a search; capacity.seeds sets on how many workloads a rate is tried")
    if sweep.shard is not None:
        raise SimjaxError("sweep.shard: a search cannot be split; give each process its own values of an axis")
    asked = bool(sweep.axes or sweep.zip or sweep.points is not None)
    return points_of(sweep)[0] if asked else Points((), ((),))


def capacities(
    base: Sequence[str],
    points: Points,
    search: SearchConfig,
    *,
    width: int | None = None,
    on_progress: Progress | None = None,
) -> Capacities:
    """The capacities of designs, as `capacity`.

    Args:
        base: overrides that all designs share, in Hydra's grammar.
        points: values of the swept keys of each design.
        search: options of the search.
        width: runs side by side, None for what suits the devices.
        on_progress: as for `capacity`.

    Raises:
        SimjaxError: the base is wrong, or no design can be simulated.
    """
    loads = loads_of(base, points, range(len(points)), search)
    if loads.invalid and not loads.of:
        first = min(loads.invalid)
        raise SimjaxError(f"none of the {len(points):,} designs can be simulated; design {first}: {loads.invalid[first]}")
    rounds = Rounds(loads.of, width)
    report = on_progress or (lambda done, total, runs: None)
    total, number = len(loads.of), 0
    asked = {point: _Asked(point, own, search) for point, own in loads.of.items()}
    while waiting := {point: probes for point, one in asked.items() if (probes := one.probes())}:
        done, number = total - len(waiting), number + 1
        before = rounds.runs
        report(done, total, before)
        found = rounds.run([probe for probes in waiting.values() for probe in probes], lambda _: report(done, total, rounds.runs))
        for point, probes in waiting.items():
            asked[point].tell({probe: found[probe] for probe in probes})
    report(total, total, rounds.runs)
    values = [dict(zip(points.keys, row, strict=True)) for row in points.rows]
    invalid = {point: Capacity(point, values[point], valid=False, limited_by=reason) for point, reason in loads.invalid.items()}
    records = {point: one.record(values[point]) for point, one in asked.items()} | invalid
    return Capacities(points.keys, tuple(records[point] for point in range(len(points))), rounds.runs, number, loads.warnings)


class _Asked:
    """A design of the search: its rates so far, and what came of them."""

    def __init__(self, point: int, loads: Sequence[Load], search: SearchConfig) -> None:
        self.point, self.loads, self.options = point, loads, search
        self.slo: Slo = loads[0].design.slo or NO_LIMITS
        self.search: RateSearch | None = None
        self.saturated: float | None = None
        self.looked: dict[float, Tried] = {}
        self.tried: dict[float, Tried] = {}
        self.reasons: dict[float, str] = {}
        self.failure = ""

    def probes(self) -> list[Probe]:
        """The runs that it needs next; none when its search has ended."""
        if self.failure:
            return []
        if self.search is None:
            return [Probe(self.point, 0, None)]
        trial = self.search.ask()
        if trial is None:
            return []
        seeds = range(len(self.loads) if trial.everywhere else 1)
        return [Probe(self.point, seed, rate) for rate in trial.rates for seed in seeds]

    def tell(self, rows: Mapping[Probe, Row]) -> None:
        """Go on from the rows of its runs."""
        failed = next((row["reason"] for row in rows.values() if row["status"] == "error"), None)
        if failed is not None:
            self.failure = failed
        elif self.search is None:
            self._begin(next(iter(rows.values())))
        else:
            by_rate: dict[float, list[Row]] = {}
            for probe, row in rows.items():
                by_rate.setdefault(probe.rate or 0.0, []).append(row)
            self.search.tell({rate: self._judge(rate, runs) for rate, runs in by_rate.items()})

    def _begin(self, burst: Row) -> None:
        saturated = burst.get(SATURATED)
        if not saturated:
            self.failure = "no throughput at saturation: too few requests finished; raise capacity.num_requests"
            return
        self.saturated = saturated * self.loads[0].starts / self.loads[0].requests
        options = self.options
        self.search = RateSearch(self.saturated, options.tolerance, options.low, options.high)

    def _judge(self, rate: float, rows: Sequence[Row]) -> bool:
        """Whether a rate passes; what was tried on all workloads is kept."""
        runs = tuple(Outcome.of(row, self.slo) for row in rows)
        found = verdict(runs, self.options.attainment, self.slo)
        self.reasons[rate] = found.reason
        kept = self.tried if len(runs) == len(self.loads) else self.looked
        kept[rate] = Tried(rate, found.passes, found.attained, found.steady, runs, _means(rows))
        return found.passes

    def record(self, design: Mapping[str, Any]) -> Capacity:
        """What the search has found."""
        gpus = self.loads[0].design.gpus
        if self.failure:
            return Capacity(self.point, design, gpus, valid=False, limited_by=self.failure)
        search, options = self.search, self.options
        assert search is not None
        tried, looked = (tuple(rates[rate] for rate in sorted(rates)) for rates in (self.tried, self.looked))
        about: dict[str, Any] = {"seeds": len(self.loads), "num_requests": self.loads[0].requests, "saturated_per_s": self.saturated}
        about |= {"tried": tried, "looked": looked}
        if search.outcome == "none":
            lowest = min(self.reasons)
            return Capacity(self.point, design, gpus, limited_by=f"not even {lowest:.3g}/s passes: {self.reasons[lowest]}", **about)
        if search.outcome == "all":
            highest = max(rate for rate, reason in self.reasons.items() if not reason)
            return Capacity(self.point, design, gpus, low=highest, limited_by=f"all rates up to {highest:.4g}/s pass", **about)
        assert search.low is not None and search.high is not None
        bracket = search.low, search.high
        low, high = interval({x.rate: x.runs for x in tried}, bracket, options.attainment, self.slo, options.level)
        covers = f"bracket of the search and {options.level * 100:g} % over {len(self.loads)} workloads"
        if len(self.loads) == 1:
            covers = "bracket of the search; one workload, so not the randomness of the load"
        return Capacity(
            self.point, design, gpus, search.low, low, high, bracket, covers, limited_by=self.reasons[search.high], **about
        )  # fmt: skip


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    """Means of the metrics over runs; None where one of them has none."""
    found = {name: [row[name] for row in rows] for name in CATALOG}
    return {name: None if None in values else sum(values) / len(values) for name, values in found.items()}
