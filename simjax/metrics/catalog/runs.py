"""Runs side by side as numpy arrays: what the metrics of rows and summaries are functions of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from simjax.engine.host.pools import Pools
from simjax.engine.host.result import NEVER, HandoverLog, RequestLog, Result
from simjax.metrics.calls import Calls, makespans
from simjax.metrics.catalog.clients import Clients
from simjax.metrics.catalog.instances import of_instances, of_ranks
from simjax.metrics.catalog.metric import Column, always, ratio
from simjax.metrics.energy.cost import RunCost, run_cost
from simjax.metrics.energy.parts import RunEnergy, run_energy
from simjax.metrics.handover.links import LinkUse
from simjax.metrics.handover.parts import PARTS, handed_over, ttft_parts
from simjax.metrics.latency import STATISTICS, Latencies, latencies, statistics_of
from simjax.metrics.slo import Slo, meets
from simjax.metrics.steady.steadiness import Steadiness, steadiness
from simjax.metrics.steady.window import AUTOMATIC, Measured, Window, measured
from simjax.workload.classes import LIMITS


@dataclass(frozen=True)
class Runs:
    """B runs with R requests each.

    Attributes:
        results: the runs.
        slos: limits on the latencies, one record a run.
        gpus: GPUs of each run's cluster, int64[B].
        windows: what is left out of the metrics of each run.
        requests: one log with arrays [B, R]; `prompt_tokens` and `output_tokens` are [1, R] where all runs share the same arrays.
    """

    results: Sequence[Result]
    slos: Sequence[Slo]
    gpus: np.ndarray
    windows: Sequence[Window]
    requests: RequestLog

    @staticmethod
    def of(results: Sequence[Result], slos: Sequence[Slo], gpus: Sequence[int], windows: Sequence[Window] | None = None) -> Runs:
        """Runs with equally many requests, as many limits, numbers of GPUs, and windows (by default automatic ones)."""
        windows = [AUTOMATIC] * len(results) if windows is None else windows
        return Runs(results, slos, np.array(gpus), windows, _stacked([result.requests for result in results]))

    @property
    def shape(self) -> tuple[int, int]:
        """B and R."""
        return self.requests.finished.shape

    def each(self, name: str) -> np.ndarray:
        """A number of every result, such as its `steps`: [B]."""
        return np.array([getattr(result, name) for result in self.results])

    def instances(self, name: str, reduce: np.ufunc, per: str | None = None) -> np.ndarray:
        """An array of every result over its instances, reduced over them: [B].

        Args:
            name: the array.
            reduce: such as `np.add` or `np.maximum`.
            per: an array of whole numbers to divide by first, rank by rank where instances have several; 0 counts as 1.
        """
        of = of_instances if per is None else of_ranks
        parts = [of(result, name) for result in self.results]
        values, starts = np.concatenate(parts), np.cumsum([0, *map(len, parts[:-1])])
        if per is not None:
            values = values / np.maximum(np.concatenate([of(result, per) for result in self.results]), 1)
        return reduce.reduceat(values.astype(np.int64 if values.dtype.kind in "iu" else np.float64), starts)

    def busy_fraction(self) -> Column:
        """The share of the run in which an instance has a step under way, mean over the instances: known of runs with their activity."""
        known = (self.instances("step_tokens_max", np.maximum) > 0) & (self.clients.duration_s > 0)
        return Column(self.share_of_time("busy_s"), known)

    def share_of_time(self, name: str) -> np.ndarray:
        """Seconds that every instance has (`name`) as a share of the run, mean over the instances: float64[B]; as they are where it took
        no time.
        """
        seconds, count = self.instances(name, np.add), [len(of_instances(result, name)) for result in self.results]
        return seconds / np.where(self.clients.duration_s > 0, self.clients.duration_s * count, 1.0)

    def total(self, name: str, which: np.ndarray) -> np.ndarray:
        """The sum of an array of the log over the requests `which` (bool[B, R]): int64[B]."""
        values = getattr(self.requests, name)
        if which.all():  # then tokens that the runs share are added up once
            return np.broadcast_to(values.sum(axis=1), len(self.results))
        return np.where(which, values, 0).sum(axis=1)

    @cached_property
    def latencies(self) -> Latencies:
        """Latencies of all requests, arrays [B, R]."""
        return latencies(self.requests)

    @cached_property
    def energies(self) -> list[RunEnergy | None]:
        """The energy of each run, None where power was not simulated."""
        return [run_energy(result) for result in self.results]

    @cached_property
    def costs(self) -> list[RunCost | None]:
        """Money and carbon of each run, None where nobody asked for them."""
        return [run_cost(result, energy) for result, energy in zip(self.results, self.energies, strict=True)]

    @cached_property
    def measured(self) -> Measured:
        """The part of each run that is measured."""
        return measured(self.results, self.windows, self.requests, self.latencies)

    @cached_property
    def steadiness(self) -> Steadiness:
        """Whether each run has come to a steady state."""
        return steadiness(self.requests, self.measured)

    @cached_property
    def clients(self) -> Clients:
        """Observations of the clients of the B runs."""
        lat, part = self.latencies, self.measured
        counts, has_tpot = (lat.finished, lat.has_tpot) if part.whole.all() else (lat.finished & part.arrived, lat.has_tpot & part.arrived)
        return Clients(
            gpus=self.gpus,
            finished=part.finished.sum(axis=1),
            prompt_tokens=self.total("prompt_tokens", part.finished),
            output_tokens=self.total("output_tokens", part.finished),
            span_s=part.span_s,
            served=lat.finished.sum(axis=1),
            duration_s=part.done_s - part.first_s,
            latencies={
                "ttft": _statistics(lat.ttft_s, counts),
                "tpot": _statistics(lat.tpot_s, has_tpot),
                "e2e": _statistics(lat.e2e_s, counts),
            },
        )

    @cached_property
    def meets(self) -> dict[str, np.ndarray]:
        """Which requests finished within each limit, by the limit's name: bool[B, R]."""
        return meets(self.latencies, *(self._limit(name) for name in LIMITS))

    def _limit(self, name: str) -> np.ndarray:
        """A limit in seconds, [B, 1]; [B, R] where requests are of classes: the lower one of the run's and of the class's."""
        of_runs = np.array([[getattr(slo, name)] for slo in self.slos])
        own = [None if result.classes is None else result.classes.limit(name) for result in self.results]
        if all(limit is None for limit in own):
            return of_runs
        none = np.full(self.shape[1], NEVER)
        return np.minimum(of_runs, np.stack([none if limit is None else limit for limit in own]))

    @cached_property
    def good(self) -> np.ndarray:
        """Which requests finished within all limits: bool[B, R]."""
        return np.logical_and.reduce(list(self.meets.values()))

    def attainment(self, met: np.ndarray) -> Column:
        """The share of requests `met` (bool[B, R]) among those that arrived within the window."""
        arrived = self.measured.arrived
        return ratio((met & arrived).sum(axis=1), arrived.sum(axis=1), np)

    @cached_property
    def goodput(self) -> np.ndarray:
        """Requests that finished within all limits, of those whose finishes throughput counts: int64[B]."""
        return (self.good & self.measured.finished).sum(axis=1)

    @cached_property
    def scheduled(self) -> np.ndarray:
        """Which requests have been in a step: bool[B, R]."""
        return self.requests.scheduled_s != NEVER

    @property
    def disaggregated(self) -> bool:
        """Whether the runs have prefill and decode instances; all of them or none."""
        return self.results[0].handovers is not None

    @property
    def pools(self) -> list[Pools]:
        """The prefill and decode instances of each run."""
        return [result.pools for result in self.results if result.pools is not None]

    @cached_property
    def handovers(self) -> HandoverLog:
        """Hand-overs of the runs, arrays [B, R]."""
        logs = [result.handovers for result in self.results]
        return HandoverLog(**{field.name: _table([getattr(log, field.name) for log in logs]) for field in fields(HandoverLog)})

    @cached_property
    def moved(self) -> np.ndarray:
        """Which requests finished after a transfer from a prefill to a decode instance: bool[B, R]."""
        return handed_over(self.requests, self.handovers)

    @cached_property
    def kv_bytes_moved(self) -> np.ndarray:
        """Bytes of KV cache that went from prefill to decode instances: float64[B]."""
        return np.where(self.moved, self.handovers.transfer_bytes, 0.0).sum(axis=1)

    @cached_property
    def ttft_parts(self) -> Mapping[str, Mapping[str, Column]]:
        """Statistics of the parts of TTFT over the requests that arrived within the window and were handed over."""
        if not self.disaggregated:
            return dict.fromkeys(PARTS, _nothing(len(self.results)))
        there = self.moved & self.measured.arrived
        return {name: _statistics(part, there) for name, part in ttft_parts(self.requests, self.handovers).items()}

    @cached_property
    def links(self) -> LinkUse:
        """Transfers on the links of the runs."""
        return LinkUse.of(self.results)

    @cached_property
    def link_use(self) -> np.ndarray:
        """Bytes over what the busiest link could have moved during the whole run: float64[B], infinite where that has no length."""
        took = np.repeat(self.clients.duration_s, np.diff(self.links.first))
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.links.of_busiest(np.where(took > 0, self.links.moved_bytes / self.links.capacity / took, np.inf))

    @cached_property
    def link_peak_use(self) -> np.ndarray:
        """Bytes over what the busiest link could have moved in its fullest second: float64[B]."""
        return self.links.of_busiest(self.links.peak_bytes_per_s / self.links.capacity)

    @cached_property
    def send_lags(self) -> Mapping[str, Column]:
        """Mean and maximum of the seconds by which a client with a cap sent its requests behind its schedule; known of runs with a cap."""
        columns = {name: Column(np.zeros(len(self.results)), np.zeros(len(self.results), bool)) for name in ("mean", "max")}
        for i, result in enumerate(self.results):
            if result.due_s is not None and (sent := result.requests.arrival_s != NEVER).any():
                lag_s = result.requests.arrival_s[sent] - result.due_s[sent]
                for name, value in (("mean", lag_s.mean()), ("max", lag_s.max())):
                    columns[name].values[i], columns[name].known[i] = value, True
        return columns

    @cached_property
    def makespans(self) -> Mapping[str, Column]:
        """Statistics of the makespans in seconds of the sessions that finished; runs with the same sessions are taken together."""
        columns = _nothing(len(self.results))
        alike: dict[int, list[int]] = {}
        for i, result in enumerate(self.results):
            if result.sessions is not None:
                alike.setdefault(id(result.sessions), []).append(i)
        for members in alike.values():
            sessions = self.results[members[0]].sessions
            assert sessions is not None
            log = replace(self.requests, **{name: getattr(self.requests, name)[members] for name in ("finished", "arrival_s", "finish_s")})
            spans = makespans(log, Calls.of(sessions))
            _put(columns, members, _statistics(spans, spans != NEVER))
        return columns


