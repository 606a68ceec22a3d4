"""Radix tree of the prefixes that the contents of requests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simjax.errors import SimjaxError


@dataclass(frozen=True)
class Prefixes:
    """Radix tree of the contents of R requests, in tokens, so that any block size can be used with it.

    The content of a request is its prompt followed by its output. Prefix node `v` is the run of tokens [start_tokens[v], end_tokens[v]) of
    every content whose path holds it: two requests share their first t tokens when the last common node of their paths ends at t. Tokens
    that are not shared, or not known (outputs without token ids), form a last node that only this request has. Nodes are numbered in the
    order of their first appearance on the requests' paths.

    Attributes:
        start_tokens, end_tokens: int32[M], positions in the content at which each node starts and ends (exclusive), start < end.
        offsets: int32[R+1], bounds of each request's path in `nodes`.
        nodes: int32[offsets[-1]]; nodes[offsets[r]:offsets[r+1]] is the path of request r, root first: it covers [0, prompt + output)
            without gaps.
    """

    start_tokens: np.ndarray
    end_tokens: np.ndarray
    offsets: np.ndarray
    nodes: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_nodes(self) -> int:
        return len(self.start_tokens)

    @property
    def requests(self) -> np.ndarray:
        """int32[offsets[-1]]: the request whose path holds each entry of `nodes`."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.offsets))

    @property
    def sharers(self) -> np.ndarray:
        """int64[M]: number of requests that share each node."""
        return np.bincount(self.nodes, minlength=self.num_nodes)

    @property
    def parents(self) -> np.ndarray:
        """int32[M]: the node before each one on every path that holds it, -1 where a path starts."""
        parent = np.full(self.num_nodes, -1, np.int32)
        follows = np.ones(len(self.nodes), bool)
        follows[self.offsets[:-1]] = False
        parent[self.nodes[follows]] = self.nodes[:-1][follows[1:]]
        return parent

    def path(self, request: int) -> np.ndarray:
        """Prefix nodes of a request's content, root first."""
        return self.nodes[self.offsets[request] : self.offsets[request + 1]]

    def shared_tokens(self, a: int, b: int) -> int:
        """Number of leading tokens that the contents of requests `a` and `b` share."""
        first, second = self.path(a), self.path(b)
        same = first[: len(second)] == second[: len(first)]
        common = len(same) if same.all() else int(same.argmin())
        return int(self.end_tokens[first[common - 1]]) if common else 0

    def validate(self, total_tokens: np.ndarray, source: str = "prefixes") -> Prefixes:
        """Return self, or raise `SimjaxError` naming the first thing that is wrong; `total_tokens` is prompt + output, int[R]."""
        lengths = np.diff(self.offsets)
        if len(self) != len(total_tokens) or self.offsets[0] != 0 or self.offsets[-1] != len(self.nodes) or np.any(lengths < 1):
            raise SimjaxError(f"{source}: every request needs a path of shared prefixes")
        if len(self.start_tokens) != len(self.end_tokens) or np.any(self.start_tokens < 0) or np.any(self.start_tokens >= self.end_tokens):
            raise SimjaxError(f"{source}: every node of the shared prefixes must hold at least one token")
        if self.nodes.min() < 0 or self.nodes.max() >= self.num_nodes:
            raise SimjaxError(f"{source}: a path holds a node that is not among the {self.num_nodes}")
        starts, ends = self.start_tokens[self.nodes], self.end_tokens[self.nodes]
        first = np.zeros(len(self.nodes), bool)
        first[self.offsets[:-1]] = True
        before = np.where(first, 0, np.roll(ends, 1))
        if (gap := np.flatnonzero(starts != before)).size:
            raise SimjaxError(f"{source}: request {self.requests[gap[0]]}: its path has a gap at token {before[gap[0]]}")
        if (bad := np.flatnonzero(ends[self.offsets[1:] - 1] != total_tokens)).size:
            r = bad[0]
            raise SimjaxError(f"{source}: request {r}: its path ends at token {ends[self.offsets[r + 1] - 1]} of {total_tokens[r]}")
        parent = self.parents[self.nodes]
        if np.any(parent != np.where(first, -1, np.roll(self.nodes, 1))):
            raise SimjaxError(f"{source}: a node of the shared prefixes has two different parents")
        return self
