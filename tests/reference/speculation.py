"""A rank that decodes speculatively: vLLM's scheduler with its own books, which are wrong in between and put right by the output.

As in vLLM the computed tokens of a request move when it is scheduled, as if all its drafts were accepted, and the output puts them back. An
asynchronous scheduler forms the next step before that, with a placeholder for every token that may come. A request that turns out to have
finished in the step before computes one more step for nothing. `Live.computed` are the tokens that the device really has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.reference.instance import Live, RefEngine, RefInstance, RefStep

_WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class RefSpeculation:
    """Drafts of an instance: K a step, of which the i-th is accepted with all before it at a marginal rate of `rates[i]`.

    `lookahead` slots are allocated beyond a request's tokens. With `pads` (vLLM 0.28 and later) a waiting request that needs a single token
    gets 1 + K as well, padded with drafts that are never right, unless a running prompt is in the step. `step_time` is that of
    `RefInstance` with a flag for each request: whether it verifies drafts, or decodes without any.

    `reuse`: cached blocks that a waiting request takes. A drafter like EAGLE or MTP computes its KV cache from hidden states and the token
    after each of them, so that releases before 0.33 leave out the "last" of the blocks found; in 0.33 the name of a block covers the
    "next_token" after it. Other drafters take "all".
    """

    num_speculative_tokens: int
    rates: tuple[float, ...]
    lookahead: int
    step_time: Callable[[list[tuple[int, int, bool]]], float]
    seed: int = 0
    pads: bool = False
    reuse: str = "all"

    def __post_init__(self) -> None:
        assert len(self.rates) >= self.num_speculative_tokens >= 0
        assert all(1.0 >= one >= other >= 0.0 for one, other in zip(self.rates, self.rates[1:], strict=False)), self.rates

    def most_slots(self, prompt_tokens: int, output_tokens: int, async_scheduling: bool) -> int:
        """Most slots that a request asks for: in its last steps, with one step of drafts, or two if it is formed during the one before."""
        ahead = min(output_tokens - 1, 1 + async_scheduling)
        return prompt_tokens + output_tokens - 1 + self.lookahead + self.num_speculative_tokens * ahead

    def accepted(self, request: int, tokens: int, drafts: int) -> int:
        """Number of accepted drafts, of a request that has so many tokens."""
        u = uniform(self.seed, request, tokens)
        return sum(u < rate for rate in self.rates[:drafts])


def uniform(seed: int, request: int, tokens: int) -> float:
    """A number in [0, 1) for a request with so many tokens, the same in whatever order it is asked for."""
    x = 0
    for word in (seed, request, tokens):
        x = _mixed((x + word) & _WORD)
    return x / 2**32


def _mixed(x: int) -> int:
    """The 32-bit integer hash lowbias32 (C. Wellons, hash prospector)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)


@dataclass
class Book:
    """What the scheduler believes of a running request; `computed` includes all that is scheduled, drafts too."""

    computed: int = 0
    drafts: int = 0  # to verify in its next step
    placeholders: int = 0  # tokens in flight, if scheduling is asynchronous


Batch = list[tuple[Live, int, int]]  # request, its new tokens, and the drafts among them, -1 where no token comes out


