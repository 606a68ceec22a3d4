"""Results of instances that have several data-parallel ranks: by instance, as users read them, and by rank, as the engine gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from simjax.engine.columns import columns

if TYPE_CHECKING:  # `simjax.engine.host.result` has the record below
    from simjax.engine.host.result import InstanceLog, Result

A = TypeVar("A")
B = TypeVar("B")
Reduce = Callable[[np.ndarray], Any]
_OTHERWISE_THAN_SUMS: dict[str, Reduce] = {
    "busy_s": np.mean,
    "dummy_s": np.mean,
    "ended_s": np.max,
    "step_tokens_max": np.max,
    "step_sequences_max": np.max,
    "step_tokens_min": lambda x: x[x > 0].min(initial=x.max()),
    "step_sequences_min": lambda x: x[x > 0].min(initial=x.max()),
}
"""Totals of an instance that are no sums over its ranks; a rank without steps has 0 as its fewest tokens."""


@dataclass(frozen=True)
class RankLog:
    """The N ranks of a run in which an instance has several; they are numbered over all instances.

    Attributes:
        instance: int32[N], the instance of each rank.
        totals: totals of the ranks, arrays over N.
        request: int32[R], the rank that serves each request, -1 when it was not sent.
        prefill: int32[R], the rank that each prompt is computed on where that is another, else -1; None without hand-overs.
        leap: int32[L], the rank of each leap; None when the run did not record them.
    """

    instance: np.ndarray
    totals: InstanceLog
    request: np.ndarray
    prefill: np.ndarray | None
    leap: np.ndarray | None

    @property
    def number(self) -> np.ndarray:
        """The number of each rank within its instance, vLLM's `data_parallel_rank`: int64[N]."""
        first = np.flatnonzero(np.diff(self.instance, prepend=-1))
        return np.arange(len(self.instance)) - first[self.instance]


def of_instances(result: Result, instance: np.ndarray) -> Result:
    """The result by instance of one by rank, which keeps the ranks; `instance` is that of each rank, int32[N]."""
    ranks = RankLog(
        instance,
        result.instances,
        result.requests.instance,
        if_there(result.handovers, lambda handovers: handovers.prefill_instance),
        if_there(result.leaps, lambda leaps: leaps.instance),
    )
    return replace(_numbered(result, lambda rank: _looked_up(instance, rank), _totals(result.instances, instance)), ranks=ranks)


def by_rank(result: Result) -> Result:
    """The result with a row a rank where others have one an instance; as it is where every instance has one rank."""
    ranks = result.ranks
    if ranks is None:
        return result
    return replace(
        result,
        requests=replace(result.requests, instance=ranks.request),
        leaps=if_there(result.leaps, lambda leaps: replace(leaps, instance=ranks.leap)),
        instances=ranks.totals,
        handovers=if_there(result.handovers, lambda handovers: replace(handovers, prefill_instance=ranks.prefill)),
        pools=if_there(result.pools, lambda pools: pools.by_rank(ranks.instance)),
        tiers=if_there(result.tiers, lambda tiers: tiers.by_rank(ranks.instance)),
        ranks=None,
    )


def if_there(record: A | None, made: Callable[[A], B]) -> B | None:
    """What is made of a record of a run, which may have none."""
    return None if record is None else made(record)


def _numbered(result: Result, of: Callable[[np.ndarray], np.ndarray], totals: InstanceLog) -> Result:
    """The result with other numbers of instances, and totals of these."""
    return replace(
        result,
        requests=replace(result.requests, instance=of(result.requests.instance)),
        leaps=if_there(result.leaps, lambda leaps: replace(leaps, instance=of(leaps.instance))),
        instances=totals,
        handovers=if_there(result.handovers, lambda handovers: replace(handovers, prefill_instance=of(handovers.prefill_instance))),
    )


def _looked_up(instance: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The instances of ranks, -1 for -1."""
    return np.where(rank >= 0, instance[rank], -1).astype(np.int32)


def _totals(of_ranks: InstanceLog, instance: np.ndarray) -> InstanceLog:
    members = [np.flatnonzero(instance == i) for i in range(int(instance[-1]) + 1)]
    kind = type(of_ranks)

    def reduced(name: str, dtype: type) -> np.ndarray:
        reduce, values = _OTHERWISE_THAN_SUMS.get(name, np.sum), getattr(of_ranks, name)
        return np.array([reduce(values[mine]) for mine in members], dtype)

    return kind(**{x.name: reduced(x.name, x.dtype) for x in columns(kind)})
