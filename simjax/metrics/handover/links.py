"""The use of links by transfers of KV cache, of many runs at once and over time.

The rate of a transfer is taken to be even from its start to the end of its bytes; in the engine it changes when others come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from simjax.engine.host.ranks import by_rank
from simjax.engine.host.result import Result
from simjax.metrics.handover.parts import handed_over

BIN_S = 1.0
"""Width of the bins over which the peak use of a link is a mean."""


@dataclass(frozen=True)
class LinkUse:
    """Transfers on the links of B runs, all links side by side: those of run b are `first[b]` to `first[b + 1]`.

    Attributes:
        first: int64[B + 1].
        capacity: float64[L], bytes per second; infinite for what is no link.
        link: int64[F], link of each crossing of a link by a transfer.
        start_s, end_s: float64[F], time at which its first and last byte are on the way.
        bytes: float64[F].
    """

    first: np.ndarray
    capacity: np.ndarray
    link: np.ndarray
    start_s: np.ndarray
    end_s: np.ndarray
    bytes: np.ndarray

    @staticmethod
    def of(results: Sequence[Result]) -> LinkUse:
        """The transfers of runs that have hand-overs and pools."""
        found: list[tuple[np.ndarray, ...]] = []
        capacities, first = [], [0]
        for result in map(by_rank, results):
            log, pools = result.handovers, result.pools
            assert log is not None and pools is not None
            moved = np.flatnonzero(handed_over(result.requests, log) & (log.transfer_bytes > 0))
            source, target = log.prefill_instance[moved], result.requests.instance[moved]
            start, size = log.transfer_start_s[moved], log.transfer_bytes[moved]
            fixed = pools.setup_s[source, target] + pools.per_byte_s[source, target] * size
            end = np.maximum(log.transfer_end_s[moved] - fixed, start)
            path = pools.path[source, target]
            which, place = np.nonzero(np.isfinite(pools.capacity[path]))
            found.append((path[which, place] + first[-1], start[which], end[which], size[which]))
            capacities.append(pools.capacity)
            first.append(first[-1] + len(pools.capacity))
        link, start, end, size = (np.concatenate(column) for column in zip(*found, strict=True))
        return LinkUse(np.array(first), np.concatenate(capacities), link.astype(np.int64), start, end, size)

    @cached_property
    def moved_bytes(self) -> np.ndarray:
        """Bytes that each link has carried, float64[L]."""
        return np.bincount(self.link, self.bytes, len(self.capacity))

    @cached_property
    def most_transfers(self) -> np.ndarray:
        """Most transfers on each link at once, int64[L]; one that ends as another starts is not counted with it."""
        links, steps = np.concatenate([self.link, self.link]), np.repeat([-1, 1], len(self.link))
        order = np.argsort(np.concatenate([self.end_s, self.start_s]), kind="stable")  # of equal times, ends come first
        narrow = np.uint16 if len(self.capacity) < 2**16 else np.int64  # numpy sorts short integers by their digits
        order = order[np.argsort(links[order].astype(narrow), kind="stable")]
        most = np.zeros(len(self.capacity), np.int64)
        np.maximum.at(most, links[order], np.cumsum(steps[order]))  # each link ends at 0, so that the sum begins anew with the next
        return most

    def in_bins(self, start_s: float | np.ndarray, width_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bytes by link and bin, only of pairs where there are any: (link int64[K], bin int64[K], bytes float64[K]).

        Bin k covers `start_s + k * width_s` to the next, with one start or one for each crossing, float64[F]; a transfer of no length is
        in the bin of its start.
        """
        low, high = (self.start_s - start_s) / width_s, (self.end_s - start_s) / width_s
        span = np.floor(high).astype(np.int64) - np.floor(low).astype(np.int64) + 1
        of = np.repeat(np.arange(len(low)), span)
        bins = np.floor(low[of]).astype(np.int64) + np.arange(len(of)) - np.repeat(np.cumsum(span) - span, span)
        took = high - low
        inside = np.minimum(high[of], bins + 1.0) - np.maximum(low[of], bins)
        part = np.where(took[of] > 0, inside / np.where(took[of] > 0, took[of], 1.0), 1.0)
        wide = bins.max(initial=0) + 1
        keys, where = np.unique(self.link[of] * wide + bins, return_inverse=True)
        return keys // wide, keys % wide, np.bincount(where, self.bytes[of] * part, len(keys))

    @cached_property
    def peak_bytes_per_s(self) -> np.ndarray:
        """Highest mean rate of each link over a bin of `BIN_S`, float64[L]; the first bin begins with the run's first transfer."""
        peak = np.zeros(len(self.capacity))
        run = np.searchsorted(self.first, self.link, side="right") - 1
        begin = np.full(len(self.first), np.inf)
        np.minimum.at(begin, run, self.start_s)
        link, _, moved = self.in_bins(begin[run], BIN_S)
        np.maximum.at(peak, link, moved / BIN_S)
        return peak

    def of_busiest(self, values: np.ndarray) -> np.ndarray:
        """The largest of values [L] in each run: [B]."""
        return np.maximum.reduceat(values, self.first[:-1])
