"""The router: it looks at the instances and picks one for a request."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import exp, floor

from tests.reference.balancer import Deployed, Front, ranks_of
from tests.reference.pool import Name, chain_names, count_known
from tests.reference.records import RefRequest

POLICIES = ("round_robin", "random", "least_loaded", "least_kv", "longest_prefix", "session_affinity", "weighted", "llm_d", "dynamo")
DRAWN = ("llm_d", "dynamo")
SCORE_GRID = 2.0**-20  # scores of drawn ranks are equal if they are so to this grid
CLOSE = 1e-9  # scores that are not equal and apart by less are so by rounding


def names_of(request: RefRequest, index: int, block_size: int, ahead: int = 0) -> list[Name]:
    """The names of all blocks that a request can fill."""
    token_ids: tuple[Hashable, ...] | None = request.content
    if token_ids is None:
        token_ids = tuple((index, position) for position in range(request.prompt_tokens + request.output_tokens))
    return chain_names(token_ids, block_size, ahead)


@dataclass(frozen=True)
class RefRouter:
    """Routing policy. The instance with the lowest score of those that can hold the request wins; ties are broken in turn.

    round_robin, random: no score. least_loaded: (4 waiting + running) / max_num_seqs. least_kv: `kv_tokens` / tokens that the pool holds.
    longest_prefix: minus the hit tokens that the request would have there now.
    session_affinity: the instance of the last sent call of the session; if there is none that can hold the request, as least_loaded.
    weighted: prefix_weight * (1 - hit tokens / prompt tokens) + queue_weight * least_loaded's score + kv_weight * least_kv's.
    llm_d: 2 * (1 - hit tokens / prompt tokens) + place of its queue between the shortest (0) and the longest (1) of the instances.
    dynamo: prefill_load_scale * max(0, blocks of prompts to prefill, with this one - overlap_credit * hit blocks) + blocks of the prompts
    of its active requests + active_weight * their number. The router's own books say what is active, so they are never old: a prompt is to
    be prefilled until its first token has come, and never if it comes with its KV cache.
    The last two draw the instance: evenly among those of the lowest score, dynamo at a `temperature` above 0 with odds that are softmax of
    -score / (temperature * (highest - lowest score)). With `second` a router has draws of its own.
    The router's view of the instances is that of its last look: at an arrival (even one that is refused) it looks again before deciding,
    if that look is at least `staleness_s` old. Its own decisions it knows at once.
    """

    policy: str = "round_robin"
    prefix_weight: float = 1.0
    queue_weight: float = 1.0
    kv_weight: float = 1.0
    staleness_s: float = 0.0
    prefill_load_scale: float = 1.0
    overlap_credit: float = 1.0
    active_weight: float = 0.0
    temperature: float = 0.0
    second: bool = False

    def __post_init__(self) -> None:
        assert self.policy in POLICIES, self.policy
        assert self.staleness_s >= 0, self


@dataclass(frozen=True)
class View:
    """The router's view of the instances, by index, at its last look."""

    time_s: float
    load: list[float]
    kv: list[float]
    known: list[list[frozenset[Name]]]  # names in the prefix caches of the ranks
    waiting: list[int]

    @staticmethod
    def of(engines: Sequence[Front], now: float) -> View:
        return View(
            time_s=now,
            load=[(4 * x.num_waiting() + x.num_running()) / (len(ranks_of(x)) * x.config.max_num_seqs) for x in engines],
            kv=[x.kv_tokens() / (len(ranks_of(x)) * x.config.num_blocks * x.config.block_size) for x in engines],
            known=[[frozenset(rank.pool.named) for rank in ranks_of(x)] for x in engines],
            waiting=[engine.num_waiting() for engine in engines],
        )


class Watch:
    """The view of the instances, which all routers of a cluster share; it is renewed when a request comes to one of them."""

    def __init__(self, staleness_s: float):
        self.staleness_s = staleness_s
        self.view: View | None = None

    def look(self, now: float, engines: Sequence[Front]) -> View:
        if self.view is None or now - self.view.time_s >= self.staleness_s:
            self.view = View.of(engines, now)
        return self.view


