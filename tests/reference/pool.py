"""A pool of KV-cache blocks as vLLM V1 keeps it: real block ids, a free list, reference counts, and names by content.

A block is in the free list exactly when nobody holds it. Blocks leave the list at its head (popped, for new tokens) or from any place in it
(touched, by a prefix hit) and come back at its tail. A free block keeps its name, and so can be hit, until it is popped.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Hashable, Sequence
from typing import Any

Name = tuple[Any, tuple[Hashable, ...]]  # chained content: (name of the block before it, None for the first; the token ids in the block)


def chain_names(token_ids: tuple[Hashable, ...], block_size: int) -> list[Name]:
    """The names of the full blocks of a sequence: up to some hundred, since Python hashes and compares them all the way down."""
    names: list[Name] = []
    for end in range(block_size, len(token_ids) + 1, block_size):
        names.append((names[-1] if names else None, token_ids[end - block_size : end]))
    return names


def count_known(names: Sequence[Name], known: Collection[Name]) -> int:
    """How many of `names`, counted from the first without a gap, are in `known`."""
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
        self.evictions = 0  # names lost because their block was popped
        self._lost: set[Name] = set()  # those among them that went since the latest `begin`
        self.copies = 0  # full blocks that stayed nameless, see `name`

    @property
    def num_free(self) -> int:
        return len(self.free)

    def num_held(self, request: int) -> int:
        return len(self.held.get(request, []))

    def num_distinct(self, requests: Collection[int]) -> int:
        """Blocks held by any of `requests`; a shared one counts once."""
        return len({block for request in requests for block in self.held.get(request, [])})

    def lookup(self, names: Sequence[Name]) -> list[int]:
        """The blocks of the longest chain that the pool has of `names`. Changes nothing."""
        return [self.named[name] for name in names[: count_known(names, self.named)]]

    def has_room(self, request: int, num_blocks: int, hits: Sequence[int] = ()) -> bool:
        """Whether `request` can come to hold `num_blocks` blocks, `hits` among them. A hit that is free now uses up a free block, too."""
        missing = num_blocks - self.num_held(request) - len(hits)
        return missing + sum(self.refs[block] == 0 for block in hits) <= self.num_free

    def begin(self) -> None:
        """What goes from now on and comes back before the next `begin` is not counted as evicted."""
        self._lost.clear()

    def grow(self, request: int, num_blocks: int, hits: Sequence[int] = ()) -> bool:
        """Let `request` hold at least `num_blocks` blocks, of which a newcomer shares `hits`. All or nothing: False, and no change."""
        assert not hits or request not in self.held, "only a request that holds nothing can have hits"
        if not self.has_room(request, num_blocks, hits):
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
        """The block at `position` of `request` is full, as of now: give it its name.

        When another block has that name already, (a) and it is free, the new block takes the name over (which is no eviction), and the old
        one stays where it is in the free list; (b) and somebody holds it, the new block stays nameless for good. vLLM gives both copies
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
        if name in self._lost:  # it went and comes back at once: nothing has left the cache
            self.evictions -= 1
        self.names[block] = name
        self.named[name] = block

    def release(self, request: int) -> None:
        """Let go of the blocks of `request`, the last of its sequence first. Those that nobody else holds become free; they keep names."""
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
        """A named block follows a named one, which is held by whoever holds it, and is not evicted before it.

        A nameless copy ends that: its holder fills and names the block after it, while the named block before it may go its own way.
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
