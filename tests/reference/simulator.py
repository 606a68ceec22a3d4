"""The cluster: a router and an event loop over instances. `simulate` is the entry point.

Events are handled in time order. At equal times: replies to clients, then arrivals (by request index), then instances (by index). An
instance's event is atomic: the end of its step and the formation that follows. A request sent at the very time of a reply is therefore
routed after the formation of the instance that replied, and before the events that instances of a higher index have at that time. The
router's view follows from that order: of the formations at the time of an arrival it sees only those that led to the arrival.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from tests.reference.balancer import Deployed, Front, RefBalancer, enqueue
from tests.reference.group_handover import HandoverGroup, HandoverMember
from tests.reference.groups import Cadence, Group, LockstepRank, PriorityMember
from tests.reference.instance import Live, RefEngine, RefInstance
from tests.reference.pipeline import PipelineRank
from tests.reference.priority import PriorityRank
from tests.reference.records import RefActivity, RefOutcome, RefRequest, RefResult
from tests.reference.routing import RefRouter, Routing, View, names_of
from tests.reference.speculating_groups import SpeculatingGroup, SpeculatingMember
from tests.reference.speculating_pipeline import SpeculatingPipelineRank
from tests.reference.speculation import SpeculatingRank
from tests.reference.tiered import TieredLeg, TieredRank
from tests.reference.tiers import ChunkPool
from tests.reference.urgent_drafts import UrgentSpeculatingRank

if TYPE_CHECKING:
    from tests.reference.handover import RefHandover


class Cluster:
    """The state of a run."""

    def __init__(
        self,
        instances: Sequence[RefInstance],
        requests: Sequence[RefRequest],
        router: RefRouter,
        concurrency: int | None,
        think_s: float,
        max_concurrency: int | None = None,
        ramp_s: float = 0.0,
        balancer: RefBalancer | None = None,
    ):
        assert max_concurrency is None or (max_concurrency >= 1 and concurrency is None and not any(x.waits_for for x in requests))
        assert think_s >= 0 and (concurrency is None or concurrency >= 1)
        assert concurrency is None or not any(request.waits_for for request in requests), "a closed loop or sessions, not both"
        self.engines = _engines(instances)
        self.units = units_of(self.engines)
        self.balancer, self.num_snapshots = balancer, 0
        self.fronts = self._fronts()
        self.requests = requests
        self.routing = Routing(router, requests)
        self.closed_loop = concurrency is not None
        self.think_s = think_s
        self.max_concurrency, self.ramp_s, self.last_reply_s = max_concurrency, ramp_s, -inf
        # What clients will send, and when. In a closed loop any client may send any request: they are numbered in the order they are sent.
        self.sends = [(request.arrival_s, index) for index, request in enumerate(requests[:concurrency]) if not request.waits_for]
        heapq.heapify(self.sends)
        self.num_sent = 0
        self.followers: dict[int, list[int]] = {index: [] for index in range(len(requests))}
        for index, request in enumerate(requests):
            for before in {before for before, _ in request.waits_for}:
                self.followers[before].append(index)
        self.replies: list[tuple[float, int, int, int]] = []  # (client time, instance, running number, request)
        self.num_replies = 0
        self.reply_s: dict[int, float] = {}
        self.arrival_s: dict[int, float] = {}
        self.live: dict[int, tuple[Live, RefEngine]] = {}  # routed requests

    @property
    def view(self) -> View | None:
        return self.routing.view

    @property
    def home(self) -> dict[int, Front]:
        return self.routing.home

    def _fronts(self) -> list[Front]:
        """What the router chooses from."""
        return list(self.engines) if self.balancer is None else list(self.balancer.deployed(self.engines))

    def run(self, max_steps: int) -> None:
        clock = -inf
        while sum(len(engine.ended) for engine in self.engines) < max_steps:
            now, handle = min(self._next_events(), key=lambda event: event[0])  # on ties the first
            if now == inf:
                self._check_end()
                return
            snapshot_s = inf if self.balancer is None else (self.num_snapshots + 1) * self.balancer.interval_s
            if snapshot_s <= now:  # first of all that happens at a time
                now, handle = snapshot_s, self._handle_snapshot
            assert now >= clock, "time runs backwards"
            clock = now
            handle(now)

    def _next_events(self) -> list[tuple[float, Callable[[float], None]]]:
        """The next event of every kind, in the order in which those of one time are handled."""
        unit = min(self.units, key=lambda unit: unit.next_event_s())  # on ties the lowest index
        return [
            (self.replies[0][0] if self.replies else inf, self._handle_reply),
            (self._next_send_s(), self._handle_send),
            (unit.next_event_s(), lambda now: self._handle_instance(unit, now)),
        ]

    def _handle_snapshot(self, now: float) -> None:
        self.num_snapshots += 1
        for front in self.fronts:
            assert isinstance(front, Deployed)
            front.publish()

    def _handle_reply(self, now: float) -> None:
        _, _, _, index = heapq.heappop(self.replies)
        self._answered(now, index)

    def _handle_send(self, now: float) -> None:
        _, index = heapq.heappop(self.sends)
        self._route(now, self.num_sent if self.closed_loop else index)
        self.num_sent += 1

    def _handle_instance(self, unit: RefEngine | Group, now: float) -> None:
        for request in unit.advance(now):
            _, engine = self.live[request.index]
            self._reply(now + engine.config.api_post_s, engine.index, request.index)

    def _check_end(self) -> None:
        for engine in self.engines:
            engine.pool.check_all_free()

    def _next_send_s(self) -> float:
        """When the next request is sent. With a cap that is when its time has come and fewer requests are in flight than the cap allows.

        The cap is 1 at first and one more every `ramp_s / max_concurrency`, so it allows one more than `in_flight` from
        `in_flight * ramp_s / max_concurrency` on; and a number in flight that has just fallen did so at the last reply.
        """
        if not self.sends or self.num_sent == len(self.requests):
            return inf
        due_s, _ = self.sends[0]
        if self.max_concurrency is None:
            return due_s
        in_flight = self.num_sent - len(self.reply_s)
        if in_flight == self.max_concurrency:
            return inf
        return max(due_s, self.last_reply_s, self.ramp_s * in_flight / self.max_concurrency)

    def _reply(self, client_s: float, instance: int, index: int) -> None:
        heapq.heappush(self.replies, (client_s, instance, self.num_replies, index))
        self.num_replies += 1

    def _answered(self, now: float, index: int) -> None:
        """A client gets a reply: it sends the requests that wait for it, or, in a closed loop, the next request after its think time."""
        self.reply_s[index] = self.last_reply_s = now
        if self.closed_loop:
            heapq.heappush(self.sends, (now + self.think_s, 0))
        for follower in self.followers[index]:
            waits_for = self.requests[follower].waits_for
            if all(before in self.reply_s for before, _ in waits_for):
                answers = [self.reply_s[before] + delay_s for before, delay_s in waits_for]
                heapq.heappush(self.sends, (max(*answers, self.requests[follower].not_before_s), follower))

    def _route(self, now: float, index: int) -> None:
        request = self.requests[index]
        self.arrival_s[index] = now
        self.routing.look(now, self.fronts)
        eligible = [front for front in self.fronts if front.config.serves(request.prompt_tokens, request.output_tokens, request.model)]
        if not eligible:  # refused at once; it does not count as routed
            self._reply(now, -1, index)
            return
        front = self.routing.pick(index, eligible)
        config = front.config
        names = names_of(request, index, config.block_size, config.names_ahead) if config.enable_prefix_caching else []
        kind = Live if config.tier is None else TieredLeg
        live = kind(index, request.prompt_tokens, request.output_tokens, now + config.api_pre_s, names, priority=request.priority)
        self.live[index] = (live, enqueue(front, live))

    def close_calls(self) -> int:
        """Choices of routers that the rounding of their scores decides."""
        return self.routing.close_calls

    def outcome(self, index: int) -> RefOutcome:
        if index not in self.arrival_s:
            return RefOutcome("unfinished")
        if index not in self.live:
            return RefOutcome("rejected", arrival_s=self.arrival_s[index])
        live, engine = self.live[index]
        tokens = tuple(time + engine.config.api_post_s for time in live.token_times_s)
        loads = {name: getattr(live, name) for name in ("tier_hit_tokens", "load_start_s", "load_end_s") if isinstance(live, TieredLeg)}
        return RefOutcome(
            status="finished" if live.ended else "unfinished",
            instance=engine.index,
            arrival_s=self.arrival_s[index],
            scheduled_s=live.scheduled_s,
            first_token_s=tokens[0] if tokens else None,
            finish_s=tokens[-1] if live.ended else None,
            preemptions=live.preemptions,
            in_vain=live.in_vain,
            token_times_s=tokens,
            cached_tokens=live.cached_tokens,
            **loads,
        )


def _engines(instances: Sequence[RefInstance]) -> list[RefEngine]:
    """The ranks; those whose tiers have the same number share a pool."""
    pools: dict[int, ChunkPool] = {}
    engines: list[RefEngine] = []
    for index, config in enumerate(instances):
        if (tier := config.tier) is None:
            engines.append(_kind(config)(index, config))
            continue
        assert not (config.pipeline or config.speculation or config.group) and config.scheduling_policy == "fcfs", config
        shared = None if tier.pool is None else pools.setdefault(tier.pool, ChunkPool(tier.num_chunks, tier.store_threshold))
        engines.append(TieredRank(index, config, tier, tier.empty_pass_s, shared))
    return engines


def _kind(config: RefInstance) -> type[RefEngine]:
    if config.group:
        if config.scheduling_policy == "priority":
            return PriorityMember
        return SpeculatingMember if config.speculation else LockstepRank
    if config.scheduling_policy == "priority":
        assert config.pipeline is None
        return UrgentSpeculatingRank if config.speculation else PriorityRank
    if config.pipeline:
        return SpeculatingPipelineRank if config.speculation else PipelineRank
    return SpeculatingRank if config.speculation else RefEngine


def units_of(engines: Sequence[RefEngine]) -> list:
    """What has events of its own: groups, and engines that are in none; in order of their lowest index."""
    groups: dict[int, list] = {}
    for engine in engines:
        if engine.config.group is not None:
            groups.setdefault(engine.config.group.number, []).append(engine)
    alone = [(engine.index, engine) for engine in engines if engine.config.group is None]
    together = [(ranks[0].index, _group(ranks)) for ranks in groups.values()]
    return [unit for _, unit in sorted([*alone, *together], key=lambda unit: unit[0])]


def _group(ranks: list) -> Group | HandoverGroup:
    if isinstance(ranks[0], SpeculatingMember):
        return SpeculatingGroup(ranks)
    return HandoverGroup(ranks) if isinstance(ranks[0], HandoverMember) else Group(ranks)


def simulate(
    instances: Sequence[RefInstance],
    requests: Sequence[RefRequest],
    policy: str = "round_robin",
    concurrency: int | None = None,
    think_s: float = 0.0,
    max_steps: int = 1_000_000,
    *,
    prefix_weight: float = 1.0,
    queue_weight: float = 1.0,
    kv_weight: float = 1.0,
    router_staleness_s: float = 0.0,
    max_concurrency: int | None = None,
    ramp_s: float = 0.0,
    handover: RefHandover | None = None,
    balancer: RefBalancer | None = None,
    **costs: float,
) -> RefResult:
    """Run `requests` through a cluster of `instances` behind one router (see `RefRouter`).

    Open loop (`concurrency` None): every request arrives at its `arrival_s`, or after those that it waits for; with `max_concurrency` a
    client whose requests wait, in order, while as many are in flight, a cap that grows evenly from 1 over `ramp_s`. Closed loop: the first
    `concurrency` requests arrive at theirs, and each reply at the client sends the next one `think_s` later. The run stops when there are
    no more events or when `max_steps` steps have ended in the cluster. `handover`: of a cluster with prefill and decode instances.
    `balancer`: of one whose instances have several ranks; `instances` are then ranks, and so are those of the result.
    `costs`: those of the dynamo router, by their names in `RefRouter`.
    """
    router = RefRouter(policy, prefix_weight, queue_weight, kv_weight, router_staleness_s, **costs)  # pyright: ignore[reportArgumentType]
    clients = (concurrency, think_s, max_concurrency, ramp_s, balancer)
    if handover is None:
        assert all(instance.role == "both" for instance in instances), "a cluster with roles needs a hand-over"
        cluster = Cluster(instances, requests, router, *clients)
    else:
        cluster = handover.cluster(instances, requests, router, *clients)
    cluster.run(max_steps)
    return result_of(cluster)


def result_of(cluster: Cluster) -> RefResult:
    """What a cluster has done so far."""
    steps = sorted((step for engine in cluster.engines for step in engine.ended), key=lambda step: (step.start_s, step.instance))
    outcomes = [cluster.outcome(index) for index in range(len(cluster.requests))]
    activity = [RefActivity.of(engine.ended) for engine in cluster.engines]
    evictions, copies = ([getattr(x.pool, name) for x in cluster.engines] for name in ("evictions", "copies"))
    lookups = [x.lookups for x in cluster.engines]
    dummies = [engine.dummies if isinstance(engine, Cadence) else [] for engine in cluster.engines]
    ties = sum(x.num_ties() for x in cluster.engines)
    return RefResult(activity, outcomes, steps, evictions, copies, lookups, ties, dummies, cluster.close_calls())
