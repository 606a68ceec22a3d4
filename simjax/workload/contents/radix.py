"""Builds the radix tree of shared prefixes from what is known about contents: token ids, block ids, or which request continues which."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from simjax.workload.contents.prefixes import Prefixes


def from_blocks(ids: Sequence[np.ndarray], tokens_per_id: int, known_tokens: np.ndarray, total_tokens: np.ndarray) -> Prefixes:
    """The tree of contents given as ids of successive runs of `tokens_per_id` tokens: 1 for token ids, more for block hashes.

    Equal ids at the same position mean equal tokens only where all ids before them are equal too; ids are never compared elsewhere.

    Args:
        ids: int[n_r] for each request r.
        tokens_per_id: number of tokens that an id stands for.
        known_tokens: int[R], number of tokens of the content that the ids cover, at most n_r * tokens_per_id: the last id may stand for a
            partial block, of which two requests share the tokens that both cover.
        total_tokens: int[R], prompt + output; the tokens beyond the known ones are not shared.
    """
    counts = -(-np.asarray(known_tokens, np.int64) // tokens_per_id)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    flat = np.concatenate([row[:n] for row, n in zip(ids, counts, strict=True)]) if len(ids) else np.zeros(0, np.int64)
    ends = (np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts) + 1) * tokens_per_id
    some = counts > 0
    ends[offsets[1:][some] - 1] = np.asarray(known_tokens)[some]
    return from_runs(flat, ends, offsets, total_tokens)


def from_keys(keys: Sequence[Hashable | None], shared_tokens: np.ndarray, total_tokens: np.ndarray) -> Prefixes:
    """The tree of contents that start alike where their keys are equal.

    Args:
        keys: key of each request; None for one that shares nothing.
        shared_tokens: int[R], number of leading tokens that the key stands for; two requests share the smaller number.
        total_tokens: int[R], prompt + output.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    keyed = np.array([key is not None for key in keys]) & (np.asarray(shared_tokens) > 0)
    ids = np.array([numbers[key] for key in keys])[keyed]
    return from_runs(ids, np.asarray(shared_tokens)[keyed], np.concatenate([[0], np.cumsum(keyed)]), total_tokens)


def from_history(
    before: np.ndarray,
    shared_tokens: np.ndarray,
    total_tokens: np.ndarray,
    groups: np.ndarray | None = None,
    group_tokens: np.ndarray | None = None,
) -> Prefixes:
    """The tree of contents that continue each other.

    Args:
        before: int[R], the request whose content this one continues, which has a smaller index; -1 for none.
        shared_tokens: int[R], number of leading tokens taken over from it, at most its whole content.
        total_tokens: int[R], prompt + output.
        groups: int[R], group of each request; used where `before` is -1.
        group_tokens: int[R], number of leading tokens shared within the group.
    """
    n = len(before)
    owners: list[np.ndarray] = []  # for each request: the owners of the successive runs of tokens in its content ...
    limits: list[np.ndarray] = []  # ... and the token at which each run ends
    for r, (parent, shared, total) in enumerate(zip(before.tolist(), shared_tokens.tolist(), total_tokens.tolist(), strict=True)):
        if parent >= 0 and shared > 0:
            runs = 1 + int(np.searchsorted(limits[parent], shared))
            owner, limit = owners[parent][:runs].copy(), limits[parent][:runs].copy()
            limit[-1] = shared
        elif parent < 0 and groups is not None and group_tokens is not None and group_tokens[r] > 0:
            owner, limit = np.array([n + groups[r]]), np.array([group_tokens[r]])
        else:
            owner, limit = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if not len(limit) or total > limit[-1]:
            owner, limit = np.append(owner, r), np.append(limit, total)
        owners.append(owner)
        limits.append(limit)
    offsets = np.concatenate([[0], np.cumsum([len(owner) for owner in owners])])
    return from_runs(np.concatenate(owners), np.concatenate(limits), offsets, total_tokens)


