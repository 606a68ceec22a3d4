"""A design of a search: the runs that it asks for, and what came of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simjax.batch.execute import Row
from simjax.config.capacity import SearchConfig
from simjax.metrics.catalog import CATALOG
from simjax.metrics.slo import NO_LIMITS, Slo
from simjax.sizing.interval import Spread, interval, spread
from simjax.sizing.loads import Load
from simjax.sizing.metrics import SATURATED
from simjax.sizing.record import Capacity, Tried
from simjax.sizing.rounds import Probe
from simjax.sizing.search import RateSearch, Trial
from simjax.sizing.verdict import Outcome, Verdict, verdict

_MOST_TIMES = 16  # workloads that are added until the interval is narrow enough, in those of the beginning
_WIDENINGS = 3  # rates that are tried beyond the others, where some workloads cross there


class Asked:
    """A design, its search, and its runs so far."""

    def __init__(self, point: int, loads: Sequence[Load], options: SearchConfig, precision: float) -> None:
        self.point, self.options, self.failure, self._precision = point, options, "", precision
        self._loads, self._begun_with = list(loads), len(loads)
        self._slo: Slo = loads[0].design.slo or NO_LIMITS
        self._search: RateSearch | None = None
        self._saturated: float | None = None
        self._runs: dict[float, dict[int, tuple[Outcome, list[float | None]]]] = {}  # by rate and seed: outcome, and metrics in order
        self._trial = Trial((), everywhere=False)
        self._widenings, self._settled = 0, False

    def probes(self) -> list[Probe]:
        """The runs that it needs next; none when its search has ended, for now."""
        if self.failure:
            return []
        if self._search is None:
            return [Probe(self.point, 0, None)]
        while (trial := self._search.ask() or self._beyond()) is not None:
            self._trial = trial
            seeds = range(len(self._loads) if trial.everywhere else 1)
            missing = [Probe(self.point, seed, rate) for rate in trial.rates for seed in seeds if seed not in self._runs.get(rate, {})]
            if missing:
                return missing
            self._judge()
        return []

    def tell(self, rows: Mapping[Probe, Row]) -> None:
        """Go on from the rows of its runs."""
        failed = next((row["reason"] for row in rows.values() if row["status"] == "error"), None)
        if failed is not None:
            self.failure = failed
        elif self._search is None:
            self._begin(next(iter(rows.values())))
        else:
            for probe, row in rows.items():
                assert probe.rate is not None
                self._runs.setdefault(probe.rate, {})[probe.seed] = Outcome.of(row, self._slo), [row[name] for name in CATALOG]
            self._judge()

    @property
    def further(self) -> range:
        """Seeds to add, counted from the first one, if its search has ended with too wide an interval; empty if not."""
        count, search = len(self._loads), self._search
        most = _MOST_TIMES * self._begun_with
        if self.failure or self._settled or search is None or search.outcome != "found" or not 1 < count < most:
            return range(0)
        low, high = self._interval()
        if 0.5 * math.log(high / low) <= self._precision:
            return range(0)
        return range(count, min(2 * count, most))

    def add(self, loads: Sequence[Load]) -> None:
        """Continue the search on more workloads; without any it has ended."""
        if not loads:
            self._settled = True
            return
        assert self._search is not None
        self._loads += loads
        self._widenings = 0
        self._search.reopen()

    def _begin(self, burst: Row) -> None:
        saturated = burst.get(SATURATED)
        if not saturated:
            self.failure = "no throughput at saturation: too few requests finished; raise capacity.num_requests"
            return
        self._saturated = scale = saturated / self._calls
        options = self.options
        self._search = RateSearch(scale, options.tolerance, options.low, options.high)

    @property
    def _calls(self) -> float:
        return self._loads[0].requests / self._loads[0].starts

    def _judge(self) -> None:
        """Tell the search which rates of the last trial passed; once it has ended, they only serve the interval."""
        assert self._search is not None
        if self._search.outcome is None:
            self._search.tell({rate: self._verdict(rate).margin for rate in self._trial.rates})

    def _verdict(self, rate: float) -> Verdict:
        return verdict([outcome for outcome, _ in self._runs[rate].values()], self.options.attainment, self._slo)

    def _everywhere(self) -> dict[float, list[Outcome]]:
        """Outcomes by rate, of the rates that were tried on all workloads."""
        count = len(self._loads)
        return {rate: [runs[seed][0] for seed in range(count)] for rate, runs in sorted(self._runs.items()) if len(runs) == count}

    def _spread(self) -> Spread:
        return spread(self._everywhere(), self.options.attainment, self._slo)

    def _beyond(self) -> Trial | None:
        """Rates beyond those tried on all workloads, where some of the workloads cross there: without them the interval is too narrow."""
        search = self._search
        assert search is not None
        if search.outcome != "found" or self._widenings >= _WIDENINGS or len(self._loads) < 2:
            return None
        rates, (below, above) = list(self._everywhere()), self._spread().beyond
        step = 1.0 + self.options.tolerance * 2.0**self._widenings
        self._widenings += 1
        wanted = [rate for rate, is_wanted in ((rates[0] / step, below), (rates[-1] * step, above)) if is_wanted]
        return Trial(tuple(wanted), everywhere=True) if wanted else None

    def _interval(self) -> tuple[float, float]:
        search = self._search
        assert search is not None and search.low is not None and search.high is not None
        return interval(self._spread(), (search.low, search.high), len(self._loads), self.options.level)

    def record(self, design: Mapping[str, Any]) -> Capacity:
        """What the search has found."""
        gpus, search = self._loads[0].design.gpus, self._search
        if self.failure:
            return Capacity(self.point, design, gpus, valid=False, limited_by=self.failure)
        assert search is not None
        everywhere = self._everywhere()
        tried, looked = (
            tuple(self._tried(rate) for rate in sorted(self._runs) if (rate in everywhere) == wanted) for wanted in (True, False)
        )
        about: dict[str, Any] = {"seeds": len(self._loads), "num_requests": self._loads[0].requests, "calls": self._calls}
        about |= {"saturated_per_s": self._saturated, "tried": tried, "looked": looked}
        if search.outcome == "none":
            lowest = min(self._runs)
            reason = f"not even {lowest:.3g}/s passes: {self._verdict(lowest).reason}"
            return Capacity(self.point, design, gpus, limited_by=reason, **about)
        if search.outcome == "all":
            highest = max(rate for rate in self._runs if self._verdict(rate).passes)
            return Capacity(self.point, design, gpus, low=highest, limited_by=f"all rates up to {highest:.4g}/s pass", **about)
        assert search.low is not None and search.high is not None
        covers = f"bracket of the search and {self.options.level * 100:g} % over {len(self._loads)} workloads"
        if len(self._loads) == 1:
            covers = "bracket of the search; one workload, so not the randomness of the load"
        ends = dict(zip(("low", "high"), self._interval(), strict=True))
        about |= {"bracket": (search.low, search.high), "covers": covers, "limited_by": self._verdict(search.high).reason}
        return Capacity(self.point, design, gpus, search.low, **about, **ends)

    def _tried(self, rate: float) -> Tried:
        found, runs = self._verdict(rate), self._runs[rate].values()
        columns = zip(*(metrics for _, metrics in runs), strict=True)
        means = {
            name: None if None in column else sum(x for x in column if x is not None) / len(column)
            for name, column in zip(CATALOG, columns, strict=True)
        }
        return Tried(rate, found.passes, found.attained, found.steady, tuple(outcome for outcome, _ in runs), means)
