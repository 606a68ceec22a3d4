"""A rank with a tier behind its KV cache: vLLM's loop and scheduler with OffloadingConnector, pass by pass.

A pass offers the chunks that its step will have computed; their copies start with the next pass. A request finds chunks after the blocks
that the device has; it waits until they are there, and waits too while they are still being written, or read for another. Copies that have
ended are found at the launch of a pass and known with its output. A rank that has nothing but copies under way is told of each when it
ends; vLLM would sleep between looks.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from math import inf

from tests.reference.instance import RefInstance, RefStep
from tests.reference.legs import Batch, Leg
from tests.reference.pool import Name
from tests.reference.rank import TIE_S, Rank
from tests.reference.tiers import ChunkPool, Copy, RefTier, Stream, Use


@dataclass(eq=False)
class TieredLeg(Leg):
    """`next_chunk`: the first one not yet offered. `hit`, `loaded`: tokens that the device had at the last lookup, and of a load."""

    use: Use = field(default_factory=Use)
    next_chunk: int = 0
    hit: int = 0
    loaded: int = 0
    copies: list[Copy] = field(default_factory=list)  # that have not been told
    table: list[int] = field(default_factory=list)  # blocks at its end
    landed: bool = False  # whether the scheduler has looked at it since its load has ended
    tier_hit_tokens: int = 0  # at its first admission
    load_start_s: float | None = None
    load_end_s: float | None = None


@dataclass(eq=False)
class TieredBatch(Batch):
    """A pass with the copies that it found ended."""

    copies: list[Copy] = field(default_factory=list)


class TieredRank(Rank):
    """`pool`: that of the rank, or one that ranks share."""

    running: list[TieredLeg]
    waiting: list[TieredLeg]
    loads: list[TieredLeg]

    def __init__(self, index: int, config: RefInstance, tier: RefTier, empty_pass_s: float, pool: ChunkPool | None = None):
        self.tier = tier
        self.chunks = ChunkPool(tier.num_chunks, tier.store_threshold) if pool is None else pool
        self.legs: dict[int, TieredLeg] = {}
        self.stores = Stream(lambda blocks: tier.copy_s(blocks, load=False))
        self.reads = Stream(lambda blocks: tier.copy_s(blocks, load=True))
        self.unsent: list[Copy] = []  # stores of the pass before
        self.begun: list[Copy] = []  # loads of this pass
        self.being_loaded: set[Name] = set()
        self.gone: list[TieredLeg] = []  # ended since the last pass
        self.prefills: set[TieredLeg] = set()  # admitted, with more of the prompt to come; or loading
        self.victims: list[TieredLeg] = []
        self.counts = {"stored": 0, "loaded": 0, "skips": 0}
        self.flush_s = 0.0
        self.launched_s = -inf  # passes are launched one after the other
        super().__init__(index, config, empty_pass_s, lambda *_: None)

    def held_tokens(self) -> int:
        """As the router of ranks without tiers sees them: a synchronous rank reports the tokens of a step with its end."""
        if self.config.async_scheduling:
            return super().held_tokens()
        in_flight = [(leg, new) for batch in self.queue for leg, new in batch.tokens if leg in self.running]
        unended = {leg for leg, _ in in_flight}
        running = [leg for leg in self.running if leg in unended or not leg.finished]
        return sum(leg.computed for leg in running) - sum(new for _, new in in_flight)

    # ---- the loop

    def next_event_s(self) -> float:
        due_s = super().next_event_s()
        return min(due_s, self.incoming[0].queue_s) if self._only_copies() and self.incoming else due_s

    def _only_copies(self) -> bool:
        return self._copying() and not self._has_unfinished() and not self.just_ended and not any(batch.tokens for batch in self.queue)

    def _copying(self) -> bool:
        return any(leg.copies for leg in self.legs.values())

    def _has_requests(self) -> bool:
        return super()._has_requests() or self._copying()

    def _rest(self) -> Generator[float, float, None]:
        yield from super()._rest()
        if self._only_copies():
            ends = [copy.end_s for stream in (self.stores, self.reads) for copy in stream.copies]
            if not self.unsent and ends and min(ends) > self.clock:
                self.clock = yield min(ends)

    def _pass_with_queue(self) -> Generator[float, float, bool]:
        ran = False
        if self._has_requests():
            self.queue.append(batch := self._launch())
            ran = bool(batch.tokens)
            if len(self.queue) < 2 and (ran or self._has_requests()):
                self.clock = yield self.clock
                return ran
        yield from self._deliver()
        return ran

    def _launch(self) -> TieredBatch:
        now, running = self.clock, list(self.running)
        held = {index: set(blocks) for index, blocks in self.pool.held.items()}
        self.alone, self.victims = self.is_alone(), []
        tokens, budget, preempted = self._schedule_running()
        if not preempted:
            tokens += self._schedule_waiting(budget)
        self.just_ended = False
        given = {block for leg, _ in tokens if leg not in running for block in self.pool.held[leg.index]}
        given |= {block for index, blocks in self.pool.held.items() for block in blocks if block not in held.get(index, ())}
        launch_s = self._copy(now, tokens, given)
        if self.tier.load != "async":
            self._send_loads(max(launch_s, self.device_free_s))
        step = self._tiered_step(now, launch_s, tokens) if tokens else None
        if self.tier.load == "async":
            self._send_loads(max(launch_s, self.device_free_s) if self.tier.load_after_step else launch_s)
        going = sum(map(self._goes_on, self.running))
        ended = self._ended(launch_s, not tokens and launch_s == now and self._has_unfinished())
        batch = TieredBatch(step.end_s if step else launch_s, step, tokens, self._count(tokens), [], [], going, ended)
        self.prefills -= set(batch.sampled)
        return batch

    def _ended(self, now: float, asleep: bool) -> list[Copy]:
        """Copies that a look finds; as in `Rank._poll` one after a sleep does not see what ends at that very time."""
        return [copy for stream in (self.stores, self.reads) for copy in stream.poll(now - TIE_S if asleep else now, asleep)]

    def _copy(self, now: float, tokens: list[tuple[TieredLeg, int]], given: set[int]) -> float:
        """Form the stores of this pass, send those of the one before, and wait for those whose blocks are needed; returns the launch."""
        flushed = [copy for leg in self.victims for copy in leg.copies]
        ended = [leg for leg in self.legs.values() if leg.ended]
        flushed += [copy for leg in ended for copy in leg.copies if given & set(copy.blocks)]
        formed = [copy for leg, new in tokens if (copy := self._store(leg, min(leg.computed + new, self._known(leg))))]
        for leg in self.gone:
            if copy := self._store(leg, max(leg.prompt_tokens, leg.prompt_tokens + leg.output_tokens - 1)):
                formed.append(copy)
                flushed += [copy] if given & set(copy.blocks) else []
        for leg in self.gone:
            self.chunks.leave(leg.use)
        self.gone = []
        first = [copy for copy in formed if copy in flushed]
        for copy in self.unsent + first:
            self.stores.submit(copy, max(now, self.device_free_s))
        self.unsent = [copy for copy in formed if copy not in first]
        launch_s = self.launched_s = max([now, self.launched_s, *(copy.end_s for copy in flushed)])
        if flushed:
            self.flush_s += max(0.0, launch_s - max(now, self.device_free_s))
        return launch_s

    def _send_loads(self, now: float) -> None:
        for copy in self.begun:
            leg = self.legs[copy.request]
            self.reads.submit(copy, now)
            if leg.load_end_s is None:
                leg.load_start_s, leg.load_end_s = copy.end_s - self.reads.copy_s(len(copy.blocks)), copy.end_s
        self.begun = []

    def _tiered_step(self, now: float, launch_s: float, tokens: list[tuple[TieredLeg, int]]) -> RefStep:
        """The step, which waits for flushes, and for the loads of requests that it admits unless these wait themselves."""
        before = self.device_free_s
        self.device_free_s = start_s = max(launch_s, before)
        loads_s = max([start_s, *(copy.end_s for copy in self.reads.copies)]) - start_s if self.tier.load != "async" else 0.0
        if self.tier.load == "sync":
            self.device_free_s = start_s + loads_s
        step = self._step(now, tokens)
        if self.tier.load == "layerwise" and loads_s > 0:
            end_s = start_s + max(step.end_s - start_s, loads_s) + loads_s / self.tier.layers
            step = RefStep(**{**vars(step), "end_s": end_s})
            self.device_free_s = end_s
        return step

    def _deliver(self) -> Generator[float, float, None]:
        batch = self.queue[0]
        assert isinstance(batch, TieredBatch)
        yield from super()._deliver()
        for copy in batch.copies:
            leg = self.legs[copy.request]
            leg.copies.remove(copy)
            self.idle = 0
            if copy.is_load:
                self.chunks.unpin(copy.names)
                self.being_loaded -= set(copy.names)
                leg.told = True
            else:
                self.chunks.written(copy.names)
        self.chunks.check()

    def _end(self, leg: TieredLeg) -> None:
        leg.table = list(self.pool.held.get(leg.index, []))
        self.gone.append(leg)
        super()._end(leg)

    # ---- the scheduler

    def _schedule_running(self) -> tuple[list[tuple[TieredLeg, int]], int, bool]:
        """As that of all ranks, but a request of which a step is in flight is not preempted: its blocks may still be written."""
        batch: list[tuple[TieredLeg, int]] = []
        budget, slot = self.config.max_num_batched_tokens, 0
        in_flight = {leg for passed in self.queue for leg, _ in passed.tokens}
        while slot < len(self.running) and budget > 0:
            leg = self.running[slot]
            slot += 1
            if leg.finished:
                continue
            new = min(self._need(leg, leg.computed), budget)
            while leg in self.running and not (roomy := self.pool.grow(leg.index, self.config.blocks(leg.computed + new))):
                if self.running[-1] in in_flight:
                    break
                victim = self.running[-1]
                self._preempt(victim)
                assert isinstance(victim, TieredLeg)
                self.victims.append(victim)
                self.prefills.discard(victim)
            if leg not in self.running or not roomy:
                break
            self._name_up_to(leg, leg.computed + new)
            batch.append((leg, new))
            budget -= new
        return batch, budget, bool(self.victims)

    def _schedule_waiting(self, budget: int) -> list[tuple[TieredLeg, int]]:
        batch: list[tuple[TieredLeg, int]] = []

        def seat(leg: TieredLeg, new: int) -> None:
            nonlocal budget
            self.running.append(leg)
            batch.append((leg, new))
            budget -= new
            if leg.computed + new < leg.target:
                self.prefills.add(leg)

        for leg in list(self.loads):
            if budget == 0 or len(self.running) == self.config.max_num_seqs:
                return batch
            if not leg.told:
                continue
            new = self._admit_loaded(leg, budget)
            if new == 0:
                return batch
            self.loads.remove(leg)
            seat(leg, new)
        for leg in list(self.waiting):
            if budget == 0 or len(self.running) == self.config.max_num_seqs:
                break
            leg.next_chunk = 0
            found = None if leg.copies else self._find(leg)
            if found is None:
                self.counts["skips"] += 1
                continue
            if found and self.tier.load == "async":
                if not self._load(leg, found):
                    break
                self.waiting.remove(leg)
                continue
            new = self._admit_with(leg, found, budget) if found else self._admit(leg, budget)
            if new == 0:
                break
            self.waiting.remove(leg)
            seat(leg, new)
        return batch

    def _chunk_names(self, leg: TieredLeg, tokens: int) -> list[Name]:
        each = self.tier.blocks_per_chunk
        return leg.names[each - 1 : tokens // self.config.block_size : each]

    @property
    def _chunk_tokens(self) -> int:
        return self.tier.blocks_per_chunk * self.config.block_size

    def _find(self, leg: TieredLeg) -> list[Name] | None:
        """The chunks to load, [] for none; None if they are there soon. It sets what the device has."""
        leg.hit, size = len(self._lookup(leg)) * self.config.block_size, self._chunk_tokens
        names = self._chunk_names(leg, leg.target)
        first = leg.hit // size
        if len(names) * size - leg.hit < size:
            return []
        found = self.chunks.find(names[first:])
        if not found:
            return []
        if not self.chunks.all_ready(found):
            return None
        loaded = size * (first + len(found)) - leg.hit
        if loaded < max(size, self.tier.least_load_tokens):
            return []
        return None if self.being_loaded & set(found) else found

    def _begin(self, leg: TieredLeg, found: list[Name]) -> None:
        """The blocks for chunks that were found are there: read them."""
        size, first = self._chunk_tokens, leg.hit // self._chunk_tokens
        leg.loaded = size * (first + len(found)) - leg.hit
        self.chunks.pin(leg.use, found)
        begin, end = leg.hit // self.config.block_size, (leg.hit + leg.loaded) // self.config.block_size
        copy = Copy(leg.index, found, self.pool.held[leg.index][begin:end], is_load=True)
        self.begun.append(copy)
        leg.copies.append(copy)
        leg.next_chunk = first + len(found)
        self.counts["loaded"] += end - begin
        if leg.scheduled_s is None:
            leg.tier_hit_tokens = leg.loaded

    def _load(self, leg: TieredLeg, found: list[Name]) -> bool:
        """Begin to load; False if there is no room. What running prefills and other loads still need is left to them."""
        config, hits = self.config, self._lookup(leg)
        tokens = self._chunk_tokens * (leg.hit // self._chunk_tokens + len(found))
        if config.reserve_full_isl and not self.pool.has_room(leg.index, config.blocks(leg.target), hits, self._watermark()):
            return False
        others = sum(max(0, config.blocks(other.target) - self.pool.num_held(other.index)) for other in self.prefills)
        if not self.pool.grow(leg.index, config.blocks(tokens), hits, self._watermark() + others):
            return False
        self._begin(leg, found)
        self.being_loaded |= set(found)
        leg.told = leg.landed = False
        self.loads.append(leg)
        self.prefills.add(leg)
        return True

    def _admit_loaded(self, leg: TieredLeg, budget: int) -> int:
        """A seat for a request whose load has ended; returns its new tokens, 0 if it has to wait."""
        config = self.config
        if not leg.landed:  # it may wait for room, and is looked at again
            leg.landed = True
            leg.named = leg.hit // config.block_size
            self._name_up_to(leg, leg.hit + leg.loaded)
            leg.computed = min(leg.hit + leg.loaded, leg.target - 1)
        need = self._need(leg, leg.computed)
        if not config.enable_chunked_prefill and need > budget:
            return 0
        new = min(need, budget)
        if config.reserve_full_isl and not self.pool.has_room(leg.index, config.blocks(leg.target), (), self._watermark()):
            return 0
        if not self.pool.grow(leg.index, config.blocks(leg.computed + new), (), self._watermark()):
            return 0
        if leg.scheduled_s is None:
            leg.cached_tokens = leg.hit
        self._name_up_to(leg, leg.computed + new)
        return new

    def _admit_with(self, leg: TieredLeg, found: list[Name], budget: int) -> int:
        """A seat for a request whose step waits for its load; returns its new tokens, 0 if it has to wait."""
        config, hits = self.config, self._lookup(leg)
        loaded = self._chunk_tokens * (leg.hit // self._chunk_tokens + len(found))
        computed = min(loaded, leg.target - 1)
        need = self._need(leg, computed)
        if not config.enable_chunked_prefill and need > budget:
            return 0
        new = min(need, budget)
        if config.reserve_full_isl and not self.pool.has_room(leg.index, config.blocks(leg.target), hits, self._watermark()):
            return 0
        if not self.pool.grow(leg.index, config.blocks(computed + new), hits, self._watermark()):
            return 0
        self._begin(leg, found)
        leg.computed, leg.named = computed, len(hits)
        if leg.scheduled_s is None:
            leg.cached_tokens = leg.hit
        self._name_up_to(leg, max(loaded, computed + new))
        return new

    def _store(self, leg: TieredLeg, tokens: int) -> Copy | None:
        """Offer the chunks that are full with so many tokens; the copy of those that are to be written."""
        size, each = self._chunk_tokens, self.tier.blocks_per_chunk
        tokens = min(tokens, leg.prompt_tokens) if self.tier.prompt_only else tokens
        table = leg.table or self.pool.held.get(leg.index, [])
        end = min(tokens // size, len(table) // each)
        if end <= leg.next_chunk:
            return None
        places = range(leg.next_chunk, end)
        names = self._chunk_names(leg, end * size)[leg.next_chunk :]
        missing = self.chunks.offer(leg.use, names, [size * (place + 1) for place in places])
        if missing is None:
            return None
        leg.next_chunk = end
        if not missing:
            return None
        blocks = [b for name, p in zip(names, places, strict=True) if name in missing for b in table[p * each : p * each + each]]
        self.counts["stored"] += len(blocks)
        if self.tier.free_stores:
            self.chunks.written(missing)
            return None
        copy = Copy(leg.index, missing, blocks, is_load=False)
        leg.copies.append(copy)
        return copy

    def enqueue(self, request: TieredLeg) -> None:  # type: ignore[override]
        self.legs[request.index] = request
        super().enqueue(request)


def play(rank: TieredRank, legs: list[TieredLeg]) -> list[TieredLeg]:
    """Run requests, in order of their times, on a rank alone."""
    for leg in sorted(legs, key=lambda leg: leg.queue_s):
        rank.enqueue(leg)
    while (now := rank.next_event_s()) < inf:
        rank.advance(now)
    return legs
