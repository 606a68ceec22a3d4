"""Goodput: how much of the traffic met its latency targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import NEVER, Result
from simjax.errors import SimjaxError
from simjax.metrics.latency import Latencies, latencies


@dataclass(frozen=True)
class Slo:
    """Upper limits in seconds; `NEVER` (infinity) is no limit.

    Attributes:
        ttft_s: limit on the time to first token.
        tpot_s: limit on the time per output token; a request with one output token meets any.
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


def duration_s(result: Result) -> float | None:
    """Seconds from the first arrival to the last finish, None when nobody finished."""
    requests = result.requests
    if not requests.finished.any():
        return None
    return float(np.max(requests.finish_s[requests.finished]) - np.min(requests.arrival_s))


def meets(lat: Latencies, ttft_s: float | np.ndarray, tpot_s: float | np.ndarray, e2e_s: float | np.ndarray) -> dict[str, np.ndarray]:
    """Which requests finished within each limit, by the limit's name: bool[..., R]; limits of B runs are arrays [B, 1]."""
    return {
        "ttft_s": lat.finished & (lat.ttft_s <= ttft_s),
        "tpot_s": lat.finished & (~lat.has_tpot | (lat.tpot_s <= tpot_s)),
        "e2e_s": lat.finished & (lat.e2e_s <= e2e_s),
    }


def goodput(result: Result, slo: Slo, gpus: int | None = None) -> dict[str, object]:
    """SLO attainment over all requests and goodput in requests per second.

    Args:
        result: the run.
        slo: the limits; a request counts when it finished and meets all of them.
        gpus: when given, goodput per GPU is reported too.

    Returns:
        `limits`, `attained` (requests), `attainment_fraction` (of all requests, unfinished ones count as missed),
        `attainment_by_limit` (the fraction meeting each limit alone), `goodput_requests_per_s` (None when nobody finished)
        and, with `gpus`, `goodput_requests_per_s_per_gpu`.
    """
    lat = latencies(result.requests)
    met = meets(lat, slo.ttft_s, slo.tpot_s, slo.e2e_s)
    attained = int(np.sum(met["ttft_s"] & met["tpot_s"] & met["e2e_s"]))
    total, span = len(lat.finished), duration_s(result)
    rate = attained / span if span else None
    report: dict[str, object] = {
        "limits": slo.limits(),
        "attained": attained,
        "attainment_fraction": attained / total,
        "attainment_by_limit": {name: float(np.mean(met[name])) for name in slo.limits()},
        "goodput_requests_per_s": rate,
    }
    if gpus is not None:
        report["goodput_requests_per_s_per_gpu"] = None if rate is None else rate / gpus
    return report
