"""A cluster with prefill and decode ranks: requests with two legs, and the hand-over between them.

Events are handled in time order. At equal times: ends of flows, then second legs at the router (by request index), then replies and
arrivals, then ranks (by index). An event of a rank is a pass of its loop, or the end of one and the pass that follows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from tests.reference.balancer import Front, enqueue
from tests.reference.group_handover import HandoverGroup, HandoverMember
from tests.reference.headroom import Headroom
from tests.reference.instance import RefInstance
from tests.reference.legs import Leg
from tests.reference.rank import Rank
from tests.reference.records import RefOutcome, RefRequest
from tests.reference.routing import RefRouter, Routing, names_of
from tests.reference.simulator import Cluster, units_of
from tests.reference.speculating_legs import SpeculatingLegs, SpeculatingLegsMember
from tests.reference.transfers import Links, Transfer

CONNECTORS = {
    "nixl": {},
    "nixl_push": {},
    "mooncake": {"reserve": "with"},
    "p2p_nccl": {"stream": "layer"},
    "sglang": {"reserve": "before", "stream": "chunk", "carried": True, "headroom": Headroom()},
}


@dataclass(frozen=True)
class RefHandover:
    """The rules of a hand-over and the links that it uses. Tables are [prefill rank][decode rank].

    `path`: links between two ranks; those of infinite capacity take no time. `fifo`: transfers use a link one after the other.
    `reserve`: when the decode rank gets the request: "after" its prefill, "with" the prefill rank, or "before" it, which then waits until
    blocks are reserved. `stream`: what is sent during the prefill: "none", each "layer" or each "chunk" of the prompt.
    `carried`: the prefill's token is the client's first one, and the decode rank does not compute the last prompt token again.
    `headroom`: what decode ranks keep free beside what they reserve; None: what vLLM's scheduler does.
    `decode_first`: the decode rank is picked when a request arrives, and so it is if it may get prompts of its own: those of which fewer
    than `local_prefill_tokens` tokens and less than the part `local_prefill_ratio` are not cached there.
    `decode_policy`, `decode_weights`: as in `RefRouter`. Both routers have one view, and the same costs but for the credit: that of decode
    ranks gives none.
    """

    bytes_per_token: Sequence[Sequence[float]]
    setup_s: Sequence[Sequence[float]]
    per_block_s: Sequence[Sequence[float]]
    path: Sequence[Sequence[Sequence[int]]]
    capacity: Sequence[float]
    layers: Sequence[float] = ()  # of each rank's model; used by stream "layer"
    handover_s: float = 0.0
    empty_pass_s: float = 1e-3
    fifo: bool = False
    decode_first: bool = False
    local_prefill_tokens: float = 0.0
    local_prefill_ratio: float = 1e9
    reserve: str = "after"
    stream: str = "none"
    carried: bool = False
    headroom: Headroom | None = None
    decode_policy: str = "round_robin"
    decode_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        assert self.reserve in ("after", "with", "before") and self.stream in ("none", "layer", "chunk"), self
        assert self.handover_s >= 0, self

    @property
    def picks_decode_first(self) -> bool:
        return self.decode_first or self.local_prefill_tokens > 0 or self.reserve != "after"

    def prefills_locally(self, prompt_tokens: int, hit_tokens: int) -> bool:
        missing = prompt_tokens - hit_tokens
        return missing < self.local_prefill_tokens and missing / prompt_tokens < self.local_prefill_ratio

    def bytes_left(self, total: float, layers: float, streamed_s: float, narrowest: float, last_bytes: float) -> float:
        """Bytes not yet sent at the end of a prefill, which began `streamed_s` before and computed `last_bytes` in its last step."""
        if self.stream == "layer":
            return max(total / layers, total - narrowest * streamed_s) if streamed_s > 0 else total
        return min(total, last_bytes) if self.stream == "chunk" else total

    def cluster(self, instances: Sequence[RefInstance], requests: Sequence[RefRequest], router: RefRouter, *clients) -> HandoverCluster:
        return HandoverCluster(self, instances, requests, router, *clients)


@dataclass(eq=False)
class Pair:
    """A request with two legs."""

    transfer: Transfer
    prefill: tuple[Leg, Rank] | None = None
    decode: tuple[Leg, Rank] | None = None
    decode_front: Front | None = None  # once it is picked
    blocks: int | None = None  # to be moved, once the decode rank has reserved them


def _kind(config: RefInstance) -> type[Rank]:
    if config.speculation:
        return SpeculatingLegsMember if config.group else SpeculatingLegs
    return HandoverMember if config.group else Rank


class HandoverCluster(Cluster):
    """The state of a run. `live` has the requests of one leg, `pairs` those of two."""

    engines: list[Rank]

    def __init__(
        self, handover: RefHandover, instances: Sequence[RefInstance], requests: Sequence[RefRequest], router: RefRouter, *clients
    ):
        super().__init__(instances, requests, router, *clients)
        roles = {instance.role for instance in instances}
        assert {"prefill", "decode"} <= roles, "a hand-over needs prefill and decode ranks"
        self.handover = handover
        kinds = [_kind(config) for config in instances]
        each = enumerate(zip(kinds, instances, strict=True))
        self.engines = [kind(index, config, handover.empty_pass_s, self._reserved) for index, (kind, config) in each]
        for engine in self.engines:
            engine.headroom = handover.headroom
        self.units = units_of(self.engines)
        self.together: list[Pair] | None = None  # those whose transfers begin at the end of a group's event
        policy, (prefix, queue, kv) = handover.decode_policy, handover.decode_weights
        decode = replace(router, policy=policy, prefix_weight=prefix, queue_weight=queue, kv_weight=kv, overlap_credit=0.0, second=True)
        self.fronts = self._fronts()
        self.decode_routing = Routing(decode, requests, self.routing.watch)
        self.links = Links(handover.capacity, handover.fifo)
        self.pairs: dict[int, Pair] = {}
        self.second: list[tuple[float, int]] = []  # when second legs reach the router

    # ---- events

    def _next_events(self) -> list[tuple[float, Callable[[float], None]]]:
        flows = (self.links.next_end_s(), self.links.end)
        second = (self.second[0][0] if self.second else inf, self._handle_second)
        *clients, ranks = super()._next_events()
        ranks = (inf, ranks[1]) if self._stuck([flows, second, *clients]) else ranks
        return [flows, second, *clients, ranks]

    def _stuck(self, others: list[tuple[float, Callable[[float], None]]]) -> bool:
        """Whether nothing is left but passes that run nothing, for ever."""
        if any(time < inf for time, _ in others):
            return False
        for unit in self.units:
            ranks = unit.ranks if isinstance(unit, HandoverGroup) else [unit]
            awaited = [leg for rank in ranks for leg in rank.loads + rank.holds if not leg.told and leg.transfer.landed_s < inf]
            busy = any(rank.incoming or rank.num_running() for rank in ranks)
            if busy or (unit.due_s is not None and (awaited or unit.idle <= 3)):
                return False
        return True

    def _handle_instance(self, unit: Rank | HandoverGroup, now: float) -> None:
        """An event of a rank, or of a group, whose transfers begin in the order of their requests."""
        self.together = [] if isinstance(unit, HandoverGroup) else None
        for leg in unit.advance(now):
            engine = self._rank_of(leg)
            if leg.holds:
                self._prefilled(leg, engine, now)
            else:
                self._reply(now + engine.config.api_post_s, engine.index, leg.index)
        ready, self.together = self.together or [], None
        for pair in sorted(ready, key=lambda pair: pair.transfer.request):
            self._start_transfer(pair, now)

    def _rank_of(self, leg: Leg) -> Rank:
        if leg.index in self.live:
            return self.live[leg.index][1]
        pair = self.pairs[leg.index]
        found = pair.prefill if leg.holds else pair.decode
        assert found is not None
        return found[1]

    def _prefilled(self, leg: Leg, rank: Rank, now: float) -> None:
        pair = self.pairs[leg.index]
        if self.handover.reserve == "after":
            heapq.heappush(self.second, (now + rank.config.api_post_s + self.handover.handover_s, leg.index))
        elif pair.blocks is not None:
            self._start_transfer(pair, now)

    def _reserved(self, leg: Leg, blocks: int, now: float) -> None:
        pair = self.pairs[leg.index]
        pair.blocks = blocks
        if self.handover.reserve == "before":
            heapq.heappush(self.second, (now + self.handover.handover_s, leg.index))
        elif pair.prefill is not None and pair.prefill[0].end_s is not None:
            self._start_transfer(pair, now)

    def _start_transfer(self, pair: Pair, now: float) -> None:
        if self.together is not None:
            self.together.append(pair)
            return
        assert pair.prefill is not None and pair.decode is not None and pair.blocks is not None
        (leg, source), (_, target), rules = pair.prefill, pair.decode, self.handover
        i, j, path = source.index, target.index, rules.path[source.index][target.index]
        assert leg.scheduled_s is not None and leg.end_s is not None
        token_bytes = rules.bytes_per_token[i][j]
        total = pair.blocks * target.config.block_size * token_bytes
        layers = rules.layers[i] if rules.layers else 1.0
        streamed_s = leg.end_s - leg.scheduled_s
        left = rules.bytes_left(total, layers, streamed_s, self.links.narrowest(path), leg.last_new * token_bytes)
        pair.transfer.bytes = total
        self.links.start(pair.transfer, now, left, path, rules.setup_s[i][j] + pair.blocks * rules.per_block_s[i][j])

    def _check_end(self) -> None:
        """A rank that has nothing but blocks which were read does not look: they stay held.

        Ranks may also wait for each other's blocks for ever.
        """
        stuck = any(rank.waiting or rank.loads for rank in self.engines)
        for rank in self.engines:
            assert stuck or all(leg.transfer.landed_s < inf for leg in rank.holds), "a hold waits for a transfer that does not come"
            holders = {leg.index for leg in rank.holds} | {leg.index for leg in rank.loads}
            assert set(rank.pool.held) <= holders, "a block did not come back"

    # ---- routing

    def _route(self, now: float, index: int) -> None:
        request, rules = self.requests[index], self.handover
        self.arrival_s[index] = now
        self.routing.look(now, self.fronts)
        first, decode = self._eligible(request)
        if not first and not (decode and rules.local_prefill_tokens > 0):
            self._reply(now, -1, index)
            return
        picked = self._choose(self.decode_routing, index, decode) if rules.picks_decode_first and decode else None
        if picked is not None:
            view = self.decode_routing.view
            assert view is not None
            if rules.prefills_locally(request.prompt_tokens, self.decode_routing.hit_tokens(picked, index, view)):
                self.decode_routing.went(index, picked)
                self.live[index] = self._enqueue(index, picked, now)
                return
        if not first:
            self._reply(now, -1, index)
            return
        pair = Pair(Transfer(index), decode_front=picked)
        if rules.reserve == "before":
            assert picked is not None
            self.decode_routing.went(index, picked)
            self.pairs[index] = pair
            self._enqueue_decode(pair, now)
            return
        rank = self._pick(self.routing, index, first)
        if rank.config.role == "both":
            self.live[index] = self._enqueue(index, rank, now)
            return
        self.pairs[index] = pair
        if picked is not None:
            self.decode_routing.went(index, picked)
        if rules.reserve == "with":
            self._enqueue_decode(pair, now)
        self._enqueue_prefill(pair, rank, now)

    def _handle_second(self, now: float) -> None:
        _, index = heapq.heappop(self.second)
        pair, (first, decode) = self.pairs[index], self._eligible(self.requests[index])
        self.routing.look(now, self.fronts)
        if self.handover.reserve == "before":
            self._enqueue_prefill(pair, self._pick(self.routing, index, first), now)
            return
        if pair.decode_front is None:
            pair.decode_front = self._pick(self.decode_routing, index, decode)
        self._enqueue_decode(pair, now)

    def _eligible(self, request: RefRequest) -> tuple[list[Front], list[Front]]:
        """The ranks that the router of arrivals chooses from, and those for a second leg."""
        prompt_tokens, output_tokens, model = request.prompt_tokens, request.output_tokens, request.model
        whole = [rank for rank in self.fronts if rank.config.serves(prompt_tokens, output_tokens, model)]
        decode = [rank for rank in whole if rank.config.role == "decode" and self._keeps_headroom(rank, request)]
        prefill = [rank for rank in self.fronts if rank.config.role == "prefill" and rank.config.prefills(prompt_tokens, model)]
        both = [rank for rank in whole if rank.config.role == "both" and self.handover.reserve != "before"]
        return sorted((prefill if decode else []) + both, key=lambda rank: rank.index), decode

    def _keeps_headroom(self, rank: Front, request: RefRequest) -> bool:
        headroom, config = self.handover.headroom, rank.config
        return headroom is None or headroom.fits(request.prompt_tokens, request.output_tokens, config.num_blocks * config.block_size)

    @staticmethod
    def _choose(routing: Routing, index: int, eligible: Sequence[Front]) -> Front:
        return routing.choose(index, eligible)

    def _pick(self, routing: Routing, index: int, eligible: Sequence[Front]) -> Front:
        rank = self._choose(routing, index, eligible)
        routing.went(index, rank)
        return rank

    def _enqueue(self, index: int, rank: Front, now: float, output_tokens: int | None = None, **more) -> tuple[Leg, Rank]:
        request = self.requests[index]
        names = names_of(request, index, rank.config.block_size, rank.config.names_ahead) if rank.config.enable_prefix_caching else []
        output_tokens = request.output_tokens if output_tokens is None else output_tokens
        leg = Leg(index, request.prompt_tokens, output_tokens, now + rank.config.api_pre_s, names, **more)
        taker = enqueue(rank, leg)
        assert isinstance(taker, Rank)
        return leg, taker

    def _enqueue_prefill(self, pair: Pair, rank: Front, now: float) -> None:
        pair.prefill = self._enqueue(pair.transfer.request, rank, now, output_tokens=1, holds=True, transfer=pair.transfer)

    def _enqueue_decode(self, pair: Pair, now: float) -> None:
        rank = pair.decode_front
        assert rank is not None, "the decode rank has not been picked"
        more = {"loads": True, "prefilled": True, "carried": self.handover.carried}
        pair.decode = self._enqueue(pair.transfer.request, rank, now, transfer=pair.transfer, **more)

    # ---- results

    def close_calls(self) -> int:
        return super().close_calls() + self.decode_routing.close_calls

    def outcome(self, index: int) -> RefOutcome:
        if index not in self.pairs:
            return super().outcome(index)
        pair = self.pairs[index]
        values: dict = {"status": "unfinished", "arrival_s": self.arrival_s[index]}
        if pair.prefill is not None:
            leg, rank = pair.prefill
            values |= {"scheduled_s": leg.scheduled_s, "cached_tokens": leg.cached_tokens, "prefill_instance": rank.index}
            values |= {"prefill_scheduled_s": leg.scheduled_s, "prefill_finish_s": leg.end_s, "prefill_cached_tokens": leg.cached_tokens}
        if pair.transfer.start_s is not None:
            landed_s = pair.transfer.landed_s
            values |= {"transfer_start_s": pair.transfer.start_s, "transfer_bytes": pair.transfer.bytes}
            values |= {"transfer_end_s": landed_s if landed_s < inf else None}
        if pair.decode is not None:
            leg, rank = pair.decode
            tokens = tuple(time + rank.config.api_post_s for time in leg.token_times_s)
            before = 0 if pair.prefill is None else pair.prefill[0].preemptions
            values |= {"instance": rank.index, "preemptions": before + leg.preemptions, "token_times_s": tokens}
            values |= {"decode_scheduled_s": leg.scheduled_s, "decode_cached_tokens": leg.cached_tokens}
            values |= {"first_token_s": tokens[0] if tokens else None, "finish_s": tokens[-1] if leg.ended else None}
            values["status"] = "finished" if leg.ended else "unfinished"
        return RefOutcome(**values)
