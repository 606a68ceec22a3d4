"""Observations of the clients of runs, in numpy or JAX: all that a metric with a derivative may read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from simjax.metrics.catalog.metric import Column, ratio


@dataclass(frozen=True)
class Clients:
    """Numbers of one run (`...` is no axis) or of B runs (`...` is B), arrays of numpy or JAX.

    Attributes:
        gpus: GPUs of the cluster, number[...].
        finished: number of requests that throughputs count (see `simjax.metrics.steady.window.Measured`), number[...].
        prompt_tokens, output_tokens: tokens of these, number[...].
        span_s: seconds over which they are counted, float64[...]; 0 where no request finished.
        served: number of all finished requests, number[...].
        duration_s: seconds from the first arrival to the last finish of the whole run, float64[...]; 0 where no request finished.
        latencies: statistics in seconds of "ttft", "tpot" and "e2e" over the requests that arrived within the window and have them, by the
            names of `simjax.metrics.latency.STATISTICS`.
    """

    gpus: Any
    finished: Any
    prompt_tokens: Any
    output_tokens: Any
    span_s: Any
    served: Any
    duration_s: Any
    latencies: Mapping[str, Mapping[str, Column]]

    def per_s(self, count: Any, xp: ModuleType) -> Column:
        """A count over the span, known where the span is not 0."""
        return ratio(count, self.span_s, xp)

    def per_s_and_gpu(self, count: Any, xp: ModuleType) -> Column:
        """A count over the span and the GPUs, known where the span is not 0."""
        rate = self.per_s(count, xp)
        return Column(rate.values / self.gpus, rate.known)
