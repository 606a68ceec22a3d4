"""The metrics of a run, in the order of the columns of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np

from simjax.metrics.catalog.clients import Clients
from simjax.metrics.catalog.cost import COST
from simjax.metrics.catalog.disaggregation import DISAGGREGATION
from simjax.metrics.catalog.energy import ENERGY
from simjax.metrics.catalog.metric import Better, Column, Metric, always, catalog_of, ratio
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.catalog.tiers import TIERS
from simjax.metrics.latency import NAMES, STATISTICS

_LATENCIES = ("ttft", "tpot", "e2e")  # ITL has no column: rows are made without a leap log, which its percentiles need
_STATISTICS = {name: name.upper() for name in STATISTICS} | {"mean": "mean", "max": "maximum"}
_SESSIONS, _LIMITS, _CAP = (frozenset({x}) for x in ("sessions", "limits", "cap"))
_SPECULATION, _LOCKSTEP = frozenset({"speculation"}), frozenset({"lockstep"})


def _count(
    name: str,
    better: Better,
    words: str,
    count: Callable[[Runs], np.ndarray],
    path: tuple[str, ...] = (),
    interval: bool = False,
    needs: frozenset[str] = frozenset(),
) -> Metric:
    """A whole number that every run has."""
    return Metric(name, "", better, words, lambda runs, xp: always(count(runs), xp), True, False, path, needs, interval)


def _rate(name: str, unit: str, words: str, count: Callable[[Clients], Any]) -> Metric:
    """A count of requests that finish in the window, or of their tokens, over its span."""
    value = lambda clients, xp: clients.per_s(count(clients), xp)
    return Metric(name, unit, "higher", words, value, smooth=True, path=("throughput", name), interval=True)


def _activity(name: str, words: str) -> Metric:
    """A total over the instances of the activity that a run recorded (`sim.activity`)."""
    value = lambda runs, xp: Column(runs.instances(name, np.add), runs.instances("step_tokens_max", np.maximum) > 0)
    return Metric(name, "", None, words, value, whole=True)


def _drafts(name: str, words: str) -> Metric:
    """A total over the instances of a run with speculative decoding."""
    value = lambda runs, xp: Column(runs.instances(name, np.add), runs.instances("drafts", np.add) > 0)
    return Metric(name, "", None, words, value, whole=True, path=("speculation", name), needs=_SPECULATION)


def _dummies(name: str, unit: str, words: str, count: Callable[[Runs], np.ndarray], whole: bool = False) -> Metric:
    """A number of a run in which ranks step together."""
    value = lambda runs, xp: Column(count(runs), runs.instances("dummy_steps", np.add) > 0)
    return Metric(name, unit, "lower", words, value, whole=whole, path=("lockstep", name), needs=_LOCKSTEP)


def _acceptance_length(runs: Runs) -> Column:
    """Mean tokens of a step of a request with drafts, as vLLM logs it: one, and those accepted."""
    drafts = runs.instances("drafts", np.add)
    return Column(1.0 + runs.instances("accepted_tokens", np.add) / np.maximum(drafts, 1), drafts > 0)


def _latencies() -> Iterable[Metric]:
    """All statistics of all latencies."""
    for latency in _LATENCIES:
        for statistic, of in _STATISTICS.items():

            def value(clients: Clients, xp: ModuleType, latency: str = latency, statistic: str = statistic) -> Column:
                return clients.latencies[latency][statistic]

            name, path = f"{latency}_{statistic}_s", (f"{latency}_s", statistic)
            yield Metric(name, "s", "lower", f"{of} {NAMES[latency]}", value, smooth=True, path=path, interval=True)


def _makespan(statistic: str) -> Metric:
    """A statistic of the sessions' makespans."""
    words, path = f"{_STATISTICS[statistic]} session makespan", ("sessions", "makespan_s", statistic)
    value = lambda runs, xp: runs.makespans[statistic]
    return Metric(f"session_makespan_{statistic}_s", "s", "lower", words, value, path=path, needs=_SESSIONS)


def _send_lag(statistic: str) -> Metric:
    """A statistic of how far a client with a cap on its requests in flight sends behind its schedule."""
    words, path = f"{_STATISTICS[statistic]} lag of sends behind the schedule", ("send_lag_s", statistic)
    value = lambda runs, xp: runs.send_lags[statistic]
    return Metric(f"send_lag_{statistic}_s", "s", "lower", words, value, path=path, needs=_CAP)


