"""Operations on the tree of shared prefixes: select requests, join trees, limit lengths, split nodes where the engine needs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.sessions import Sessions


def finish(prefixes: Prefixes, prompt_tokens: np.ndarray, sessions: Sessions | None) -> Prefixes:
    """The smallest tree of the same contents that is still split before the last token of prompts that may be cached as a whole.

    vLLM recomputes the last block of a prompt that is cached as a whole. So a node is split at `prompt_tokens - 1` and at `prompt_tokens`
    (int32[R]) of a request r where another request also covers token `prompt_tokens - 1`, unless that one waits for r and so cannot have
    cached it before r.
    """
    return _renumbered(_split_at_prompts(_merged(prefixes), prompt_tokens, sessions))


def take(prefixes: Prefixes, index: np.ndarray) -> Prefixes:
    """The tree of the requests `index` (int[K], in their new order), not yet reduced; `finish` reduces it."""
    counts = np.diff(prefixes.offsets)[index]
    offsets = _offsets(counts)
    entries = np.repeat(prefixes.offsets[index] - offsets[:-1], counts) + np.arange(offsets[-1])
    return _renumbered(Prefixes(prefixes.start_tokens, prefixes.end_tokens, offsets, prefixes.nodes[entries]))


def join(parts: Sequence[Prefixes]) -> Prefixes:
    """One tree for the requests of all parts, in their order; requests of different parts share nothing."""
    bases = np.cumsum([0] + [part.num_nodes for part in parts])[:-1]
    return Prefixes(
        np.concatenate([part.start_tokens for part in parts]),
        np.concatenate([part.end_tokens for part in parts]),
        _offsets(np.concatenate([np.diff(part.offsets) for part in parts])),
        np.concatenate([part.nodes + base for part, base in zip(parts, bases, strict=True)]).astype(np.int32),
    )


def private(total_tokens: np.ndarray) -> Prefixes:
    """The tree of contents (int[R] tokens) that share nothing: one node per request."""
    n = len(total_tokens)
    return Prefixes(
        np.zeros(n, np.int32), np.asarray(total_tokens, np.int32), np.arange(n + 1, dtype=np.int32), np.arange(n, dtype=np.int32)
    )


def limit(prefixes: Prefixes, known_tokens: np.ndarray, total_tokens: np.ndarray) -> Prefixes:
    """The tree after a change of the contents' lengths, not yet reduced; `finish` reduces it.

    The first `known_tokens` (int[R], at most the old length) of each request stay; the rest up to `total_tokens` (int[R]) is not shared.
    """
    cut = split_at(prefixes, known_tokens)
    kept = cut.end_tokens[cut.nodes] <= np.repeat(known_tokens, np.diff(cut.offsets))
    rest = np.flatnonzero(total_tokens > known_tokens)
    counts = np.bincount(cut.requests[kept], minlength=len(cut))
    nodes = np.insert(cut.nodes[kept], np.cumsum(counts)[rest], cut.num_nodes + np.arange(len(rest), dtype=np.int32))
    counts[rest] += 1
    starts = np.concatenate([cut.start_tokens, known_tokens[rest]]).astype(np.int32)
    ends = np.concatenate([cut.end_tokens, total_tokens[rest]]).astype(np.int32)
    return _renumbered(Prefixes(starts, ends, _offsets(counts), nodes))


def split_at(prefixes: Prefixes, tokens: np.ndarray) -> Prefixes:
    """The same contents with a boundary between nodes at `tokens` (int[R]) on the path of each request."""
    at = np.repeat(tokens, np.diff(prefixes.offsets))
    inside = (prefixes.start_tokens[prefixes.nodes] < at) & (at < prefixes.end_tokens[prefixes.nodes])
    return _cut(prefixes, prefixes.nodes[inside], at[inside])


def _merged(prefixes: Prefixes) -> Prefixes:
    """The tree with chains of nodes that always appear together merged into one node each."""
    sharers, parents = prefixes.sharers, prefixes.parents
    head = (parents < 0) | (sharers[parents] != sharers)
    kept = head[prefixes.nodes]
    starts = np.flatnonzero(kept)
    last = np.append(starts[1:], len(kept)) - 1  # the last node of each run of merged ones
    ends = prefixes.end_tokens.copy()
    ends[prefixes.nodes[starts]] = prefixes.end_tokens[prefixes.nodes[last]]
    counts = np.add.reduceat(kept, prefixes.offsets[:-1], dtype=np.int64)
    return _renumbered(Prefixes(prefixes.start_tokens, ends, _offsets(counts), prefixes.nodes[starts]))


def _split_at_prompts(prefixes: Prefixes, prompt_tokens: np.ndarray, sessions: Sessions | None) -> Prefixes:
    last = np.repeat(prompt_tokens - 1, np.diff(prefixes.offsets))
    starts, ends = prefixes.start_tokens[prefixes.nodes], prefixes.end_tokens[prefixes.nodes]
    entries = np.flatnonzero((starts <= last) & (last < ends))  # one per request: the node that holds its last prompt token
    holders = prefixes.nodes[entries]
    shared = prefixes.sharers[holders] > 1
    if sessions is not None and len(sessions.then):
        shared[shared] = _others_may_be_first(prefixes, np.flatnonzero(shared), holders[shared], sessions)
    node, token = holders[shared], prompt_tokens[shared]
    return _cut(prefixes, np.tile(node, 2), np.concatenate([token - 1, token]))


def _others_may_be_first(prefixes: Prefixes, request: np.ndarray, node: np.ndarray, sessions: Sessions) -> np.ndarray:
    """bool[K]: whether the node (int[K]) of a request (int[K]) is shared by another one that does not wait for it, so may precede it."""
    by_node = np.argsort(prefixes.nodes, kind="stable")
    bounds = _offsets(prefixes.sharers)
    sharers = prefixes.requests[by_node]  # node v is shared by sharers[bounds[v]:bounds[v+1]]
    lowest = np.minimum.reduceat(sessions.session[sharers], bounds[:-1])
    highest = np.maximum.reduceat(sessions.session[sharers], bounds[:-1])
    first_turn = np.minimum.reduceat(sessions.turn[sharers], bounds[:-1])
    result = (lowest[node] != highest[node]) | (first_turn[node] < sessions.turn[request])
    # In the remaining cases all sharers are later calls of the session. In a chain these all wait for r; among parallel calls some may not.
    graph = _Later(sessions)
    for k in np.flatnonzero(~result & graph.branches[sessions.session[request]]):
        result[k] = graph.any_other(request[k], sharers[bounds[node[k]] : bounds[node[k] + 1]])
    return result


class _Later:
    """Calls that wait for a given call, directly or not, in sessions that are not a plain chain."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        calls = np.bincount(sessions.session, minlength=len(sessions.names))
        # A session of n calls is a chain when each call waits for the turn right before it: n - 1 waits of one turn each.
        order = np.lexsort((sessions.turn, sessions.session))
        rank = np.empty(len(sessions), np.int64)
        rank[order] = np.arange(len(sessions))
        direct = rank[sessions.then] == rank[sessions.waited_for] + 1
        self.branches = np.bincount(sessions.session[sessions.then[direct]], minlength=len(sessions.names)) != calls - 1
        self._rank, self._order = rank, order
        self._first = _offsets(calls)
        self._sets: dict[int, dict[int, int]] = {}

    def any_other(self, request: int, sharers: np.ndarray) -> bool:
        """Whether one of `sharers`, all of the request's session, is neither the request nor a call that waits for it."""
        session = int(self._sessions.session[request])
        if session not in self._sets:
            self._sets[session] = self._later(session)
        first, later = int(self._first[session]), self._sets[session][int(request)]
        return any(not (later >> (int(self._rank[other]) - first)) & 1 for other in sharers if other != request)

    def _later(self, session: int) -> dict[int, int]:
        """Bit set for each request of the calls that wait for it; bits are the session's calls in the order of their turns."""
        s, first = self._sessions, int(self._first[session])
        later: dict[int, int] = {}
        for request in self._order[first : self._first[session + 1]][::-1].tolist():
            bits = 0
            for call in s.then[s.offsets[request] : s.offsets[request + 1]].tolist():
                bits |= later[call] | 1 << (int(self._rank[call]) - first)
            later[request] = bits
        return later


