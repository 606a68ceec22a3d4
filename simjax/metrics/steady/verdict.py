"""The verdict on one run in words."""

from __future__ import annotations

from dataclasses import dataclass

from simjax.engine.host.result import Result
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.slo import NO_LIMITS


@dataclass(frozen=True)
class Verdict:
    """Whether a run has come to a steady state.

    Attributes:
        steady: whether it has; None if it is too short to tell.
        saturated_per_s: requests/s that it serves while its queue grows; None where the queue does not.
        line: a warning for the reader of the numbers, None where there is nothing to say.
    """

    steady: bool | None
    saturated_per_s: float | None
    line: str | None


def verdict_of(runs: Runs) -> Verdict:
    """The verdict on the one run of `runs`."""
    found = runs.steadiness
    steady = bool(found.steady[0]) if found.decided[0] else None
    growth, served = float(found.backlog_growth_per_s[0]), float(found.saturated_per_s[0])
    saturated = served if steady is False and served > 0 else None
    load_s, stay_s = float((runs.measured.sent_s - runs.measured.first_s)[0]), float(runs.measured.stay_s[0])
    line = None
    if steady is False:
        about = f"; capacity is about {saturated:.3g} requests/s" if saturated is not None else ""
        line = f"not steady: the backlog grows by {growth:.2g} requests a second{about}. Latencies depend on how long the run is"
    elif steady is None and runs.results[0].stationary and stay_s > 0:
        number = "num_requests" if runs.results[0].sessions is None else "num_sessions"
        line = (
            f"too short to tell whether the load is steady: requests are sent for {load_s:.4g} s and stay for {stay_s:.3g} s, or the load "
            f"is at the edge of what can be served; raise workload.{number} or workload.duration_s"
        )
    return Verdict(steady, saturated, line)


def is_undecided(result: Result) -> bool:
    """Whether a run is too short to say if it is steady."""
    return verdict_of(Runs.of([result], [NO_LIMITS], [1])).steady is None
