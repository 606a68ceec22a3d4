"""One serving instance: vLLM V1's continuous-batching scheduler, one step and one token at a time.

An instance has one event in the future: the end of the step it is running, or, when idle, the queue arrival that wakes it.
`RefEngine.advance` handles that event and forms the next step at the same instant. `computed` and `generated` move at the *end* of a step;
only tokens that prefix caching saves count as computed from the formation that admits their request.

A block gets its name in the prefix cache when the step that fills it is formed, if its tokens are known by then. With asynchronous
scheduling the latest token of a request may still be in flight: then its block is named at the end of the step that samples it, and not at
all if the request has been preempted meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from tests.reference.lookups import RefLookups
from tests.reference.pool import BlockPool, Name

if TYPE_CHECKING:
    from tests.reference.groups import RefGroup
    from tests.reference.pipeline import RefPipeline
    from tests.reference.speculation import RefSpeculation
    from tests.reference.tiers import RefTier

StepTime = Callable[[list[tuple[int, int]]], float]


@dataclass(frozen=True)
class RefInstance:
    """Limits and times of an instance, with vLLM's names.

    `step_time` takes `(new_tokens, computed_before)` of the scheduled requests in slot order and returns seconds.
    `watermark_blocks` stay free when a waiting request is admitted beside a running one. With `long_prefill_alone` the threshold does not
    hold for the only request of the instance, running or waiting; `reserve_kv_loads` is a rule of `Rank`. With `reuse_nameless_first` freed
    blocks without a name are used again first; with `count_failed_lookups` a try to admit a request counts among `RefLookups` if it fails.
    `api_pre_s` passes between a request's arrival and its queueing; `api_post_s` between a token in the instance and at the client.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    step_time: StepTime
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    reserve_full_isl: bool = True
    async_scheduling: bool = True
    max_model_len: int = 1 << 30
    api_pre_s: float = 0.0
    api_post_s: float = 0.0
    enable_prefix_caching: bool = False
    long_prefill_alone: bool = False
    reserve_kv_loads: bool = False
    reuse_nameless_first: bool = False
    count_failed_lookups: bool = True
    watermark_blocks: int = 0
    role: str = "both"  # or "prefill" or "decode"
    model: int = 0
    scheduling_policy: str = "fcfs"  # or "priority"; the next two are rules of `PriorityRank`
    preempt_self_goes_on: bool = True
    preempt_leaves_out: bool = False
    pipeline: RefPipeline | None = None  # its stages have their own step times
    speculation: RefSpeculation | None = None  # its steps too
    group: RefGroup | None = None  # it steps together with others, in times of the group
    tier: RefTier | None = None  # behind its KV cache

    def __post_init__(self) -> None:
        limits = (self.num_blocks, self.block_size, self.max_num_seqs, self.max_num_batched_tokens, self.max_model_len)
        assert min(limits) >= 1 and self.long_prefill_token_threshold >= 0 and self.watermark_blocks >= 0, self
        assert self.api_pre_s >= 0 and self.api_post_s >= 0, self
        assert self.role in ("both", "prefill", "decode"), self

    def blocks(self, tokens: int) -> int:
        """Number of blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    @property
    def names_ahead(self) -> int:
        """Tokens after a block that its name covers too."""
        return int(self.speculation is not None and self.speculation.reuse == "next_token")

    def serves(self, prompt_tokens: int, output_tokens: int, model: int = -1) -> bool:
        total = prompt_tokens + output_tokens
        if model not in (-1, self.model):
            return False
        held = total - 1  # the last token is never cached
        if self.speculation is not None:
            held = min(self.speculation.most_slots(prompt_tokens, output_tokens, self.async_scheduling), self.max_model_len)
        return total <= self.max_model_len and self.blocks(held) <= self.num_blocks

    def prefills(self, prompt_tokens: int, model: int = -1) -> bool:
        """Whether it can compute a prompt and its first token for another instance."""
        return self.serves(prompt_tokens, 1, model)


@dataclass(eq=False)
class Live:
    """A request in an instance. `names` are those of all blocks that it can fill; empty without prefix caching."""

    index: int
    prompt_tokens: int
    output_tokens: int
    queue_s: float
    names: list[Name] = field(default_factory=list)
    computed: int = 0
    generated: int = 0
    named: int = 0  # leading blocks that have got their names since its admission
    preemptions: int = 0  # as vLLM counts them: also one in vain
    in_vain: bool = False  # preempted with its last token in flight: it lost nothing
    scheduled_s: float | None = None
    cached_tokens: int = 0  # hit at the first admission
    token_times_s: list[float] = field(default_factory=list)  # instance clock
    prefilled: bool = False  # it comes with the KV cache of its prompt
    priority: int = 0  # small ones first

    @property
    def target(self) -> int:
        """Tokens to compute before the next one can be emitted."""
        return self.prompt_tokens + self.generated

    @property
    def finished(self) -> bool:
        return self.generated == self.output_tokens

    @property
    def ended(self) -> bool:
        """Whether all its tokens have come back."""
        return len(self.token_times_s) == self.output_tokens


@dataclass(frozen=True)
class RefStep:
    """One step. `running`, `waiting` and `blocks` are counted after its formation, without finished requests."""

    instance: int
    start_s: float
    end_s: float
    horizon_s: float  # the formation saw queue arrivals up to this time
    requests: tuple[int, ...]  # scheduled, in slot order
    new_tokens: tuple[int, ...]
    running: int
    waiting: int  # routed here and not running: in the API stage, queued or preempted
    blocks: int  # held by running requests; a shared block counts once

    @property
    def prefill_tokens(self) -> int:
        return sum(new for new in self.new_tokens if new > 1)

    @property
    def decodes(self) -> int:
        return sum(new == 1 for new in self.new_tokens)


class RefEngine:
    """The state of one instance. `running` is in admission (slot) order; `waiting` has preempted requests at its head."""

    def __init__(self, index: int, config: RefInstance):
        self.index = index
        self.config = config
        self.pool = BlockPool(config.num_blocks, config.reuse_nameless_first)
        self.lookups = RefLookups()
        self.routed: list[Live] = []  # here, ever
        self.incoming: list[Live] = []  # routed here, not yet seen by the scheduler; in order of queue time
        self.waiting: list[Live] = []
        self.running: list[Live] = []
        self.alone = False  # its only request may be prefilled as fast as the budget allows
        self.step: RefStep | None = None  # the step in progress
        self.batch: list[tuple[Live, int]] = []  # its requests and their new tokens
        self.in_flight: list[Live] = []  # their latest token is not known yet to the formation under way
        self.ended: list[RefStep] = []
        self.ties = 0  # see `Rank`

    # ---- for the router and the event loop

    def enqueue(self, request: Live) -> None:
        assert not self.incoming or self.incoming[-1].queue_s <= request.queue_s
        self.incoming.append(request)
        self.routed.append(request)

    def num_running(self) -> int:
        return sum(not request.finished for request in self.running)

    def num_waiting(self) -> int:
        return len(self.waiting) + len(self.incoming)

    def kv_tokens(self) -> int:
        """Tokens computed until the last ended step or hit in the cache, plus those waiting requests need (prompt; all if preempted)."""
        return self.held_tokens() + sum(request.target for request in self.waiting + self.incoming)

    def held_tokens(self) -> int:
        """Tokens computed until the last ended step or hit in the cache."""
        return sum(request.computed for request in self.running if not request.finished)

    def num_ties(self) -> int:
        """Requests of which rounding decides whether a step has them."""
        return self.ties

    def next_event_s(self) -> float:
        if self.step is not None:
            return self.step.end_s
        return self.incoming[0].queue_s if self.incoming else inf

    # ---- events

    def advance(self, now: float) -> list[Live]:
        """Handle the event at `now` and form the next step. Returns the requests that finished, in slot order."""
        finished: list[Live] = []
        if self.step is not None:
            previous = self.step
            sampled = self._end_step()
            finished = [request for request in sampled if request.finished]
            if self.config.async_scheduling:
                # vLLM formed this step when the previous one started: later arrivals are unseen, and what has
                # just finished keeps its seat and blocks.
                self.in_flight = sampled
                self._form(now, horizon=previous.start_s)
                self.in_flight = []
            self._settle(sampled)
        if self.step is None:
            self._form(now, horizon=now)
            while self.step is None and self.running:  # all that happened was a preemption
                self._form(now, horizon=now)
        self._check()
        return finished

    def _end_step(self) -> list[Live]:
        """Count what the step has computed. Returns the requests that got a token."""
        assert self.step is not None
        sampled = []
        for request, new in self.batch:
            request.computed += new
            assert request.computed <= request.target
            if request.computed == request.target:
                request.token_times_s.append(self.step.end_s)
                request.generated += 1
                sampled.append(request)
        self.ended.append(self.step)
        self.step, self.batch = None, []
        return sampled

    def _settle(self, sampled: list[Live]) -> None:
        """Name the blocks that the tokens of a step have filled, and let the requests go that finished with it.

        The formation that did not know of these tokens may have preempted some of the requests.
        """
        for request in sampled:
            if request in self.running:
                self._name_up_to(request, request.computed)
                if request.finished:
                    self.running.remove(request)
                    self.pool.release(request.index)

    def _form(self, now: float, horizon: float) -> None:
        """Form a step that starts at `now`; `self.step` stays None if nothing can be scheduled."""
        self.drain(horizon)
        self.alone = self.is_alone()
        batch, budget, preempted = self._schedule_running()
        if not preempted:
            batch += self._schedule_waiting(budget)
        if not batch:
            return
        for request, _ in batch:
            if request.scheduled_s is None:
                request.scheduled_s = now
        duration = self.config.step_time([(new, request.computed) for request, new in batch])
        assert duration >= 0, "time runs backwards"
        self.batch = batch
        self.step = RefStep(
            instance=self.index,
            start_s=now,
            end_s=now + duration,
            horizon_s=horizon,
            requests=tuple(request.index for request, _ in batch),
            new_tokens=tuple(new for _, new in batch),
            running=self.num_running(),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct([request.index for request in self.running if not request.finished]),
        )

    # ---- the scheduler

    def _need(self, request: Live, computed: int) -> int:
        need = request.target - computed
        threshold = self.config.long_prefill_token_threshold
        return min(need, threshold) if threshold > 0 and not self.alone else need

    def drain(self, horizon: float) -> None:
        """Take the requests that are queued up to then to those that wait."""
        while self.incoming and self.incoming[0].queue_s <= horizon:
            self.waiting.append(self.incoming.pop(0))

    def is_alone(self) -> bool:
        """Whether the threshold of long prefills does not hold: there is one request at most."""
        return self.config.long_prefill_alone and len(self.running) + len(self.waiting) <= 1

    def _schedule_running(self) -> tuple[list[tuple[Live, int]], int, bool]:
        """Phase A: running requests. Returns the step's requests, the budget left and whether a request was preempted."""
        batch: list[tuple[Live, int]] = []
        budget, preempted, slot = self.config.max_num_batched_tokens, False, 0
        while slot < len(self.running) and budget > 0:
            request = self.running[slot]
            slot += 1
            new = min(self._wanted(request), budget)
            if new <= 0:
                continue
            tokens, victim = self._scheduled_tokens(request) + new, None
            while victim is not request and not self.pool.grow(request.index, self._slots(tokens)):
                victim = self.running[-1]
                self._preempt(victim)
                preempted = True
            if victim is request:
                break
            self._scheduled(request, tokens)
            batch.append((request, new))
            budget -= new
        return batch, budget, preempted

    def _wanted(self, request: Live) -> int:
        """Tokens that a running request would compute with budget enough; none if its last token is in flight."""
        return 0 if request.finished else self._need(request, request.computed)

    def _scheduled_tokens(self, request: Live) -> int:
        """Tokens of a running request that the scheduler takes for computed."""
        return request.computed

    def _slots(self, tokens: int) -> int:
        """Blocks that are asked for so many tokens."""
        return self.config.blocks(tokens)

    def _scheduled(self, request: Live, tokens: int) -> None:
        """A request has the blocks for so many tokens."""
        self._name_up_to(request, tokens)

    def _preempt(self, victim: Live) -> None:
        """Preempt a request, by recomputation. If it has finished unseen, it leaves for good; its blocks are freed."""
        self.running.remove(victim)
        self._take_blocks(victim)
        if not victim.finished:
            self._requeue(victim)

    def _requeue(self, victim: Live) -> None:
        self.waiting.insert(0, victim)

    def _take_blocks(self, victim: Live) -> None:
        self.pool.release(victim.index)
        victim.named = 0
        victim.preemptions += 1
        if victim.finished:
            victim.in_vain = True
        else:
            victim.computed = 0

    def _schedule_waiting(self, budget: int) -> list[tuple[Live, int]]:
        """Phase B: admission in strict FCFS order, without overtaking and without preemption."""
        batch: list[tuple[Live, int]] = []
        while self.waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            new = self._admit(self.waiting[0], budget)
            if new == 0:
                break
            batch.append((self.waiting[0], new))
            self.running.append(self.waiting.pop(0))
            budget -= new
        return batch

    def _admit(self, request: Live, budget: int) -> int:
        """Take blocks for a waiting request; returns its new tokens, 0 if it has to wait."""
        config = self.config
        hits = self._lookup(request)
        hit_tokens = len(hits) * config.block_size
        if config.count_failed_lookups:
            self._count_lookup(request, hit_tokens)
        need = self._need(request, hit_tokens)
        if not config.enable_chunked_prefill and need > budget:
            return 0
        new = min(need, budget)
        spare = self._watermark()
        if config.reserve_full_isl and not self.pool.has_room(request.index, config.blocks(request.target), hits, spare):
            return 0
        if not self.pool.grow(request.index, config.blocks(hit_tokens + new), hits, spare):
            return 0
        if not config.count_failed_lookups:
            self._count_lookup(request, hit_tokens)
        request.computed, request.named = hit_tokens, len(hits)
        if request.scheduled_s is None:
            request.cached_tokens = hit_tokens
        self._name_up_to(request, hit_tokens + new)
        return new

    def _watermark(self) -> int:
        """Blocks that the next admission leaves free: those that run may need them."""
        return self.config.watermark_blocks if self.running else 0

    def _lookup(self, request: Live) -> list[int]:
        """The cached blocks for a waiting request. At least one token is left to compute, since the next token comes out of it."""
        assert request.computed == 0
        return self.pool.lookup(request.names[: (request.target - 1) // self.config.block_size])

    def _count_lookup(self, request: Live, hit_tokens: int) -> None:
        if self.config.enable_prefix_caching:
            self.lookups.record(request.target, hit_tokens, preempted=request.preemptions > 0)

    def _known(self, request: Live) -> int:
        """Tokens of the request that the scheduler knows."""
        return request.target - (request in self.in_flight)

    def _name_up_to(self, request: Live, tokens: int) -> None:
        """Name the blocks that the first `tokens` tokens of the request fill, computed or not, as far as these tokens are known."""
        if self.config.enable_prefix_caching:
            full = min(tokens, self._known(request) - self.config.names_ahead) // self.config.block_size
            for position in range(request.named, full):
                self.pool.name(request.index, position, request.names[position])
            request.named = max(request.named, full)

    def _check(self) -> None:
        self.pool.check()
        self._check_names()
        assert set(self.pool.held) == {request.index for request in self.running}, "a request outside running holds blocks"
        assert len(self.running) <= self.config.max_num_seqs
        assert self.step is not None or not self.running, "an idle instance has running requests"

    def _check_names(self) -> None:
        """Check that a held block has the name of its content, or none if it is not full or its tokens are not all known."""
        for request in self.running:
            assert request.named * self.config.block_size <= self._known(request)
            for position, block in enumerate(self.pool.held[request.index]):
                name = request.names[position] if position < request.named else None
                assert self.pool.names[block] == name, "a block has the name of another content, or none"
