"""Limits on latencies (service-level objectives), and which requests meet them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.metrics.latency import Latencies


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
