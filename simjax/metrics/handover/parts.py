"""The parts of the time to first token of requests that are prefilled on one instance and decoded on another."""

from __future__ import annotations

import numpy as np

from simjax.engine.host.result import NEVER, HandoverLog, RequestLog

PARTS = {"queue": "queue", "prefill": "prefill", "handover": "hand-over", "transfer": "transfer", "first_decode": "first decode step"}
"""The parts in order, as tables and figures print them."""


def handed_over(requests: RequestLog, handovers: HandoverLog) -> np.ndarray:
    """Which requests finished after a transfer from a prefill to a decode instance: bool[..., R]."""
    return requests.finished & (handovers.prefill_instance >= 0) & (handovers.transfer_end_s != NEVER)


def ttft_parts(requests: RequestLog, handovers: HandoverLog) -> dict[str, np.ndarray]:
    """The parts of the time to first token by the names of `PARTS`, float64[..., R] in seconds; they add up to it.

    Queue: arrival to the first step on the prefill instance; prefill: to the end of the step that gave its token; hand-over: to the start
    of the transfer (the proxy, the queue of the decode instance, its wait for free blocks, its next step); transfer: until all has landed;
    first decode step: until the client has the token. `NEVER` where `handed_over` is false.
    """
    there = handed_over(requests, handovers)
    ends = (
        *(requests.arrival_s, requests.scheduled_s, handovers.prefill_finish_s),
        *(handovers.transfer_start_s, handovers.transfer_end_s, requests.first_token_s),
    )
    times = [np.where(there, end, 0.0) for end in ends]
    return {name: np.where(there, times[i + 1] - times[i], NEVER) for i, name in enumerate(PARTS)}
