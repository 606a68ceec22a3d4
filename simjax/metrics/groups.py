"""What the requests of each group of a mixed cluster got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simjax.metrics.latency import statistics

if TYPE_CHECKING:
    from simjax.metrics.catalog.runs import Runs


def by_group(runs: Runs) -> dict[str, dict[str, Any]]:
    """What the requests got that the instances of each group of one run gave their tokens, by the name of the group.

    Counts and latencies are of the requests that arrived in the measurement window, `output_tokens_per_s` of those that finished in it.
    With prefill and decode instances a request counts for the one that decodes it; prefill instances have no requests here, and what they
    add to TTFT is in `disaggregation`.
    """
    (result,), lat, part = runs.results, runs.latencies, runs.measured
    groups, log, found = result.alike_instances, result.requests, {}
    assert groups is not None
    of_request = np.where(log.instance >= 0, groups.index[np.maximum(log.instance, 0)], -1)
    span_s = float(part.span_s[0])
    for g, name in enumerate(groups.names):
        mine = of_request == g
        arrived = mine & part.arrived[0]
        counted = arrived & lat.finished[0]
        tokens = int(log.output_tokens[mine & part.finished[0]].sum())
        own: dict[str, Any] = {"instances": np.flatnonzero(groups.index == g).tolist()}
        own |= {"requests": int(arrived.sum()), "finished": int(counted.sum())}
        for latency, there in (("ttft_s", counted), ("tpot_s", arrived & lat.has_tpot[0]), ("e2e_s", counted)):
            own[latency] = statistics(getattr(lat, latency)[0][there])
        found[name] = own | {"output_tokens_per_s": tokens / span_s if span_s > 0 else None}
    return found
