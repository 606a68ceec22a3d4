"""A pool of KV-cache blocks as vLLM V1 keeps it: real block ids, a free list, reference counts, and names by content.

A block is in the free list exactly when no request holds it. Blocks leave the list at its head (popped, for new tokens) or anywhere in it
(touched, by a prefix hit) and return at its tail. A free block keeps its name, and so can be hit, until it is popped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Sequence
from typing import Any

Name = tuple[Any, tuple[Hashable, ...]]  # chained content: (name of the block before it, None for the first; the token ids in the block)


def chain_names(token_ids: tuple[Hashable, ...], block_size: int) -> list[Name]:
    """The names of the full blocks of a sequence, at most some hundred, since Python hashes and compares nested tuples recursively."""
    names: list[Name] = []
    for end in range(block_size, len(token_ids) + 1, block_size):
        names.append((names[-1] if names else None, token_ids[end - block_size : end]))
    return names


def count_known(names: Sequence[Name], known: Collection[Name]) -> int:
    """Number of leading `names` that are all in `known`."""
    count = 0
    while count < len(names) and names[count] in known:
        count += 1
    return count


class BlockPool:
    """`num_blocks` blocks, and the ids that each request holds in sequence order."""

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.free: deque[int] = deque(range(num_blocks))
        self.held: dict[int, list[int]] = {}
        self.refs = [0] * num_blocks  # requests that hold the block
        self.names: list[Name | None] = [None] * num_blocks
        self.named: dict[Name, int] = {}  # the inverse of `names`: at most one block has a name
        self.evictions = 0  # number of names lost because their block was popped
        self._lost: set[Name] = set()  # those of them lost since the latest `begin`
        self.copies = 0  # full blocks that stayed nameless, see `name`

    @property
    def num_free(self) -> int:
        return len(self.free)

    def num_held(self, request: int) -> int:
        return len(self.held.get(request, []))

    def num_distinct(self, requests: Collection[int]) -> int:
        """Number of blocks held by any of `requests`; a shared block counts once."""
        return len({block for request in requests for block in self.held.get(request, [])})

    def lookup(self, names: Sequence[Name]) -> list[int]:
        """The blocks of the longest leading part of `names` in the pool, which is not changed."""
        return [self.named[name] for name in names[: count_known(names, self.named)]]

    def has_room(self, request: int, num_blocks: int, hits: Sequence[int] = (), spare: int = 0) -> bool:
        """Whether `request` can hold `num_blocks` blocks, including `hits`, and leave `spare` free. A hit that is free now uses one up."""
        missing = num_blocks - self.num_held(request) - len(hits)
        return missing + sum(self.refs[block] == 0 for block in hits) + spare <= self.num_free

    def begin(self) -> None:
        """Start a formation: names lost from now on and named again before the next `begin` do not count as evicted."""
        self._lost.clear()

    def grow(self, request: int, num_blocks: int, hits: Sequence[int] = (), spare: int = 0) -> bool:
        """Allocate until `request` holds at least `num_blocks` blocks; a new one shares `hits`. On failure False, without changes."""
        assert not hits or request not in self.held, "only a request that holds nothing can have hits"
        if not self.has_room(request, num_blocks, hits, spare):
            return False
        for block in hits:
            self._touch(request, block)
        for _ in range(num_blocks - self.num_held(request)):
            self._pop(request)
        return True

    def _touch(self, request: int, block: int) -> None:
        if self.refs[block] == 0:
            self.free.remove(block)
        self.refs[block] += 1
        self.held.setdefault(request, []).append(block)

    def _pop(self, request: int) -> None:
        block = self.free.popleft()
        assert self.refs[block] == 0, f"block {block} is held and free"
        if (name := self.names[block]) is not None:
            self._forget(block)
            self._lost.add(name)
            self.evictions += 1
        self.refs[block] = 1
        self.held.setdefault(request, []).append(block)

    def _forget(self, block: int) -> None:
        name = self.names[block]
        assert name is not None
        del self.named[name]
        self.names[block] = None

    def name(self, request: int, position: int, name: Name) -> None:
        """Name the block at `position` of `request`, which is full from now on.

        If another block has that name already, (a) and is free, the new block takes the name over (which is not an eviction), and the old
        one keeps its position in the free list; (b) and is held, the new block stays nameless for good. vLLM gives both copies
        the name; the only difference is which of the copies is evicted or touched first.
        """
        block = self.held[request][position]
        assert self.names[block] is None, f"block {block} is filled twice"
        other = self.named.get(name)
        if other is not None and self.refs[other] > 0:
            self.copies += 1
            return
        if other is not None:
            self._forget(other)
        if name in self._lost:  # lost and named again in the same formation: the cache has lost nothing
            self.evictions -= 1
        self.names[block] = name
        self.named[name] = block

    def release(self, request: int) -> None:
        """Free the blocks of `request`, the last of its sequence first. Those that no other request holds become free, with their names."""
        for block in reversed(self.held.pop(request, [])):
            assert self.refs[block] > 0, f"block {block} of request {request} is free"
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free.append(block)

    def check(self) -> None:
        blocks = range(self.num_blocks)
        assert sorted(self.free) == [block for block in blocks if self.refs[block] == 0], "a block is lost, or free and held, or free twice"
        holders = Counter(block for held in self.held.values() for block in held)
        assert self.refs == [holders[block] for block in blocks], "reference counts are not the numbers of holders"
        assert all(len(held) == len(set(held)) for held in self.held.values()), "a request holds a block twice"
        assert {name: block for block, name in enumerate(self.names) if name is not None} == self.named, "a name does not map to its block"
        assert len(self.named) == sum(name is not None for name in self.names), "two blocks have the same name"
        if self.copies == 0:
            self._check_chains()

    def _check_chains(self) -> None:
        """Check that a named block follows a named one, which is held by the same requests and not evicted before it.

        A nameless copy is an exception: its holder fills and names the next block, while the named block before it may be evicted.
        """
        place = {block: place for place, block in enumerate(self.free)}
        for (parent, _), block in self.named.items():
            if parent is None:
                continue
            assert parent in self.named, "a named block follows one without a name"
            before = self.named[parent]
            assert self.refs[before] >= self.refs[block], "a block is held without the one before it"
            if self.refs[before] == 0:
                assert place[block] < place[before], "a block would be evicted before the one that follows it"

    def check_all_free(self) -> None:
        assert sorted(self.free) == list(range(self.num_blocks)), "a block did not come back"
