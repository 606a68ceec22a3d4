"""The metrics of clusters with prefill and decode instances; runs of other clusters have none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from simjax.deployment import Role
from simjax.metrics.catalog.metric import Better, Column, Metric, ratio
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.handover.parts import PARTS

_ROLES = frozenset({"roles"})
_SECTION = "disaggregation"
_STATISTICS = {"mean": "mean", "p99": "P99"}


def _number(
    name: str, unit: str, better: Better, words: str, of: Callable[[Runs], np.ndarray], path: tuple[str, ...], whole: bool = False
) -> Metric:
    """A number that every run with hand-overs has."""

    def value(runs: Runs) -> Column:
        if not runs.disaggregated:
            return Column(np.zeros(len(runs.results), np.int64 if whole else np.float64), np.zeros(len(runs.results), bool))
        values = of(runs)
        return Column(values, np.isfinite(values))

    return Metric(name, unit, better, words, lambda runs, xp: value(runs), whole, path=(_SECTION, *path), needs=_ROLES)


def _gpus(role: Role) -> Metric:
    words = f"GPUs of {role.value} instances"
    count = lambda runs: np.array([pools.gpus(role) for pools in runs.pools])
    return _number(f"gpus_{role.value}", "", "lower", words, count, ("gpus", role.value), whole=True)


def _parts() -> Iterable[Metric]:
    """Statistics of the parts of the time to first token, and their shares of its mean."""
    for part, words in PARTS.items():
        for statistic, of in _STATISTICS.items():
            value = lambda runs, xp, part=part, statistic=statistic: runs.ttft_parts[part][statistic]
            name, path = f"ttft_{part}_{statistic}_s", (_SECTION, "ttft_s", part, statistic)
            yield Metric(name, "s", "lower", f"{of} TTFT, {words}", value, path=path, needs=_ROLES)


def _transfer_share(runs: Runs) -> Column:
    means = [runs.ttft_parts[part]["mean"] for part in PARTS]
    return ratio(runs.ttft_parts["transfer"]["mean"].values, sum(mean.values for mean in means), np)


DISAGGREGATION = [
    _gpus(Role.PREFILL),
    _gpus(Role.DECODE),
    _number("kv_transfers", "", None, "transfers of KV cache", lambda runs: runs.moved.sum(axis=1), ("transfers",), whole=True),
    _number("kv_bytes_moved", "bytes", "lower", "KV cache moved", lambda runs: runs.kv_bytes_moved, ("kv_bytes_moved",)),
    *_parts(),
    Metric(
        name="ttft_transfer_fraction",
        unit="fraction",
        better="lower",
        words="share of the transfer in the mean TTFT",
        value=lambda runs, xp: _transfer_share(runs),
        path=(_SECTION, "ttft_transfer_fraction"),
        needs=_ROLES,
    ),
    _number("link_use_fraction", "fraction", None, "use of the busiest link", lambda runs: runs.link_use, ("link_use_fraction",)),
    _number(
        "link_peak_use_fraction", "fraction", None, "use of the busiest link in its fullest second", lambda runs: runs.link_peak_use,
        ("link_peak_use_fraction",),
    ),
    _number(
        "link_peak_transfers", "", None, "most transfers at once on a link", lambda runs: runs.links.of_busiest(runs.links.most_transfers),
        ("link_peak_transfers",), whole=True,
    ),
]  # fmt: skip