def _cut(prefixes: Prefixes, node: np.ndarray, token: np.ndarray) -> Prefixes:
    """The tree with nodes (int[K]) cut at tokens (int[K]) that lie strictly inside them; a node may be cut more than once."""
    inside = (prefixes.start_tokens[node] < token) & (token < prefixes.end_tokens[node])
    cuts = np.unique(np.stack([node[inside], token[inside]]).astype(np.int64), axis=1)
    if not cuts.size:
        return prefixes
    node, token = cuts
    pieces = 1 + np.bincount(node, minlength=prefixes.num_nodes)
    base = _offsets(pieces)
    which = base[node] + 1 + np.arange(len(node)) - np.searchsorted(node, node)  # the piece that starts at the cut
    starts, ends = np.repeat(prefixes.start_tokens, pieces), np.repeat(prefixes.end_tokens, pieces)
    starts[which] = token
    ends[which - 1] = token
    counts = pieces[prefixes.nodes]
    entries = _offsets(counts)
    nodes = np.repeat(base[prefixes.nodes] - entries[:-1], counts) + np.arange(entries[-1])
    return Prefixes(starts, ends, entries[prefixes.offsets], nodes.astype(np.int32))


def _renumbered(prefixes: Prefixes) -> Prefixes:
    """The tree with nodes numbered by their first appearance on the paths, and unused nodes removed."""
    used, first, inverse = np.unique(prefixes.nodes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(used), np.int32)
    number[order] = np.arange(len(used), dtype=np.int32)
    kept = used[order]
    return Prefixes(
        prefixes.start_tokens[kept], prefixes.end_tokens[kept], np.asarray(prefixes.offsets, np.int32), number[inverse.reshape(-1)]
    )


def _offsets(counts: np.ndarray) -> np.ndarray:
    """int32[n+1] offsets from int[n] counts."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
