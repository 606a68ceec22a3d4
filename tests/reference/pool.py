"""A pool of KV-cache blocks as vLLM V1 keeps it: real block ids, a queue of free ones, reference counts, and names by content.

A block is in the free queue exactly when no request holds it. Blocks leave the queue at its head (popped, for new tokens) or anywhere in it
(touched, by a prefix hit) and return at its tail. A block keeps its name, and so can be found, until it is popped. Any number of blocks may
have one name: two requests that compute the same content each name theirs, and the block that has had the name longest is found.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256


@dataclass(frozen=True)
class Name:
    """The content of a full block and of all before it; as in vLLM two contents are the same if their digests are."""

    digest: bytes
    parent: Name | None = field(compare=False)  # of the block before it
    token_ids: tuple[Hashable, ...] = field(compare=False)  # in the block

    @staticmethod
    def after(parent: Name | None, token_ids: tuple[Hashable, ...]) -> Name:
        return Name(sha256((parent.digest if parent else b"") + repr(token_ids).encode()).digest(), parent, token_ids)


def chain_names(token_ids: tuple[Hashable, ...], block_size: int) -> list[Name]:
    """The names of the full blocks of a sequence."""
    names: list[Name] = []
    for end in range(block_size, len(token_ids) + 1, block_size):
        names.append(Name.after(names[-1] if names else None, token_ids[end - block_size : end]))
    return names


def count_known(names: Sequence[Name], known: Collection[Name]) -> int:
    """Number of leading `names` that are all in `known`."""
    count = 0
    while count < len(names) and names[count] in known:
        count += 1
    return count


class BlockPool:
    """`num_blocks` blocks, and the ids that each request holds in sequence order.

    With `nameless_first` blocks without a name return at the head of the free queue.
    """

    def __init__(self, num_blocks: int, nameless_first: bool = False):
        self.num_blocks = num_blocks
        self.nameless_first = nameless_first
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # a linked list: any block leaves in constant time
        self.held: dict[int, list[int]] = {}
        self.refs = [0] * num_blocks  # requests that hold the block
        self.names: list[Name | None] = [None] * num_blocks
        self.named: dict[Name, dict[int, None]] = {}  # the inverse of `names`: the blocks of a name, the oldest first
        self.evictions = 0  # blocks that have lost their name because they were popped
        self.copies = 0  # blocks that have got a name which another block had

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
        return [next(iter(self.named[name])) for name in names[: count_known(names, self.named)]]

    def has_room(self, request: int, num_blocks: int, hits: Sequence[int] = (), spare: int = 0) -> bool:
        """Whether `request` can hold `num_blocks` blocks, including `hits`, and leave `spare` free. A hit that is free now uses one up."""
        missing = num_blocks - self.num_held(request) - len(hits)
        return missing + sum(self.refs[block] == 0 for block in hits) + spare <= self.num_free

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
            del self.free[block]
        self.refs[block] += 1
        self.held.setdefault(request, []).append(block)

    def _pop(self, request: int) -> None:
        block, _ = self.free.popitem(last=False)
        assert self.refs[block] == 0, f"block {block} is held and free"
        if self.names[block] is not None:
            self._forget(block)
            self.evictions += 1
        self.refs[block] = 1
        self.held.setdefault(request, []).append(block)

    def _forget(self, block: int) -> None:
        name = self.names[block]
        assert name is not None
        del self.named[name][block]
        if not self.named[name]:
            del self.named[name]
        self.names[block] = None

    def name(self, request: int, position: int, name: Name) -> None:
        """Name the block at `position` of `request`, which is full and whose tokens are known from now on."""
        block = self.held[request][position]
        assert self.names[block] is None, f"block {block} is filled twice"
        self.copies += name in self.named
        self.names[block] = name
        self.named.setdefault(name, {})[block] = None

    def release(self, request: int) -> None:
        """Free the blocks of `request`, the last of its sequence first. Those that no other request holds become free, with their names."""
        first = []
        for block in reversed(self.held.pop(request, [])):
            assert self.refs[block] > 0, f"block {block} of request {request} is free"
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free[block] = None
                if self.nameless_first and self.names[block] is None:
                    first.append(block)
        for block in reversed(first):
            self.free.move_to_end(block, last=False)

    def check(self) -> None:
        blocks = range(self.num_blocks)
        assert sorted(self.free) == [block for block in blocks if self.refs[block] == 0], "a block is lost, or free and held"
        holders = Counter(block for held in self.held.values() for block in held)
        assert self.refs == [holders[block] for block in blocks], "reference counts are not the numbers of holders"
        assert all(len(held) == len(set(held)) for held in self.held.values()), "a request holds a block twice"
        named = {block: name for name, blocks in self.named.items() for block in blocks}
        assert named == {block: name for block, name in enumerate(self.names) if name is not None}, "a name does not map to its blocks"
        assert all(self.named.values()), "a name without blocks is known"
        if self.copies == 0:
            self._check_chains()

    def _check_chains(self) -> None:
        """Check that a named block follows a named one, which is held by the same requests and not evicted before it.

        That need not be so once there are copies: a request may find one of them, and hold another after that of somebody else is evicted.
        """
        place = {block: place for place, block in enumerate(self.free)}
        for name, (block, *_) in self.named.items():
            if name.parent is None:
                continue
            assert name.parent in self.named, "a named block follows one without a name"
            (before,) = self.named[name.parent]
            assert self.refs[before] >= self.refs[block], "a block is held without the one before it"
            if self.refs[before] == 0:
                assert place[block] < place[before], "a block would be evicted before the one that follows it"

    def check_all_free(self) -> None:
        assert sorted(self.free) == list(range(self.num_blocks)), "a block did not come back"