def from_runs(ids: np.ndarray, ends: np.ndarray, offsets: np.ndarray, total_tokens: np.ndarray) -> Prefixes:
    """The tree of contents given as successive runs of tokens.

    Two requests whose runs are equal before run k share those runs, and, where run k has the same id in both, the shorter of the two.

    Args:
        ids: int[N], identity of the tokens of each run.
        ends: int[N], the token at which a run ends, rising within a request and at most its `total_tokens`; the next one starts there.
        offsets: int[R+1]; the runs of request r are offsets[r]:offsets[r+1]. The rest of its content is not shared.
        total_tokens: int[R], prompt + output.
    """
    runs = _symbols(ids, ends)
    order = _sorted(runs, offsets)
    shared = _shared_with_next(runs, ends, offsets, order)
    depth, parent, attached = _intervals(shared.tolist())
    # From the tree of sorted requests to paths: a request longer than the node it is attached to ends in a leaf of its own below it.
    total = np.asarray(total_tokens)[order]
    own = np.flatnonzero(total > depth[attached])
    n, inner = len(order), len(depth)
    leaf = attached.copy()
    leaf[own] = inner + np.arange(len(own))
    parent = np.concatenate([parent, attached[own]])
    depth = np.concatenate([depth, total[own]])
    hops: list[tuple[np.ndarray, np.ndarray]] = []
    rows, nodes = np.arange(n), leaf
    while (live := nodes > 0).any():
        rows, nodes = rows[live], nodes[live]
        hops.append((rows, nodes))
        nodes = parent[nodes]
    counts = np.zeros(n, np.int64)
    for rows, _ in hops:
        counts[order[rows]] += 1
    path_offsets = np.concatenate([[0], np.cumsum(counts)])
    path = np.empty(path_offsets[-1], np.int32)
    for hop, (rows, nodes) in enumerate(hops):
        path[path_offsets[order[rows] + 1] - 1 - hop] = nodes - 1  # node 0 is the root, which holds no token
    starts = depth[parent[1:]]
    return Prefixes(starts.astype(np.int32), depth[1:].astype(np.int32), path_offsets.astype(np.int32), path)


def _symbols(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Big-endian uint32[N, 2] of (id, end), so that sorting the bytes puts equal ids in the order of rising ends."""
    if len(ids) and (ids.min() < 0 or ids.max() >= 2**32):
        ids = np.unique(ids, return_inverse=True)[1].reshape(-1)
    return np.stack([ids, ends], axis=1).astype(">u4")


def _sorted(runs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """int64[R]: the requests in the lexicographic order of their runs, so that those with a common prefix are neighbours."""
    raw, bounds = runs.tobytes(), (offsets * 8).tolist()
    keys = [raw[start:end] for start, end in pairwise(bounds)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _shared_with_next(runs: np.ndarray, ends: np.ndarray, offsets: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64[R-1]: tokens that successive requests of `order` share. Any two requests share the minimum of the entries between them."""
    ids, both = runs[:, 0], runs.view(np.uint64).reshape(-1)
    start, stop = offsets[order], offsets[order + 1]
    shared = np.zeros(max(len(order) - 1, 0), np.int64)
    some = stop > start
    starts_alike = some[:-1] & some[1:]
    starts_alike[starts_alike] = ids[start[:-1][starts_alike]] == ids[start[1:][starts_alike]]
    for i in np.flatnonzero(starts_alike).tolist():
        a, b = int(start[i]), int(start[i + 1])
        m = min(int(stop[i]) - a, int(stop[i + 1]) - b)
        same = both[a : a + m] == both[b : b + m]
        k = int(same.argmin())
        if same[k]:
            shared[i] = ends[a + m - 1]
        elif ids[a + k] == ids[b + k]:
            shared[i] = min(ends[a + k], ends[b + k])
        else:
            shared[i] = ends[a + k - 1] if k else 0
    return shared


def _intervals(shared: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tree of the prefixes that neighbours share (int[R-1] tokens).

    Returns:
        The token at which each node ends, each node's parent (node 0 is the root and ends at 0), and for each of the R sorted requests
        the deepest node that it shares.
    """
    depth, parent, attached = [0], [0], []
    open_nodes = [0]
    for length in [*shared, 0]:
        deepest, child = open_nodes[-1], -1
        while depth[open_nodes[-1]] > length:
            child = open_nodes.pop()
        top = open_nodes[-1]
        if depth[top] < length:
            node = len(depth)
            depth.append(length)
            parent.append(top)
            if child >= 0:
                parent[child] = node
            open_nodes.append(node)
        attached.append(deepest if depth[deepest] >= length else open_nodes[-1])
    return np.array(depth, np.int64), np.array(parent, np.int64), np.array(attached, np.int64)
