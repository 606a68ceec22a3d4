"""Instances of several data-parallel ranks: their API servers, each of which picks the rank of a request by its own view, as vLLM's do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, inf

from tests.reference.instance import Live, RefEngine, RefInstance
from tests.reference.speculation import uniform


@dataclass(frozen=True)
class RefBalancer:
    """The instances of a cluster and the rules of their load balancers.

    `instances`: ranks of each instance, which follow each other; `api_servers`: of each; `publishes`: whether its coordinator publishes
    what its ranks do. `weighs_in_flight`: vLLM 0.28 and later. Snapshots are taken at the multiples of `interval_s`, but not at 0.
    """

    instances: tuple[int, ...]
    api_servers: tuple[int, ...]
    publishes: tuple[bool, ...]
    weighs_in_flight: bool
    interval_s: float = 0.1
    seed: int = 0

    def deployed(self, engines: Sequence[RefEngine]) -> list[Deployed]:
        assert sum(self.instances) == len(engines)
        rest, found = list(engines), []
        for index, size in enumerate(self.instances):
            found.append(Deployed(index, rest[:size], self))
            rest = rest[size:]
        return found


@dataclass(eq=False)
class ApiServer:
    """One API server. Of each rank it knows waiting and running requests, the use of the KV cache, and what it has sent there itself."""

    ranks: list[RefEngine]
    clients: int
    start: int
    waiting: dict[RefEngine, int] = field(default_factory=dict)
    running: dict[RefEngine, int] = field(default_factory=dict)
    kv_usage: dict[RefEngine, float] = field(default_factory=dict)
    sent: dict[RefEngine, list[Live]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sent = {rank: [] for rank in self.ranks}
        self.told(dict.fromkeys(self.ranks, 0), dict.fromkeys(self.ranks, 0), dict.fromkeys(self.ranks, 0.0))

    def told(self, waiting: dict[RefEngine, int], running: dict[RefEngine, int], kv_usage: dict[RefEngine, float]) -> None:
        self.waiting, self.running, self.kv_usage = dict(waiting), dict(running), dict(kv_usage)

    def score(self, rank: RefEngine, weighs_in_flight: bool) -> float:
        waiting, running = self.waiting[rank], self.running[rank]
        if not weighs_in_flight:
            return 4 * waiting + running
        in_flight = sum(not live.ended for live in self.sent[rank])
        score = float(max(self.clients * in_flight, waiting + running))
        if waiting > 0:
            score += 6.0 * waiting * max(0.0, self.kv_usage[rank] - 0.5)
        return score

    def pick(self, weighs_in_flight: bool) -> RefEngine:
        """The rank of the lowest score, the first one from the start; the choice is added to what is waiting there."""
        best, lowest = None, inf
        for k in range(len(self.ranks)):
            rank = self.ranks[(self.start + k) % len(self.ranks)]
            score = self.score(rank, weighs_in_flight)
            if score < lowest:
                best, lowest = rank, score
        assert best is not None
        if weighs_in_flight:
            self.start = (self.start + 1) % len(self.ranks)
        self.waiting[best] += self.clients
        return best


class Deployed:
    """An instance in front of its ranks, as a router sees it: the sum of what they have."""

    def __init__(self, index: int, ranks: list[RefEngine], rules: RefBalancer):
        self.index, self.ranks, self.rules = index, ranks, rules
        clients, count = rules.api_servers[index], len(ranks)
        self.servers = [ApiServer(ranks, clients, start=count * c // clients) for c in range(clients)]

    @property
    def config(self) -> RefInstance:
        """Limits, which all ranks share."""
        return self.ranks[0].config

    def num_waiting(self) -> int:
        return sum(rank.num_waiting() for rank in self.ranks)

    def num_running(self) -> int:
        return sum(rank.num_running() for rank in self.ranks)

    def kv_tokens(self) -> int:
        return sum(rank.kv_tokens() for rank in self.ranks)

    def publish(self) -> None:
        """Tell all API servers what the ranks do now."""
        if not self.rules.publishes[self.index]:
            return
        waiting, running = {rank: rank.num_waiting() for rank in self.ranks}, {rank: rank.num_running() for rank in self.ranks}
        size = self.config.num_blocks * self.config.block_size
        kv_usage = {rank: min(rank.held_tokens() / size, 1.0) for rank in self.ranks}
        for server in self.servers:
            server.told(waiting, running, kv_usage)

    def send(self, live: Live) -> RefEngine:
        """Give a request to the rank that the API server which it reaches has picked."""
        first = self.ranks[0].index
        server = self.servers[floor(uniform(self.rules.seed, live.index, -1 - first) * len(self.servers))]
        rank = server.pick(self.rules.weighs_in_flight)
        rank.enqueue(live)
        server.sent[rank].append(live)
        return rank


Front = RefEngine | Deployed


def ranks_of(front: Front) -> list[RefEngine]:
    return front.ranks if isinstance(front, Deployed) else [front]


def enqueue(front: Front, live: Live) -> RefEngine:
    """Give a request to what the router has picked; the rank that gets it."""
    if isinstance(front, Deployed):
        return front.send(live)
    front.enqueue(live)
    return front