class Routing:
    """A router at work."""

    def __init__(self, router: RefRouter, requests: Sequence[RefRequest], watch: Watch | None = None):
        self.router = router
        self.requests = requests
        self.num_routed = 0
        self.close_calls = 0  # choices that the rounding of scores decides
        self.watch = watch or Watch(router.staleness_s)
        self.home: dict[int, Front] = {}  # the instance of the last sent call, by session

    @property
    def view(self) -> View | None:
        return self.watch.view

    def look(self, now: float, engines: Sequence[Front]) -> View:
        return self.watch.look(now, engines)

    def pick(self, index: int, eligible: Sequence[Front]) -> Front:
        """The instance that a request goes to."""
        engine = self.choose(index, eligible)
        self.went(index, engine)
        return engine

    def went(self, index: int, engine: Front) -> None:
        if self.requests[index].session >= 0:
            self.home[self.requests[index].session] = engine
        self.num_routed += 1

    def choose(self, index: int, eligible: Sequence[Front]) -> Front:
        """The instance for a request among those that can hold it; one that cannot takes no part in the round."""
        request, count, view = self.requests[index], len(eligible), self.view
        assert view is not None, "the router has not looked"
        # Instances of one model take turns among themselves: a request's turn is its place among those that name the same model.
        named = any(other.model >= 0 for other in self.requests)
        turn = sum(other.model == request.model for other in self.requests[:index]) if named else self.num_routed
        uniform = request.uniform * 2.0**26 % 1.0 if self.router.second else request.uniform  # the later digits
        start = floor(uniform * count) if self.router.policy == "random" else turn % count
        scores = {engine: self._score(engine, index, view, eligible) for engine in eligible}
        self.close_calls += any(0.0 < score - min(scores.values()) < CLOSE for score in scores.values())
        if self.router.policy in DRAWN:
            return self._drawn(scores, uniform)
        engine = min(eligible, key=lambda engine: (scores[engine], (eligible.index(engine) - start) % count))
        if self.router.policy == "session_affinity" and self.home.get(request.session) in eligible:
            engine = self.home[request.session]
        return engine

    def _drawn(self, scores: dict[Front, float], uniform: float) -> Front:
        grid = {engine: round(score / SCORE_GRID) for engine, score in scores.items()}
        temperature = self.router.temperature if self.router.policy == "dynamo" else 0.0
        least, width = min(grid.values()), temperature * (max(grid.values()) - min(grid.values()))
        odds = {engine: exp((least - x) / width) if width > 0 else float(x == least) for engine, x in grid.items()}
        drawn, up_to = uniform * sum(odds.values()), 0.0
        for engine, x in odds.items():
            up_to += x
            if up_to > drawn:
                return engine
        raise AssertionError("a draw is less than 1")

    def _score(self, engine: Front, index: int, view: View, eligible: Sequence[Front]) -> float:
        router, prompt_tokens = self.router, self.requests[index].prompt_tokens
        if router.policy == "dynamo":
            return self._cost(engine, index, view)
        if router.policy == "llm_d":
            queues = [view.waiting[other.index] for other in eligible]
            place = (view.waiting[engine.index] - min(queues)) / max(max(queues) - min(queues), 1)
            return 2.0 * (1 - self.hit_tokens(engine, index, view) / prompt_tokens) + place
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

    def _cost(self, engine: Front, index: int, view: View) -> float:
        router, size = self.router, engine.config.block_size
        assert not isinstance(engine, Deployed), "it chooses ranks"
        active = [live for live in engine.routed if not live.ended]
        to_prefill = sum(live.prompt_tokens for live in active if not live.prefilled and not live.token_times_s)
        hits = self.hit_tokens(engine, index, view) / size
        prefill = max(0.0, (to_prefill + self.requests[index].prompt_tokens) / size - router.overlap_credit * hits)
        blocks = sum(engine.config.blocks(live.prompt_tokens) for live in active)
        return router.prefill_load_scale * prefill + (blocks + router.active_weight * len(active))

    def hit_tokens(self, engine: Front, index: int, view: View) -> int:
        """Tokens of a new request that are cached under the names of the instance; of several ranks the most."""
        block_size, ahead = engine.config.block_size, engine.config.names_ahead
        request = self.requests[index]
        names = names_of(request, index, block_size, ahead)[: (request.prompt_tokens - 1) // block_size]
        return max(count_known(names, known) for known in view.known[engine.index]) * block_size
