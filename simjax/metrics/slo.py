"""Limits on latencies (service-level objectives), and which requests meet them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.metrics.latency import Latencies, statistics
from simjax.workload.classes import RequestClasses

if TYPE_CHECKING:
    from simjax.metrics.catalog.runs import Runs


@dataclass(frozen=True)
class Slo:
    """Upper limits in seconds; `NEVER` (infinity) is no limit.

    Attributes:
        ttft_s: limit on the time to first token.
        tpot_s: limit on the time per output token; a request with one output token meets any limit.
        e2e_s: limit on the end-to-end latency.
    """

    ttft_s: float = NEVER
    tpot_s: float = NEVER
    e2e_s: float = NEVER

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            if not getattr(self, name) > 0:
                raise SimjaxError(f"slo.{name}={getattr(self, name)}: a latency limit must be a positive number of seconds")

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        named = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2e_s": self.e2e_s}
        return {name: limit for name, limit in named.items() if limit != NEVER}


def limited(slo: Slo | None, classes: RequestClasses | None) -> bool:
    """Whether some requests have limits: all of them, or those of a class."""
    return slo is not None or (classes is not None and any(classes.limits))


def by_class(runs: Runs) -> dict[str, dict[str, Any]]:
    """What the requests of each class of one run got, by the name of the class.

    Counts, latencies and goodput are of the requests that the metrics of the run count: those that arrived in the measurement window, and
    for goodput those that finished in it. A class has `limits`, `attained` and so on only where it has limits, or the run has.
    """
    (result,), (slo,), lat, part = runs.results, runs.slos, runs.latencies, runs.measured
    classes, found = result.classes, {}
    assert classes is not None
    for k, name in enumerate(classes.names):
        arrived = (classes.index == k) & part.arrived[0]
        counted = arrived & lat.finished[0]
        own: dict[str, Any] = {"requests": int(arrived.sum()), "finished": int(counted.sum())}
        for latency, there in (("ttft_s", counted), ("tpot_s", arrived & lat.has_tpot[0]), ("e2e_s", counted)):
            own[latency] = statistics(getattr(lat, latency)[0][there])
        limits = {**slo.limits(), **classes.limits[k]}
        if limits:
            met = runs.good[0] & arrived
            good, span_s = int((runs.good & runs.measured.finished)[0][classes.index == k].sum()), float(part.span_s[0])
            own |= {
                "limits": {limit: min(value, slo.limits().get(limit, NEVER)) for limit, value in limits.items()},
                "attained": int(met.sum()),
                "attainment_fraction": float(met.sum() / arrived.sum()) if arrived.any() else None,
                "goodput_requests_per_s": good / span_s if span_s > 0 else None,
            }
        found[name] = own
    return found


NO_LIMITS = Slo()
"""Limits that every finished request meets."""


def meets(lat: Latencies, ttft_s: float | np.ndarray, tpot_s: float | np.ndarray, e2e_s: float | np.ndarray) -> dict[str, np.ndarray]:
    """Which requests finished within each limit, by the limit's name: bool[..., R].

    Args:
        lat: latencies of the requests, arrays [..., R].
        ttft_s: limit in seconds, a number or an array [B, 1] for B runs.
        tpot_s: limit likewise.
        e2e_s: limit likewise.
    """
    return {
        "ttft_s": lat.finished & (lat.ttft_s <= ttft_s),
        "tpot_s": lat.finished & (~lat.has_tpot | (lat.tpot_s <= tpot_s)),
        "e2e_s": lat.finished & (lat.e2e_s <= e2e_s),
    }
