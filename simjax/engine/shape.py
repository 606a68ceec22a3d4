"""The static part: the compile key of the engine. Everything else is traced, so that changing it recompiles nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

_SYSTEM = "system"

REQUEST_BUCKETS = (512, 4_096, 16_384, 32_768, 131_072)
CAP_BUCKETS = (256, 1_024, 4_096, 16_384)


def system(default: Any) -> Any:
    """The declaration of a size or flag that is zero or off where a subsystem does not exist."""
    return field(default=default, metadata={_SYSTEM: True})


@dataclass(frozen=True)
class EngineShape:
    """Array sizes and the subsystems that exist.

    Attributes:
        requests: R, padded number of requests.
        slots: S, requests a rank can hold at once: at least the largest `max_num_seqs`, with room for finished ones on their way out.
        ranks: N.
        window: W, waiting requests a tick looks at; a formation that admits more continues in the next tick.
        clients: C, most requests in flight of a closed loop or of a client with a cap; 0 when arrivals are known (open loop).
        capped: whether the requests have a schedule, which a client with a cap on its requests in flight keeps to as far as it can.
        prefix_nodes: M, nodes of the tree of the requests' contents; 0 when no rank caches prefixes.
        prefix_path: P, prefix nodes of the longest path through that tree.
        prefix_room: factor of the tables of a prefix cache; one that proves too small ends the run, with an overflow in the state.
        fanout: D, most calls that wait for one call; 0 when there are no sessions.
        models: whether requests name the model that they are for, and ranks have different ones.
        stale_view: whether the router's view of the ranks may be old.
        router_books: whether a router compares the ranks by its own books of their requests, or by their queues: `dynamo`, `llm_d`.
        live_routing: whether the router looks at the cluster when a request arrives. Without it every request's rank is known before the
            run (one rank, or round robin or random in an open loop), arrivals are no events of their own, and the router's stage is empty.
        several_ranks: whether some instance has several ranks, so that ranks know which instance they are of.
        api_servers: A, API servers of the instance that has most, where instances balance the load of their ranks; 0 where none does:
            the router then chooses among ranks.
        tight: whether the slots may be fewer than the limits ask for: a rank that needs more ends the run, with an overflow in the state.
        leap: whether pure-decode steps are taken many at a time; ranks of several pp stages take them one by one.
        priorities: whether ranks schedule by the priorities of requests, which differ.
        pipeline_stages: J, pp stages of the rank that has most; 0 where no rank has more than one.
        speculation: U, drafts of a step that the table of acceptance rates has room for; 0 where no rank decodes speculatively. Steps are
            then taken one by one.
        groups: G, groups of ranks that step together; 0 where every rank steps by itself. Where there are any, every rank is in one.
        group_ranks: D, ranks of the largest group.
        lone_ranks: whether some of these groups are ranks that step by themselves.
        handovers: K, requests that can be on their way from prefill to decode ranks at once; 0 where every rank runs both phases.
        links: X, links of their transfers.
        headroom: whether decode ranks may keep tokens free beside what they reserve.
        kv_tiers: whether there are tiers behind the KV caches.
        tier_jobs: K, pieces of copies of a rank that can be under way at once.
        tier_room: factor of the tables of a tier; one that proves too small ends the run, with an overflow in the state.
        activity: whether busy seconds, tokens by phase and extremes of the steps are accumulated in the state.
        power: whether the energy of the devices is accumulated in the state.
        side_by_side: whether the tick is that of several designs at once; `run_batch` sets it.
        log_rows: ticks whose leaps are logged before the host collects them; 0 keeps no log.
    """

    requests: int
    slots: int
    ranks: int
    window: int = 4
    clients: int = system(0)
    capped: bool = system(False)
    prefix_nodes: int = system(0)
    prefix_path: int = 0
    prefix_room: int = 1
    fanout: int = system(0)
    models: bool = system(False)
    stale_view: bool = system(False)
    router_books: bool = system(False)
    live_routing: bool = system(False)
    several_ranks: bool = system(False)
    api_servers: int = system(0)
    tight: bool = False
    leap: bool = system(True)
    priorities: bool = system(False)
    pipeline_stages: int = system(0)
    speculation: int = system(0)
    groups: int = system(0)
    group_ranks: int = 0
    lone_ranks: bool = system(False)
    handovers: int = system(0)
    links: int = 0
    headroom: bool = system(False)
    kv_tiers: bool = system(False)
    tier_jobs: int = 0
    tier_room: int = 1
    activity: bool = system(False)
    power: bool = system(False)
    side_by_side: bool = False
    log_rows: int = 4_096

    def __post_init__(self) -> None:
        if (self.clients or self.fanout) and not self.live_routing:
            raise ValueError("closed loops, caps and sessions make their arrivals while they run: they need live_routing")
        if self.handovers and not self.live_routing:
            raise ValueError("requests reach their decode rank while a cluster runs: hand-overs need live_routing")
        if self.api_servers and not (self.live_routing and self.several_ranks):
            raise ValueError("an internal load balancer has ranks to choose from when a request arrives: it needs live_routing")
        if self.clients and self.fanout:
            raise ValueError("a workload is a closed loop of clients or made of sessions, not both")
        if self.headroom and not self.handovers:
            raise ValueError("headroom is kept beside the KV caches that come: it needs hand-overs")
        if self.pipeline_stages and self.handovers:
            raise ValueError("pp stages go with no hand-overs")
        if self.lone_ranks and not self.groups:
            raise ValueError("lone_ranks are those beside groups: groups must not be 0")
        if self.groups and self.pipeline_stages:
            raise ValueError("groups go with no pp stages")
        if self.priorities and (self.pipeline_stages or self.handovers or self.router_books):
            raise ValueError("priorities go with neither pp stages nor hand-overs nor books of a router")
        if self.priorities and self.speculation and self.groups:
            raise ValueError("priorities with speculative decoding go with no groups")
        if self.priorities and self.window != 2:
            raise ValueError("by priority a tick admits one request and sees the next: window must be 2")
        if self.kv_tiers and not self.prefix_nodes:
            raise ValueError("KV tiers hold named blocks: they need prefix caches")
        if self.kv_tiers and (self.handovers or self.groups or self.pipeline_stages or self.speculation or self.priorities):
            raise ValueError("KV tiers go with neither hand-overs nor groups nor pp stages nor speculation nor priorities")
        if self.power and (self.pipeline_stages or self.groups):
            raise ValueError("power goes with neither pp stages nor groups")
        if self.capped and not self.clients:
            raise ValueError("a client with a cap needs seats: clients must not be 0")
        if self.prefix_nodes and self.window != 2:
            raise ValueError("with prefix caching a tick admits one request and sees the next: window must be 2")

    @property
    def systems(self) -> tuple[bool, ...]:
        """Which subsystems exist: programs of a batch agree in them."""
        return tuple(bool(getattr(self, x.name)) for x in fields(self) if _SYSTEM in x.metadata)

    @property
    def batches(self) -> int:
        """Q, most batches that a rank of pp stages has in flight: one a stage, and one more if scheduling is asynchronous."""
        return self.pipeline_stages + 1

    @property
    def seats(self) -> int:
        """A, length of the slot arrays: a window may be written at the last slot without running over."""
        return self.slots + self.window

    @property
    def prefix_entries(self) -> int:
        """E, runs of blocks that a prefix cache can hold: as many as prefix nodes and requests, those again for copies and parts."""
        return 2 * self.prefix_room * (self.prefix_nodes + self.requests)

    @property
    def prefix_holds(self) -> int:
        """Z, runs that requests can hold at once, each counted as often as it is held."""
        return self.prefix_room * (self.seats + self.handovers) * min(self.prefix_path + 2, 16)

    @property
    def tier_entries(self) -> int:
        """Runs of blocks and marks of requests that a tier can hold."""
        return 2 * self.tier_room * (self.prefix_nodes + self.requests)

    @property
    def tier_copies(self) -> int:
        """Pieces of copies that can be under way."""
        return self.tier_room * self.tier_jobs

    @property
    def tier_spans(self) -> int:
        """Spans of blocks that a request has used, apart from each other."""
        return 4 * self.tier_room

    @property
    def tier_watched(self) -> int:
        """Runs whose blocks a step takes while copies may read them."""
        return 32 * self.prefix_room

    @property
    def has_routes(self) -> bool:
        """Whether each rank has a list of its requests; otherwise the one rank serves them in their order."""
        return self.ranks > 1 or self.fanout > 0 or self.priorities


def bucket(n: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds n; beyond the last one, the next multiple of it."""
    for size in buckets:
        if n <= size:
            return size
    return int(-(-n // buckets[-1]) * buckets[-1])


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def requests_bucket(n: int) -> int:
    """R for a workload of n requests."""
    return bucket(n, REQUEST_BUCKETS)


def cap_bucket(n: int) -> int:
    """C for a client with at most n requests in flight: coarse, so that another cap is rarely another program."""
    return bucket(n, CAP_BUCKETS)


def seat_bucket(n: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, ... that is at least n."""
    power = power_of_two(max(n, 16))
    return 3 * power // 4 if n <= 3 * power // 4 and power > 16 else power


def slots_for(max_num_seqs: int, requests: int, window: int) -> int:
    """S for a limit of running requests, with room for finished ones on their way out; in buckets, so that limits share programs."""
    return min(seat_bucket(max_num_seqs), requests) + 2 * max(window, 8)
