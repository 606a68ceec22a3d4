"""The router: it looks at the instances and picks one for a request."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import floor

from tests.reference.instance import RefEngine
from tests.reference.pool import Name, chain_names, count_known
from tests.reference.records import RefRequest

POLICIES = ("round_robin", "random", "least_loaded", "least_kv", "longest_prefix", "session_affinity", "weighted")


def names_of(request: RefRequest, index: int, block_size: int) -> list[Name]:
    """The names of all blocks that a request can fill."""
    token_ids: tuple[Hashable, ...] | None = request.content
    if token_ids is None:
        token_ids = tuple((index, position) for position in range(request.prompt_tokens + request.output_tokens))
    return chain_names(token_ids, block_size)


@dataclass(frozen=True)
class RefRouter:
    """Routing policy. The instance with the lowest score of those that can hold the request wins; ties are broken in turn.

    round_robin, random: no score. least_loaded: (4 waiting + running) / max_num_seqs. least_kv: `kv_tokens` / tokens that the pool holds.
    longest_prefix: minus the hit tokens that the request would have there now.
    session_affinity: the instance of the last sent call of the session; if there is none that can hold the request, as least_loaded.
    weighted: prefix_weight * (1 - hit tokens / prompt tokens) + queue_weight * least_loaded's score + kv_weight * least_kv's.
    The router's view of the instances is that of its last look: at an arrival (even one that is refused) it looks again before deciding,
    if that look is at least `staleness_s` old. Its own decisions it knows at once.
    """

    policy: str = "round_robin"
    prefix_weight: float = 1.0
    queue_weight: float = 1.0
    kv_weight: float = 1.0
    staleness_s: float = 0.0

    def __post_init__(self) -> None:
        assert self.policy in POLICIES, self.policy
        assert self.staleness_s >= 0, self


@dataclass(frozen=True)
class View:
    """The router's view of the instances, by index, at its last look."""

    time_s: float
    load: list[float]
    kv: list[float]
    known: list[frozenset[Name]]  # names in the prefix cache

    @staticmethod
    def of(engines: Sequence[RefEngine], now: float) -> View:
        return View(
            time_s=now,
            load=[(4 * engine.num_waiting() + engine.num_running()) / engine.config.max_num_seqs for engine in engines],
            kv=[engine.kv_tokens() / (engine.config.num_blocks * engine.config.block_size) for engine in engines],
            known=[frozenset(engine.pool.named) for engine in engines],
        )


class Routing:
    """A router at work."""

    def __init__(self, router: RefRouter, requests: Sequence[RefRequest]):
        self.router = router
        self.requests = requests
        self.num_routed = 0
        self.view: View | None = None
        self.home: dict[int, RefEngine] = {}  # the instance of the last sent call, by session

    def look(self, now: float, engines: Sequence[RefEngine]) -> View:
        if self.view is None or now - self.view.time_s >= self.router.staleness_s:
            self.view = View.of(engines, now)
        return self.view

    def pick(self, index: int, eligible: Sequence[RefEngine]) -> RefEngine:
        """The instance for a request among those that can hold it; one that cannot takes no part in the round."""
        request, count, view = self.requests[index], len(eligible), self.view
        assert view is not None, "the router has not looked"
        # Instances of one model take turns among themselves: a request's turn is its place among those that name the same model.
        named = any(other.model >= 0 for other in self.requests)
        turn = sum(other.model == request.model for other in self.requests[:index]) if named else self.num_routed
        start = floor(request.uniform * count) if self.router.policy == "random" else turn % count
        scores = {engine: self._score(engine, index, view) for engine in eligible}
        engine = min(eligible, key=lambda engine: (scores[engine], (eligible.index(engine) - start) % count))
        if self.router.policy == "session_affinity" and self.home.get(request.session) in eligible:
            engine = self.home[request.session]
        if request.session >= 0:
            self.home[request.session] = engine
        self.num_routed += 1
        return engine

    def _score(self, engine: RefEngine, index: int, view: View) -> float:
        router, prompt_tokens = self.router, self.requests[index].prompt_tokens
        if router.policy in ("least_loaded", "session_affinity"):
            return view.load[engine.index]
        if router.policy == "least_kv":
            return view.kv[engine.index]
        if router.policy == "longest_prefix":
            return -self.hit_tokens(engine, index, view)
        if router.policy == "weighted":
            missed = 1 - self.hit_tokens(engine, index, view) / prompt_tokens
            return router.prefix_weight * missed + router.queue_weight * view.load[engine.index] + router.kv_weight * view.kv[engine.index]
        return 0.0

    def hit_tokens(self, engine: RefEngine, index: int, view: View) -> int:
        """Hit tokens of a new request, as the instance would look them up."""
        block_size = engine.config.block_size
        request = self.requests[index]
        names = names_of(request, index, block_size)[: (request.prompt_tokens - 1) // block_size]
        return count_known(names, view.known[engine.index]) * block_size
