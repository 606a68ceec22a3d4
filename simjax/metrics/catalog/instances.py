"""The metrics of each instance of a run: the entries of `instances` in summary.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simjax.engine.host.result import NEVER, Result
from simjax.metrics.catalog.metric import Column, Metric, always, catalog_of, ratio
from simjax.metrics.handover.legs import first_legs, second_legs
from simjax.metrics.steps import leap_durations


def of_instances(result: Result, name: str) -> np.ndarray:
    """An array of a result over its N instances, by name: the one place that knows where the result keeps them."""
    return getattr(result.instances, name)


def of_ranks(result: Result, name: str) -> np.ndarray:
    """An array of a result over all ranks of its instances, by name."""
    return of_instances(result, name) if result.ranks is None else getattr(result.ranks.totals, name)


@dataclass(frozen=True)
class Instances:
    """One run, seen instance by instance.

    Attributes:
        result: the run.
        span_s: seconds from the first arrival to the last finish; 0 when no request finished.
    """

    result: Result
    span_s: float

    @property
    def count(self) -> int:
        """The number N of instances."""
        return len(of_instances(self.result, "num_blocks"))

    def recorded(self, name: str) -> np.ndarray:
        """An array of the result, number[N]; whole numbers as int64."""
        values = of_instances(self.result, name)
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    @cached_property
    def prefilled_by(self) -> np.ndarray:
        """The instance that each request's prompt is computed on, int32[R]."""
        return first_legs(self.result).instance

    def total(self, values: np.ndarray | int, which: np.ndarray | bool = True, by: np.ndarray | None = None) -> np.ndarray:
        """The sum of whole numbers over the requests of each instance, int64[N].

        Args:
            values: whole numbers [R], or one for all requests.
            which: bool[R], the requests that count.
            by: int32[R], the instance that a request counts for; None for the one that gives its tokens.
        """
        by = self.result.requests.instance if by is None else by
        mine = (by >= 0) & (by < self.count) & which
        totals = np.zeros(self.count, np.int64)
        np.add.at(totals, by[mine], np.broadcast_to(values, mine.shape)[mine])
        return totals

    def served(self, which: np.ndarray | bool = True) -> np.ndarray:
        """The number of requests of each instance, int64[N]; one that is handed over counts for both of its instances."""
        return self.total(1, which) + self.total(1, second_legs(self.result) & which, self.prefilled_by)

    def total_finished(self, name: str, by: np.ndarray | None = None) -> np.ndarray:
        """The sum of an array of the log over the finished requests of each instance, int64[N]; `by` as of `total`."""
        return self.total(getattr(self.result.requests, name), self.result.requests.finished, by)

    def active(self, name: str) -> Column:
        """An array of the activity that the run recorded (`sim.activity`), number[N]; known where an instance took a step."""
        return Column(self.recorded(name), self.recorded("step_tokens_max") > 0)

    def busy_fraction(self) -> Column:
        """The share of the span with a step under way, float64[N], of ranks the mean; known of a run with a leap log or its activity."""
        leaps = self.result.leaps
        if not self.span_s:
            return Column(np.zeros(self.count), np.zeros(self.count, bool))
        if leaps is None:
            busy = self.active("busy_s")
            return Column(busy.values / self.span_s, busy.known)
        took, ranks = leap_durations(leaps), self.result.ranks
        busy_s = np.array([took[leaps.instance == i].sum() for i in range(self.count)])
        return always(busy_s / (1 if ranks is None else np.bincount(ranks.instance)) / self.span_s, np)

    def hit_fraction(self) -> Column:
        """Cached over prompt tokens of the requests that have been scheduled, float64[N]."""
        requests = self.result.requests
        scheduled = requests.scheduled_s != NEVER
        cached, prompt = (self.total(tokens, scheduled, self.prefilled_by) for tokens in (requests.cached_tokens, requests.prompt_tokens))
        return ratio(cached, prompt, np)


INSTANCE_CATALOG = catalog_of(
    [
        Metric("requests", "", None, "requests", lambda x, xp: always(x.served(), xp), whole=True),
        Metric("finished", "", "higher", "requests finished", lambda x, xp: always(x.served(x.result.requests.finished), xp), whole=True),
        Metric(
            "prompt_tokens",
            "",
            None,
            "prompt tokens",
            lambda x, xp: always(x.total_finished("prompt_tokens", x.prefilled_by), xp),
            whole=True,
        ),
        Metric("output_tokens", "", None, "output tokens", lambda x, xp: always(x.total_finished("output_tokens"), xp), whole=True),
        Metric("preemptions", "", "lower", "preemptions", lambda x, xp: always(x.total(x.result.requests.preemptions), xp), whole=True),
        Metric("busy_fraction", "fraction", None, "busy", lambda x, xp: x.busy_fraction()),
        Metric("prefill_tokens", "", None, "prefill tokens", lambda x, xp: x.active("prefill_tokens"), whole=True),
        Metric("decode_tokens", "", None, "decode tokens", lambda x, xp: x.active("decode_tokens"), whole=True),
        Metric("num_blocks", "", None, "KV blocks", lambda x, xp: always(x.recorded("num_blocks"), xp), whole=True),
        Metric(
            "peak_used_fraction",
            "fraction",
            None,
            "peak KV use",
            lambda x, xp: always(x.recorded("peak_blocks") / np.maximum(x.recorded("num_blocks"), 1), xp),
        ),
        Metric("prefix_hit_fraction", "fraction", "higher", "cached prompt tokens", lambda x, xp: x.hit_fraction()),
        Metric(
            "evicted_blocks", "", "lower", "cached KV blocks evicted", lambda x, xp: always(x.recorded("evicted_blocks"), xp), whole=True
        ),
    ]
)
"""The metrics of an instance, by their keys in the entries of `instances`, in order. Their functions read an `Instances`."""
