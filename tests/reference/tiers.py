"""A tier of KV cache as vLLM's `CPUOffloadingManager` keeps it: chunks by name, their order of eviction, and streams to and from it.

Order of eviction: a chunk has the rank of its last use and its depth. The least rank goes first, of equal ranks the deepest chunk. All that
a request sees while it lives has the request's rank, which it takes when it first sees a chunk; once it has ended, all of that gets one
new rank. A chunk that is being written, or that a load reads, is not evicted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from tests.reference.pool import Name


@dataclass(frozen=True)
class RefTier:
    """Size, times and rules of a tier, with the meaning of `simjax.tiering.Tiering` and `Connector`; `block_bytes` is that of a KV block.

    `pool`: number of the pool that the rank uses; ranks with the same one share it. `empty_pass_s`: sleep of a rank that can run nothing.
    """

    num_chunks: int
    blocks_per_chunk: int = 1
    load_bytes_per_s: float = inf
    store_bytes_per_s: float = inf
    setup_s: float = 0.0
    per_block_s: float = 0.0
    block_bytes: float = 1.0
    load: str = "async"
    load_after_step: bool = False
    prompt_only: bool = True
    policy: str = "lru"
    store_threshold: int = 1
    free_stores: bool = False
    least_load_tokens: int = 0
    layers: int = 1
    pool: int | None = None
    empty_pass_s: float = 1e-3

    def __post_init__(self) -> None:
        assert self.num_chunks >= 1 and self.blocks_per_chunk >= 1 and self.store_threshold >= 1 and self.layers >= 1, self
        assert self.load in ("async", "sync", "layerwise") and self.policy == "lru", self
        assert min(self.load_bytes_per_s, self.store_bytes_per_s) > 0 and min(self.setup_s, self.per_block_s, self.block_bytes) >= 0, self

    def copy_s(self, blocks: int, load: bool) -> float:
        rate = self.load_bytes_per_s if load else self.store_bytes_per_s
        return self.setup_s + blocks * (self.per_block_s + self.block_bytes / rate)


@dataclass
class Chunk:
    """`rank`, `depth`: its place in the order of eviction; `ready`: its store has ended; `pins`: loads that read it."""

    rank: int
    depth: int
    ready: bool = False
    pins: int = 0

    @property
    def order(self) -> tuple[int, int]:
        return self.rank, -self.depth


@dataclass
class Use:
    """What a request has seen of a pool: chunks by name, and its rank."""

    rank: int = 0
    seen: set[Name] = field(default_factory=set)


class ChunkPool:
    """Chunks by name."""

    def __init__(self, num_chunks: int, store_threshold: int = 1):
        self.num_chunks = num_chunks
        self.store_threshold = store_threshold
        self.chunks: dict[Name, Chunk] = {}
        self.offers: dict[Name, int] = {}
        self.rank = 0
        self.evictions = 0
        self.failed = 0  # offers for which there was no room

    def find(self, names: Sequence[Name]) -> list[Name]:
        """The leading names that are there, ready or not."""
        found = []
        for name in names:
            if name not in self.chunks:
                break
            found.append(name)
        return found

    def all_ready(self, names: Collection[Name]) -> bool:
        return all(self.chunks[name].ready for name in names)

    def pin(self, use: Use, names: Sequence[Name]) -> None:
        """A load of these chunks begins."""
        for name in names:
            assert self.chunks[name].ready, "a chunk is read before it is written"
            self.chunks[name].pins += 1
        self._see(use, names)

    def unpin(self, names: Collection[Name]) -> None:
        for name in names:
            assert self.chunks[name].pins > 0
            self.chunks[name].pins -= 1

    def offer(self, use: Use, names: Sequence[Name], depths: Sequence[int]) -> list[Name] | None:
        """Take in what is missing of these chunks: those are to be written. None, and nothing is changed but uses, if there is no room."""
        for name in names:
            self.offers[name] = self.offers.get(name, 0) + 1
        missing = [name for name in names if name not in self.chunks and self.offers[name] >= self.store_threshold]
        known = set(missing) | {name for name in names if name in self.chunks and self.chunks[name].ready}
        self._see(use, [name for name in names if name in known])
        lacking = len(missing) - (self.num_chunks - len(self.chunks))
        if lacking > 0:
            idle = sorted((x.order, n) for n, x in enumerate(self.chunks.values()) if x.ready and not x.pins)
            by_place = list(self.chunks)
            victims = [by_place[n] for _, n in idle if by_place[n] not in set(names)][:lacking]
            if len(victims) < lacking:
                self.failed += 1
                return None
            for victim in victims:
                del self.chunks[victim]
            self.evictions += lacking
        depth_of = dict(zip(names, depths, strict=True))
        for name in missing:
            self.chunks[name] = Chunk(self._rank(use), depth_of[name])
        assert len(self.chunks) <= self.num_chunks, "a tier holds more than fits"
        return missing

    def written(self, names: Collection[Name]) -> None:
        for name in names:
            assert not self.chunks[name].ready, "a chunk is written twice"
            self.chunks[name].ready = True

    def leave(self, use: Use) -> None:
        """A request has ended: all that it saw was used now."""
        self.rank += 1
        for name in use.seen:
            if name in self.chunks:
                self.chunks[name].rank = self.rank

    def _rank(self, use: Use) -> int:
        if not use.rank:
            self.rank += 1
            use.rank = self.rank
        return use.rank

    def _see(self, use: Use, names: Sequence[Name]) -> None:
        for name in names:
            if name in use.seen:
                continue
            use.seen.add(name)
            rank = self._rank(use)
            if name in self.chunks:
                chunk = self.chunks[name]
                chunk.rank = max(chunk.rank, rank)

    def check(self) -> None:
        assert len(self.chunks) <= self.num_chunks, "a tier holds more than fits"
        assert all(chunk.pins == 0 or chunk.ready for chunk in self.chunks.values()), "a chunk is read while it is written"


@dataclass(eq=False)
class Copy:
    """Blocks on their way. `blocks`: ids of those of the device."""

    request: int
    names: list[Name]
    blocks: list[int]
    is_load: bool
    end_s: float = inf
    polled: bool = False


class Stream:
    """Copies of one direction, one after the other."""

    def __init__(self, copy_s: Callable[[int], float]):
        self.copy_s = copy_s
        self.free_s = -inf
        self.copies: list[Copy] = []

    def submit(self, copy: Copy, now: float) -> None:
        copy.end_s = self.free_s = max(self.free_s, now) + self.copy_s(len(copy.blocks))
        self.copies.append(copy)

    def poll(self, now: float, strictly: bool) -> list[Copy]:
        """The copies that have ended by then, in order; each is found once."""
        found = []
        while self.copies and (self.copies[0].end_s < now if strictly else self.copies[0].end_s <= now):
            found.append(self.copies.pop(0))
        return found
