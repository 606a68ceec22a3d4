"""Transfers of KV cache over links, which they share in equal parts or use one after the other.

The table of flows changes at the start and the end of a flow only: what is left of every flow is reduced by its rate times the time since
the last change, then all rates are renewed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf


@dataclass(eq=False)
class Transfer:
    """The KV cache of a request on its way. `landed_s` is inf until the end of its flow is known.

    `left` bytes flow at `rate`, over `links` of finite capacity; `fixed_s` passes between the end of the flow and the landing.
    """

    request: int
    bytes: float = 0.0
    start_s: float | None = None
    landed_s: float = inf
    links: tuple[int, ...] = ()
    fixed_s: float = 0.0
    left: float = 0.0
    rate: float = 0.0
    end_s: float = inf  # of the flow, if no other starts or ends before


class Links:
    """Links by index, with their capacities in bytes per second, and the flows on them in order of start."""

    def __init__(self, capacity: Sequence[float], fifo: bool):
        self.capacity = capacity
        self.fifo = fifo
        self.flows: list[Transfer] = []
        self.changed_s = 0.0  # when the table of flows changed last
        self.free_at = [0.0] * len(capacity)

    def narrowest(self, path: Sequence[int]) -> float:
        return min((self.capacity[link] for link in path), default=inf)

    def start(self, transfer: Transfer, now: float, left: float, path: Sequence[int], fixed_s: float) -> None:
        """Start to move `left` bytes. Nothing, and anything over links without limit, is there at once but for the fixed time."""
        transfer.start_s, transfer.left, transfer.fixed_s = now, left, fixed_s
        transfer.links = tuple(link for link in path if self.capacity[link] < inf)
        assert len(set(transfer.links)) == len(transfer.links), "a path uses a link twice"
        if left <= 0 or not transfer.links:
            transfer.landed_s = now + fixed_s
        elif self.fifo:
            transfer.start_s = max(now, *(self.free_at[link] for link in transfer.links))
            end_s = transfer.start_s + left / self.narrowest(transfer.links)
            for link in transfer.links:
                self.free_at[link] = end_s
            transfer.landed_s = end_s + fixed_s
        else:
            self._advance(now)
            self.flows.append(transfer)
            self._renew()

    def next_end_s(self) -> float:
        return min((flow.end_s for flow in self.flows), default=inf)

    def end(self, now: float) -> None:
        """End the flow that ends now; of several the one that started first."""
        flow = min(self.flows, key=lambda flow: flow.end_s)
        self._advance(now)
        assert abs(flow.left) <= 1e-9 * max(flow.bytes, 1.0), "a flow has moved other bytes than its own"
        self.flows.remove(flow)
        flow.landed_s = now + flow.fixed_s
        self._renew()

    def _advance(self, now: float) -> None:
        for flow in self.flows:
            flow.left -= flow.rate * (now - self.changed_s)
        self.changed_s = now

    def _renew(self) -> None:
        count = [sum(link in flow.links for flow in self.flows) for link in range(len(self.capacity))]
        for flow in self.flows:
            flow.rate = min(self.capacity[link] / count[link] for link in flow.links)
            flow.end_s = self.changed_s + max(flow.left, 0.0) / flow.rate
        for link, capacity in enumerate(self.capacity):
            used = sum(flow.rate for flow in self.flows if link in flow.links)
            assert used <= capacity * (1 + 1e-12), "the flows on a link exceed its capacity"