CATALOG = catalog_of(
    [
        _count("gpus", "lower", "GPUs", lambda runs: runs.gpus),
        _count("requests_total", None, "requests", lambda runs: np.full(*runs.shape), ("requests", "total")),
        _count("requests_finished", "higher", "requests finished", lambda runs: runs.clients.served, ("requests", "finished"), True),
        _count(
            "requests_unfinished",
            "lower",
            "requests unfinished",
            lambda runs: runs.shape[1] - runs.clients.served,
            ("requests", "unfinished"),
            True,
        ),
        _count(
            "preemptions", "lower", "preemptions", lambda runs: runs.requests.preemptions.sum(axis=1), ("requests", "preemptions"), True
        ),
        Metric(
            name="duration_s",
            unit="s",
            better="lower",
            words="duration",
            value=lambda clients, xp: Column(clients.duration_s, clients.served > 0),
            smooth=True,
            path=("duration_s",),
            interval=True,
        ),
        Metric(
            name="steady",
            unit="",
            better="higher",
            words="steady state (1) or not (0)",
            value=lambda runs, xp: Column(runs.steadiness.steady, runs.steadiness.decided),
            whole=True,
            path=("steady",),
        ),
        Metric(
            name="backlog_growth_per_s",
            unit="requests/s",
            better="lower",
            words="growth of the backlog",
            value=lambda runs, xp: Column(runs.steadiness.backlog_growth_per_s, runs.steadiness.sent_over_time),
            path=("backlog_growth_per_s",),
        ),
        _count("requests_measured", "higher", "requests measured", lambda runs: runs.measured.arrived.sum(axis=1), ("window", "requests")),
        _rate("requests_per_s", "requests/s", "throughput", lambda clients: clients.finished),
        _rate("prompt_tokens_per_s", "tokens/s", "prompt throughput", lambda clients: clients.prompt_tokens),
        _rate("output_tokens_per_s", "tokens/s", "output throughput", lambda clients: clients.output_tokens),
        Metric(
            name="output_tokens_per_s_per_gpu",
            unit="tokens/s",
            better="higher",
            words="output throughput per GPU",
            value=lambda clients, xp: clients.per_s_and_gpu(clients.output_tokens, xp),
            smooth=True,
        ),
        *_latencies(),
        _makespan("mean"),
        _makespan("p99"),
        _send_lag("mean"),
        _send_lag("max"),
        _count("kv_num_blocks", None, "KV blocks", lambda runs: runs.instances("num_blocks", np.add), ("kv", "num_blocks")),
        Metric(
            name="kv_peak_used_fraction",
            unit="fraction",
            better=None,
            words="peak KV use",
            value=lambda runs, xp: always(runs.instances("peak_blocks", np.maximum, per="num_blocks"), xp),
            path=("kv", "peak_used_fraction"),
            interval=True,
        ),
        _count(
            "kv_evicted_blocks",
            "lower",
            "cached KV blocks evicted",
            lambda runs: runs.instances("evicted_blocks", np.add),
            ("kv", "evicted_blocks"),
        ),
        Metric(
            name="prefix_hit_fraction",
            unit="fraction",
            better="higher",
            words="cached prompt tokens",
            value=lambda runs, xp: ratio(runs.total("cached_tokens", runs.scheduled), runs.total("prompt_tokens", runs.scheduled), xp),
            path=("kv", "prefix_hit_fraction"),
        ),
        Metric(
            name="slo_attainment",
            unit="fraction",
            better="higher",
            words="SLO attainment",
            value=lambda runs, xp: runs.attainment(runs.good),
            path=("slo", "attainment_fraction"),
            needs=_LIMITS,
            interval=True,
        ),
        Metric(
            name="goodput_requests_per_s",
            unit="requests/s",
            better="higher",
            words="goodput",
            value=lambda runs, xp: runs.clients.per_s(runs.goodput, xp),
            path=("slo", "goodput_requests_per_s"),
            needs=_LIMITS,
            interval=True,
        ),
        Metric(
            name="goodput_per_gpu",
            unit="requests/s",
            better="higher",
            words="goodput per GPU",
            value=lambda runs, xp: runs.clients.per_s_and_gpu(runs.goodput, xp),
            path=("slo", "goodput_requests_per_s_per_gpu"),
            needs=_LIMITS | {"gpus"},
            interval=True,
        ),
        *DISAGGREGATION,
        *TIERS,
        *ENERGY,
        *COST,
        Metric(
            name="busy_fraction",
            unit="fraction",
            better=None,
            words="busy time of the instances",
            value=lambda runs, xp: runs.busy_fraction(),
        ),
        _activity("prefill_tokens", "prefill tokens"),
        _activity("decode_tokens", "decode tokens"),
        _drafts("draft_tokens", "drafts verified"),
        _drafts("accepted_tokens", "drafts accepted"),
        Metric(
            name="acceptance_length",
            unit="tokens",
            better="higher",
            words="tokens of a verified step",
            value=lambda runs, xp: _acceptance_length(runs),
            path=("speculation", "acceptance_length"),
            needs=_SPECULATION,
        ),
        _dummies("dummy_steps", "", "dummy steps of data-parallel ranks", lambda runs: runs.instances("dummy_steps", np.add), whole=True),
        _dummies("dummy_fraction", "fraction", "time of the ranks in dummy steps", lambda runs: runs.share_of_time("dummy_s")),
        _count("ticks", None, "simulated ticks", lambda runs: runs.each("ticks"), ("sim", "ticks")),
        _count("steps", None, "simulated steps", lambda runs: runs.each("steps"), ("sim", "steps")),
    ]
)
"""All metrics by name; rows of sweeps, summary.json, gradients, objectives, figures and `--help` read it."""