class SpeculatingRank(RefEngine):
    """A rank with drafts."""

    def __init__(self, index: int, config: RefInstance):
        super().__init__(index, config)
        assert config.speculation is not None
        self.speculation = config.speculation
        self.books: dict[int, Book] = {}
        self.flying: Batch = []
        self.some_decode = self.some_prompt = False  # among the running requests of the step under formation, and of these, prompts
        self.decoding: set[int] = set()  # those with a token since their admission; also after their end, when a step may compute for them
        self.chunking: set[int] = set()  # those whose latest step brings no token
        self.padded: set[int] = set()  # those whose first step since their admission has padding, and has not come back
        self.scheduled_blocks: dict[int, int] = {}  # of each request when it was last scheduled: what F1 is about
        self.wasted = 0  # tokens that were computed for requests which had finished
        self.drafts = self.draft_tokens = self.accepted_tokens = 0  # vLLM's counters

    def advance(self, now: float) -> list[Live]:
        finished: list[Live] = []
        if self.step is not None:
            previous, flying = self.step, self.flying
            following = self._schedule(previous.start_s) if self.config.async_scheduling else []
            finished = self._update(previous, flying)
            self.step, self.flying = None, []
            if following:
                self._launch(now, previous.start_s, following)
        if self.step is None and (batch := self._schedule(now)):
            self._launch(now, now, batch)
        self._check()
        return finished

    def _launch(self, now: float, horizon: float, batch: Batch) -> None:
        for live, _, _ in batch:
            if live.scheduled_s is None:
                live.scheduled_s = now
        seconds = self.speculation.step_time([(new, live.computed, live.index in self.decoding) for live, new, _ in batch])
        self.flying = batch
        self.step = RefStep(
            instance=self.index,
            start_s=now,
            end_s=now + seconds,
            horizon_s=horizon,
            requests=tuple(live.index for live, _, _ in batch),
            new_tokens=tuple(new for _, new, _ in batch),
            running=len(self.running),
            waiting=self.num_waiting(),
            blocks=self.pool.num_distinct([live.index for live in self.running]),
        )

    def _update(self, step: RefStep, batch: Batch) -> list[Live]:
        """`update_from_output()`: accepted drafts and one token more; what was rejected is no longer computed."""
        finished = []
        for live, new, drafts in batch:
            if live.finished:
                self.wasted += new
                continue
            runs = live in self.running
            if drafts < 0:
                live.computed = live.computed + new if runs else 0
                continue
            accepted = 0 if live.index in self.padded else self.speculation.accepted(live.index, live.target, drafts)
            self.padded.discard(live.index)
            self.drafts += drafts > 0
            self.draft_tokens += drafts
            self.accepted_tokens += accepted
            tokens = min(1 + accepted, live.output_tokens - live.generated)
            live.token_times_s += [step.end_s] * tokens
            live.generated += tokens
            if runs:
                live.computed = live.target - 1
                book = self.books[live.index]
                book.computed -= drafts - accepted
                book.placeholders -= (1 + drafts) * self.config.async_scheduling
                book.drafts = self.speculation.num_speculative_tokens
                self.decoding.add(live.index)
                self._name_up_to(live, live.computed)
            if live.finished:
                finished.append(live)
                self._end(live, runs)
        self.ended.append(step)
        return finished

    def _end(self, live: Live, runs: bool) -> None:
        if runs:
            self.running.remove(live)
            self.pool.release(live.index)
        else:  # preempted with its last token in flight: it lost nothing
            self.waiting.remove(live)
            live.in_vain = True

    # ---- the scheduler

    def _schedule(self, horizon: float) -> Batch:
        self.drain(horizon)
        self.alone = self.is_alone()
        tokens, budget, preempted = self._schedule_running()
        self._look_at(tokens)
        if not preempted:
            tokens += self._schedule_waiting(budget)
        return [(live, new, self._advance_book(live, new)) for live, new in tokens]

    def _look_at(self, tokens: list[tuple[Live, int]]) -> None:
        """Note what the padding of waiting requests depends on: the running ones in the step."""
        self.some_decode = bool(tokens)
        self.some_prompt = any(live.index in self.chunking for live, _ in tokens)

    def _advance_book(self, live: Live, new: int) -> int:
        """Count scheduled tokens as computed. Returns the drafts among them, -1 if they bring no token."""
        book = self.books[live.index]
        book.computed += new
        drafts = book.computed - live.target - book.placeholders
        book.drafts = 0
        (self.chunking.add if drafts < 0 else self.chunking.discard)(live.index)
        if drafts >= 0 and self.config.async_scheduling:
            book.placeholders += 1 + drafts
            book.drafts = self.speculation.num_speculative_tokens
        return max(drafts, -1)

    def _slots(self, tokens: int) -> int:
        """Blocks of so many tokens and the lookahead."""
        return self.config.blocks(min(tokens + self.speculation.lookahead, self.config.max_model_len))

    def _wanted(self, request: Live) -> int:
        """Tokens that a request would compute with budget enough; 0 if the step in flight surely brings its last one."""
        book = self.books[request.index]
        if book.placeholders and book.computed + 2 - book.placeholders >= request.prompt_tokens + request.output_tokens:
            return 0
        need = self._need(request, book.computed - book.drafts - book.placeholders)
        return min(need, self.config.max_model_len - 1 - book.computed)

    def _scheduled_tokens(self, request: Live) -> int:
        return self.books[request.index].computed

    def _scheduled(self, request: Live, tokens: int) -> None:
        self.scheduled_blocks[request.index] = self.pool.num_held(request.index)
        self._name_up_to(request, tokens)

    def _preempt(self, victim: Live) -> None:
        super()._preempt(victim)
        self.decoding.discard(victim.index)
        del self.books[victim.index]

    def _admit(self, live: Live, budget: int) -> int:
        """As in `RefEngine`, with the lookahead; the whole sequence need not fit with it."""
        hits = self._lookup(live)
        cached = len(hits) * self.config.block_size
        if self.config.count_failed_lookups:
            self._count_lookup(live, cached)
        need = self._need(live, cached)
        padded = self._is_padded(live, cached)
        if padded and (need := 1 + self.speculation.num_speculative_tokens) > budget:
            return 0
        if not self.config.enable_chunked_prefill and need > budget:
            return 0
        new, spare = min(need, budget), self._watermark()
        if self.config.reserve_full_isl and not self.pool.has_room(live.index, self.config.blocks(live.target), hits, spare):
            return 0
        if not self.pool.grow(live.index, self._slots(cached + new), hits, spare):
            return 0
        if not self.config.count_failed_lookups:
            self._count_lookup(live, cached)
        self.scheduled_blocks[live.index] = self.pool.num_held(live.index)
        self.books[live.index] = Book(computed=cached)
        (self.padded.add if padded else self.padded.discard)(live.index)
        live.computed, live.named = cached, len(hits)
        if live.scheduled_s is None:
            live.cached_tokens = cached
        self._name_up_to(live, cached + new)
        return new

    def _lookup(self, request: Live) -> list[int]:
        hits = super()._lookup(request)
        return hits[:-1] if self.speculation.reuse == "last" else hits

    def _is_padded(self, live: Live, cached: int) -> bool:
        drafts = self.speculation.num_speculative_tokens
        if not self.speculation.pads or drafts == 0 or live.target - cached != 1 or self.some_prompt:
            return False
        return (self.some_decode or cached > 0) and cached + 1 + drafts < self.config.max_model_len

    def _check(self) -> None:
        self.pool.check()
        self._check_names()
        assert set(self.pool.held) == {live.index for live in self.running}, "a request outside running holds blocks"
        assert len(self.running) <= self.config.max_num_seqs
        for live in self.running:
            book, flying = self.books[live.index], {other.index: new for other, new, _ in self.flying}
            assert live.computed + flying.get(live.index, 0) == book.computed, "the books are not put right"
            assert self.pool.num_held(live.index) >= self.config.blocks(live.computed)