def _nothing(runs: int) -> dict[str, Column]:
    return {name: Column(np.zeros(runs), np.zeros(runs, bool)) for name in STATISTICS}


def _put(columns: Mapping[str, Column], rows: Sequence[int] | np.ndarray, found: Mapping[str, Column]) -> None:
    for name, column in columns.items():
        column.values[rows], column.known[rows] = found[name].values, found[name].known


def _statistics(values: np.ndarray, there: np.ndarray) -> dict[str, Column]:
    """Statistics over the requests that have a latency, bit for bit those of each run alone: sums depend on where numbers stand.

    Args:
        values: float64[B, R].
        there: bool[B, R]; runs in which equally many requests have the latency are taken together.
    """
    if there.shape[1] and there.all():
        return {name: always(found, np) for name, found in statistics_of(values, there, np).items()}
    columns, counts = _nothing(len(values)), there.sum(axis=1)
    for count in set(counts.tolist()) - {0}:
        rows = np.flatnonzero(counts == count)
        dense = values[rows][there[rows]].reshape(len(rows), count)
        found = statistics_of(dense, np.broadcast_to(True, dense.shape), np)
        _put(columns, rows, {name: Column(value, True) for name, value in found.items()})
    return columns


def _stacked(logs: Sequence[RequestLog]) -> RequestLog:
    """One log with arrays [B, R]; tokens are [1, R] where all logs share their arrays."""
    shared = len({(id(log.prompt_tokens), id(log.output_tokens)) for log in logs}) == 1
    one_is_enough = {"prompt_tokens", "output_tokens"} if shared else set[str]()
    names = [field.name for field in fields(RequestLog)]
    return RequestLog(**{name: _table([getattr(log, name) for log in (logs[:1] if name in one_is_enough else logs)]) for name in names})


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays [R] as one [B, R]; takes half the time of np.stack."""
    return np.concatenate(rows).reshape(len(rows), -1)
