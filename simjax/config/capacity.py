"""The schema of `simjax capacity`.

OmegaConf wants real types, not annotations in strings; None is an unset option.
"""

import math
from dataclasses import dataclass

from simjax.config.schema import SimulatedConfig
from simjax.config.sweep import SweepConfig
from simjax.errors import SimjaxError
from simjax.options.option import option, section

MOST_SEEDS = 256
"""Most workloads of a capacity search."""
PRECISION, FEW = 0.02, 16
"""Precision of a search for which none is given, and the number of designs up to which it holds."""


@dataclass
class SearchConfig:
    """The search for the highest rate that a design holds, or for the fewest instances that hold a rate."""

    rate: float | None = option(
        None, "requests/s (of sessions: starts/s) to serve: the answer is the fewest instances; unset: the highest rate of each design"
    )
    attainment: float = option(0.99, "share of the measured requests that must meet every slo.* limit: 0.99 holds the P99 under each")
    tolerance: float = option(0.01, "relative width of the bracket in which a search ends")
    seeds: int = option(4, f"workloads, from workload.seed on, on which a rate is tried, up to {MOST_SEEDS}; some traces have one only")
    precision: float | None = option(
        None,
        "half the width of the interval, relative, for which workloads are added, up to 16 times capacity.seeds; inf: none are; unset: "
        f"{PRECISION:g} for up to {FEW} designs",
    )
    level: float = option(0.9, "probability of the interval over the workloads")
    num_requests: int | None = option(
        None, f"requests of a workload (of sessions: sessions); unset: 16 times as many as fit at once, for more than {FEW} designs 8 times"
    )
    low: float | None = option(None, "least rate that is tried, requests/s; unset: a five-hundredth of the saturated throughput")
    high: float | None = option(None, "highest rate that is tried, requests/s; unset: until a rate does not pass")
    max_instances: int = option(64, "most instances that are tried with capacity.rate")

    def __post_init__(self) -> None:
        for name in ("rate", "low", "high"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SimjaxError(f"capacity.{name}={value}: it must be a positive rate in requests/s")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise SimjaxError(f"capacity.low={self.low:g} and capacity.high={self.high:g}: the first must be below the second")
        if not 0 < self.attainment <= 1:
            raise SimjaxError(f"capacity.attainment={self.attainment}: it must be a share in (0, 1], such as 0.99")
        if not 0.001 <= self.tolerance <= 0.5:
            raise SimjaxError(f"capacity.tolerance={self.tolerance}: it must be a relative width from 0.001 to 0.5, such as 0.01")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise SimjaxError(f"capacity.seeds={self.seeds}: it must be 1 to {MOST_SEEDS}")
        if self.precision is not None and not self.precision > 0:
            raise SimjaxError(f"capacity.precision={self.precision}: it must be a positive relative width, such as 0.02")
        if not 0 < self.level < 1:
            raise SimjaxError(f"capacity.level={self.level}: it must lie in (0, 1), such as 0.9")
        if self.num_requests is not None and self.num_requests < 16:
            raise SimjaxError(f"capacity.num_requests={self.num_requests}: it must be at least 16")
        if self.max_instances < 1:
            raise SimjaxError(f"capacity.max_instances={self.max_instances}: it must be at least 1")


@dataclass
class CapacityConfig(SimulatedConfig):
    """`simjax capacity`."""

    capacity: SearchConfig = section(SearchConfig, "the search")
    sweep: SweepConfig = section(SweepConfig, "many designs in one call, all combinations of the swept values")
