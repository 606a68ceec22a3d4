"""Closed-loop workloads: a fixed number of requests in flight, the next one sent when one finishes."""

from __future__ import annotations

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.workload import Workload


def closed_loop(
    prompt_tokens: np.ndarray,
    output_tokens: np.ndarray,
    concurrency: int,
    think_s: float = 0.0,
    ramp_s: float = 0.0,
    source: str = "closed loop",
) -> Workload:
    """A workload that keeps `concurrency` requests in flight until all R have been sent.

    Args:
        prompt_tokens: int[R], in the order in which the requests are sent.
        output_tokens: int[R], likewise.
        concurrency: number of requests in flight; more than R is the same as R.
        think_s: pause in seconds between a finish and the request that follows it.
        ramp_s: seconds over which the first `concurrency` requests are spread evenly, [0, ramp_s); 0 sends them all at 0.
        source: name of the workload.

    Raises:
        SimjaxError: concurrency below 1, or a negative time.
    """
    if concurrency < 1:
        raise SimjaxError(f"concurrency={concurrency}; a closed loop keeps at least 1 request in flight")
    for name, value in (("think_s", think_s), ("ramp_s", ramp_s)):
        if not (value >= 0 and np.isfinite(value)):
            raise SimjaxError(f"{name}={value:g}; it must not be negative")
    n = len(prompt_tokens)
    first = min(concurrency, n)
    arrival_s = np.full(n, np.inf)
    arrival_s[:first] = ramp_s * np.arange(first) / max(first, 1)
    return Workload(
        arrival_s=arrival_s,
        prompt_tokens=np.asarray(prompt_tokens, np.int32),
        output_tokens=np.asarray(output_tokens, np.int32),
        concurrency=first,
        think_s=float(think_s),
        source=source,
        stationary=True,
    ).validate()
