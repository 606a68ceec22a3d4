"""KV blocks of one instance with vLLM's prefix caching: real block ids, reference counts, a free list by last use, block hashes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

Chain = Sequence[bytes]  # hashes of a request's full blocks in order; each covers all blocks before it


def chain_of(token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """Hashes of the full blocks of a token sequence; equal hashes mean equal tokens from the start of the sequence."""
    tokens, parent, chain = np.asarray(token_ids, np.int64), b"", []
    for end in range(block_size, len(tokens) + 1, block_size):
        parent = hashlib.sha256(parent + tokens[end - block_size : end].tobytes()).digest()
        chain.append(parent)
    return chain


class BlockPool:
    """vLLM V1's block pool.

    A freed block goes to the tail of the free list, the last block of its sequence first, and keeps its content and hash until it is
    allocated from the list's head. A lookup finds resident blocks, free or held, by hash.

    Args:
        num_blocks: usable blocks (vLLM's count without the null block).
        caching: whether hashes are kept; False is vLLM without prefix caching.
    """

    def __init__(self, num_blocks: int, caching: bool):
        self.caching = caching
        self.free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(num_blocks))
        self.references = [0] * num_blocks
        self.hash_of: list[bytes | None] = [None] * num_blocks
        self.resident: dict[bytes, OrderedDict[int, None]] = {}
        self.held: dict[int, list[int]] = {}

    def hit(self, chain: Chain, most: int) -> list[int]:
        """The block ids of the longest resident prefix of a chain, at most `most` blocks."""
        found: list[int] = []
        for block_hash in chain[:most] if self.caching else ():
            if not (copies := self.resident.get(block_hash)):
                break
            found.append(next(iter(copies)))
        return found

    def lacks(self, hit: Sequence[int], total: int) -> bool:
        """Whether a new request of `total` blocks, including the `hit` ones, does not fit into the free blocks."""
        revived = sum(self.references[block] == 0 for block in hit)
        return total - len(hit) + revived > len(self.free)

    def start(self, request: int, hit: Sequence[int]) -> None:
        """Allocate the blocks found to a new request (vLLM's touch)."""
        for block in hit:
            if self.references[block] == 0:
                del self.free[block]
            self.references[block] += 1
        self.held[request] = list(hit)

    def grow(self, request: int, total: int) -> bool:
        """Allocate blocks until a request holds `total`; all or nothing."""
        mine = self.held.setdefault(request, [])
        missing = total - len(mine)
        if missing > len(self.free):
            return False
        for _ in range(missing):
            block, _ = self.free.popitem(last=False)
            if (old := self.hash_of[block]) is not None:
                del self.resident[old][block]
                if not self.resident[old]:
                    del self.resident[old]
                self.hash_of[block] = None
            self.references[block] = 1
            mine.append(block)
        return True

    def remember(self, request: int, chain: Chain, full: int) -> None:
        """Register the first `full` blocks of a request, which are full, so that other requests can find them."""
        if not self.caching:
            return
        mine = self.held[request]
        for at in range(full - 1, -1, -1):  # backwards: the blocks already registered are a prefix
            block = mine[at]
            if self.hash_of[block] is not None:
                break
            self.hash_of[block] = chain[at]
            self.resident.setdefault(chain[at], OrderedDict())[block] = None

    def release(self, request: int) -> None:
        """Free the blocks of a request."""
        for block in reversed(self.held.pop(request, [])):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.free[block] = None
