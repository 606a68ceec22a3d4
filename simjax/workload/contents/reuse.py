"""Prefix-cache hits to expect from a workload: its requests are fed to a cache one after the other, without timing.

The cache holds blocks of `block_size` tokens and evicts the least recently used one; a request looks up its prompt's blocks, then touches
all blocks of its content, the deepest first, so that the start of a content outlives its continuation. All cache sizes are evaluated at
once: under LRU a block is found in a cache of C blocks exactly when fewer than C others were used since its last use. All blocks of a
prefix node move together, so the run time grows with the nodes on the paths, not with the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.workload import Workload


@dataclass(frozen=True)
class Reuse:
    """Blocks of the prompts that were used before, with the number of other blocks used since.

    Attributes:
        block_size: tokens per block.
        prompt_tokens: prompt tokens of all requests together.
        prompt_blocks: number of blocks looked up.
        distinct_blocks: number of different blocks used; a cache of that size never evicts.
        hit_requests: number of requests that find at least one block when nothing is evicted.
        others, blocks: int64[K] each: runs of blocks that were used before; `others[k]` different blocks were used since the last use of
            the first of `blocks[k]` blocks, and one more for each next one.
    """

    block_size: int
    prompt_tokens: int
    prompt_blocks: int
    distinct_blocks: int
    hit_requests: int
    others: np.ndarray
    blocks: np.ndarray

    def hit_blocks(self, cache_blocks: int | None = None) -> int:
        """Number of blocks found in an LRU cache of `cache_blocks` blocks; None: nothing is ever evicted (the ideal)."""
        if cache_blocks is None:
            return int(self.blocks.sum())
        return int(np.clip(cache_blocks - self.others, 0, self.blocks).sum())

    def token_hit_fraction(self, cache_blocks: int | None = None) -> float:
        """Tokens of the blocks found as a fraction of all prompt tokens, which vLLM reports as its prefix cache hit rate."""
        return self.hit_blocks(cache_blocks) * self.block_size / self.prompt_tokens

    def block_hit_fraction(self, cache_blocks: int | None = None) -> float:
        """Blocks found as a fraction of all blocks looked up."""
        return self.hit_blocks(cache_blocks) / self.prompt_blocks if self.prompt_blocks else 0.0


def prefix_reuse(workload: Workload, block_size: int = 16, outputs: bool = True, partial_blocks: bool = False) -> Reuse:
    """Feeds the requests to a prefix cache in the order of `feeding_order`.

    Args:
        workload: a workload with known prefixes.
        block_size: tokens per block.
        outputs: whether outputs are cached too, as far as they are computed (all but the last token), or only prompts.
        partial_blocks: False counts as vLLM does: only whole blocks are found, and never the last token of a prompt. True counts like
            traces of block hashes: the partial last block of a prompt is a block like any other (outputs are then left out).

    Raises:
        SimjaxError: nothing is known about prefixes, or the block size is below 1.
    """
    if workload.prefixes is None:
        raise SimjaxError(f"{workload.source}: nothing is known about what its requests share")
    if block_size < 1:
        raise SimjaxError(f"block_size={block_size}; it must be at least 1")
    prompt = workload.prompt_tokens.astype(np.int64)
    used = prompt + workload.output_tokens - 1 if outputs and not partial_blocks else prompt
    items = _items(workload, used, block_size, partial_blocks)
    looked_up = -(-prompt // block_size) if partial_blocks else (prompt - 1) // block_size
    others: list[int] = []
    blocks: list[int] = []
    hit_requests = 0
    stack = _Recency(len(workload))
    for now, request in enumerate(feeding_order(workload).tolist()):
        found, left = stack.use(items[request], now), int(looked_up[request])
        hit_requests += bool(found) and left > 0
        for distance, count in found:
            others.append(distance)
            blocks.append(min(count, left))
            left -= blocks[-1]
    return Reuse(
        block_size=block_size,
        prompt_tokens=int(prompt.sum()),
        prompt_blocks=int(looked_up.sum()),
        distinct_blocks=stack.total,
        hit_requests=hit_requests,
        others=np.array(others, np.int64),
        blocks=np.array(blocks, np.int64),
    )


def feeding_order(workload: Workload) -> np.ndarray:
    """int64[R]: the requests in the order in which they would be sent if each finished as soon as it was sent."""
    sessions = workload.sessions
    if sessions is None:
        return np.arange(len(workload))
    ready_s = np.where(np.isinf(workload.arrival_s), 0.0, workload.arrival_s)
    offsets, then, delay_s = sessions.offsets.tolist(), sessions.then.tolist(), sessions.delay_s.tolist()
    for request in np.argsort(sessions.turn, kind="stable").tolist():
        for edge in range(offsets[request], offsets[request + 1]):
            ready_s[then[edge]] = max(ready_s[then[edge]], ready_s[request] + delay_s[edge])
    return np.lexsort((sessions.turn, ready_s))


Item = tuple[int, int]
"""Identity and number of blocks of a run of blocks that is always used as a whole."""


def _items(workload: Workload, used_tokens: np.ndarray, block_size: int, partial_blocks: bool) -> list[list[Item]]:
    """The runs of blocks of each request, root first. A block belongs to the prefix node that holds its last token."""
    assert workload.prefixes is not None
    prefixes = tree.split_at(workload.prefixes, used_tokens)  # now every request uses nodes as a whole
    ends, starts = prefixes.end_tokens[prefixes.nodes], prefixes.start_tokens[prefixes.nodes]
    limit = np.repeat(used_tokens, np.diff(prefixes.offsets))
    count = ends // block_size - starts // block_size
    count[ends > limit] = 0
    items: list[list[Item]] = [[] for _ in range(len(prefixes))]
    some = np.flatnonzero(count > 0)
    for request, node, n in zip(prefixes.requests[some].tolist(), prefixes.nodes[some].tolist(), count[some].tolist(), strict=True):
        items[request].append((node, n))
    if partial_blocks:
        started = np.flatnonzero((ends == limit) & (ends % block_size > 0))
        for request, node in zip(prefixes.requests[started].tolist(), prefixes.nodes[started].tolist(), strict=True):
            items[request].append((prefixes.num_nodes + node, 1))
    return items


class _Recency:
    """All blocks ever used, by their last use.

    The blocks whose last user is a given request form one stretch of its path, since later requests reuse paths from their start. So one
    number of blocks per request is enough; a Fenwick tree sums them, and the order within a stretch follows from the path.
    """

    def __init__(self, requests: int) -> None:
        self._sums = [0] * (requests + 1)
        self._last: dict[int, int] = {}
        self.total = 0

    def use(self, items: list[Item], now: int) -> list[Item]:
        """Touch the items of request `now`; returns (blocks used since, number of blocks) for each item that was known before."""
        found: list[Item] = []
        moved: list[Item] = []
        for last, group in groupby(items, key=lambda item: self._last.get(item[0], -1)):
            if last < 0:
                break
            since, size = self.total - self._until(last), 0
            for _, count in group:
                found.append((since + size, count))
                size += count
            moved.append((last, size))
        for last, size in moved:
            self._add(last, -size)
        self._add(now, sum(count for _, count in items))
        self._last.update((run, now) for run, _ in items)
        return found

    def _add(self, request: int, blocks: int) -> None:
        self.total += blocks
        at = request + 1
        while at < len(self._sums):
            self._sums[at] += blocks
            at += at & -at

    def _until(self, request: int) -> int:
        """Blocks last used by this request or before it."""
        at, blocks = request + 1, 0
        while at > 0:
            blocks += self._sums[at]
            at &= at - 1
        return blocks
