"""Hand-overs in the files of a run: the section of summary.json, the columns of requests.csv, and links.csv."""

from __future__ import annotations

import numpy as np
import pandas as pd

from simjax.engine.host.result import NEVER, HandoverLog, Result
from simjax.metrics.catalog.metric import cells
from simjax.metrics.catalog.runs import Runs
from simjax.metrics.handover.links import LinkUse
from simjax.metrics.handover.parts import PARTS

_TIMES = ("prefill_finish_s", "transfer_start_s", "transfer_end_s", "decode_scheduled_s")


def disaggregation_summary(runs: Runs) -> dict[str, object]:
    """The section `disaggregation` of one run's summary, without the metrics of the catalogue, whose places it orders.

    `local_requests` finished on one instance. `ttft_share` are the parts of the mean TTFT of the requests that were handed over; they add
    up to 1. `links` has every link that carried something: its capacity, bytes in all, mean use over the run, mean use in its fullest
    second, and most transfers at once.
    """
    (result,) = runs.results
    assert result.handovers is not None
    means = {part: cells(runs.ttft_parts[part]["mean"])[0] for part in PARTS}
    whole = sum(mean for mean in means.values() if mean is not None)
    local = result.requests.finished & (result.handovers.prefill_instance < 0)
    return {
        "gpus": {},
        "transfers": None,
        "local_requests": int(local.sum()),
        "kv_bytes_moved": None,
        "ttft_s": {},
        "ttft_share": {part: None if mean is None or whole == 0 else mean / whole for part, mean in means.items()},
        "ttft_transfer_fraction": None,
        "link_use_fraction": None,
        "link_peak_use_fraction": None,
        "link_peak_transfers": None,
        "links": _links(runs),
    }


def _links(runs: Runs) -> list[dict[str, object]]:
    (result,), use, (duration_s,) = runs.results, runs.links, runs.clients.duration_s
    assert result.pools is not None
    return [
        {
            "link": result.pools.link_name(int(link)),
            "capacity_bytes_per_s": float(use.capacity[link]),
            "bytes": float(use.moved_bytes[link]),
            "use_fraction": float(use.moved_bytes[link] / use.capacity[link] / duration_s) if duration_s > 0 else None,
            "peak_use_fraction": float(use.peak_bytes_per_s[link] / use.capacity[link]),
            "peak_transfers": int(use.most_transfers[link]),
        }
        for link in np.unique(use.link)
    ]


def handover_columns(handovers: HandoverLog) -> dict[str, object]:
    """The further columns of requests.csv: -1, 0, or nothing where a request was not handed over."""
    moved = handovers.prefill_instance >= 0
    columns: dict[str, object] = {"prefill_instance": handovers.prefill_instance}
    for name in _TIMES:
        times = getattr(handovers, name)
        never = (times == NEVER) | ~moved
        columns[name] = pd.arrays.FloatingArray(np.where(never, 0.0, times), never)
    columns["transfer_bytes"] = np.where(np.isfinite(handovers.transfer_bytes) & moved, handovers.transfer_bytes, 0.0).astype(np.int64)
    columns["decode_cached_tokens"] = handovers.decode_cached_tokens
    return columns


def links_frame(result: Result, edges_s: np.ndarray) -> pd.DataFrame:
    """The use of every link that carried something, in bins: the rows of links.csv, sorted by link, then time.

    Args:
        result: a run with hand-overs.
        edges_s: float64[B+1], edges of bins of equal width in seconds.

    Returns:
        `t_s`, start of the bin; `link`, its name; `bytes_per_s`, mean rate of all transfers; `use_fraction`, the rate over the link's
        capacity.
    """
    assert result.pools is not None
    use, width, bins = LinkUse.of([result]), float(edges_s[1] - edges_s[0]), len(edges_s) - 1
    link, place, moved = use.in_bins(float(edges_s[0]), width)
    links, row = np.unique(link, return_inverse=True)
    table = np.zeros((len(links), bins))
    np.add.at(table, (row, np.clip(place, 0, bins - 1)), moved)
    names = np.array([result.pools.link_name(int(each)) for each in links], object)
    return pd.DataFrame(
        {
            "t_s": np.tile(edges_s[:-1], len(links)),
            "link": np.repeat(names, bins),
            "bytes_per_s": (table / width).ravel(),
            "use_fraction": (table / width / use.capacity[links][:, None]).ravel(),
        }
    )
