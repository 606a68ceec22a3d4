"""The tree of shared prefixes against contents compared token by token."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.contents.prefixes import Prefixes
from simjax.workload.contents.radix import from_blocks, from_history, from_keys
from simjax.workload.sessions import Sessions, from_waits

MANY = settings(deadline=None, max_examples=200)
FIELDS = ("start_tokens", "end_tokens", "offsets", "nodes")


@st.composite
def contents(draw, tokens_per_id=None):
    """Ids of a few requests, tokens per id, numbers of tokens covered, prompt and total tokens."""
    size = tokens_per_id or draw(st.integers(1, 4))
    ids = draw(st.lists(st.lists(st.integers(0, 1), max_size=7), min_size=1, max_size=7))
    missing = [draw(st.integers(0, size - 1)) if of else 0 for of in ids]
    known = np.array([len(of) * size - gap for of, gap in zip(ids, missing, strict=True)])
    total = np.maximum(known + [draw(st.integers(0, 3)) for _ in ids], 2)
    prompt = np.array([draw(st.integers(1, int(t) - 1)) for t in total], np.int32)
    return [np.array(of, np.int64) for of in ids], size, known, prompt, total


@st.composite
def waiting(draw, n):
    """Sessions of n requests, chains or not; calls wait for earlier ones of their session."""
    session = np.array([draw(st.integers(0, 2)) for _ in range(n)])
    names, session = np.unique(session, return_inverse=True)
    turn = np.array([int(np.sum(session[:i] == session[i])) for i in range(n)])
    pairs = [(a, b) for b in range(n) for a in range(b) if session[a] == session[b]]
    chain = draw(st.booleans())
    kept = [(a, b) for a, b in pairs if (turn[b] == turn[a] + 1 if chain else draw(st.booleans()))]
    before, after = (np.array([pair[side] for pair in kept], np.int64) for side in (0, 1))
    return from_waits(session, tuple(map(str, names)), turn, before, after, np.zeros(len(kept))).validate()


def expected_shares(ids, size, known, total):
    """int[R, R]: tokens that two requests share, counted id by id."""
    n = len(ids)
    shares = np.diag(total)
    for a in range(n):
        for b in range(a):
            same = 0
            while same < min(len(ids[a]), len(ids[b])) and ids[a][same] == ids[b][same]:
                same += 1
            shares[a, b] = shares[b, a] = min(same * size, known[a], known[b])
    return shares


def later_calls(sessions: Sessions | None, n):
    """bool[R, R]: whether call b waits for call a, directly or not."""
    later = np.zeros((n, n), bool)
    if sessions is not None:
        later[sessions.waited_for, sessions.then] = True
        for _ in range(n):
            later |= (later.astype(int) @ later.astype(int)) > 0
    return later


def boundaries(shares, prompt, total, sessions):
    """The tokens at which the path of each request must have a node boundary, and has no other."""
    n, later = len(total), later_calls(sessions, len(total))
    result = []
    for a in range(n):
        ends = {int(shares[a, b]) for b in range(n)}
        for r in range(n):
            found_before = any(shares[q, r] >= prompt[r] and q != r and not later[r, q] for q in range(n))
            if found_before and shares[a, r] >= prompt[r]:
                ends |= {int(prompt[r]) - 1, int(prompt[r])}
        result.append(sorted(ends - {0}))
    return result


def check(prefixes: Prefixes, shares, prompt, total, sessions):
    prefixes.validate(total)
    for a in range(len(total)):
        for b in range(len(total)):
            assert prefixes.shared_tokens(a, b) == shares[a, b]
    assert [prefixes.end_tokens[prefixes.path(r)].tolist() for r in range(len(total))] == boundaries(shares, prompt, total, sessions)
    first_seen = np.unique(prefixes.nodes, return_index=True)[1]
    assert np.all(np.diff(first_seen) > 0) and len(first_seen) == prefixes.num_nodes  # numbered by appearance, none unused


@MANY
@given(st.data())
def test_a_tree_of_ids_shares_what_is_equal_and_splits_where_needed_and_nowhere_else(data):
    ids, size, known, prompt, total = data.draw(contents())
    sessions = data.draw(st.none() | waiting(len(ids)))
    prefixes = tree.finish(from_blocks(ids, size, known, total), prompt, sessions)
    check(prefixes, expected_shares(ids, size, known, total), prompt, total, sessions)


@MANY
@given(st.data())
def test_a_selection_of_requests_has_the_tree_that_these_alone_would_have(data):
    ids, size, known, prompt, total = data.draw(contents())
    prefixes = tree.finish(from_blocks(ids, size, known, total), prompt, None)
    index = np.array(data.draw(st.permutations(range(len(ids)))))[: data.draw(st.integers(1, len(ids)))]
    taken = tree.finish(tree.take(prefixes, index), prompt[index], None)
    alone = tree.finish(from_blocks([ids[i] for i in index], size, known[index], total[index]), prompt[index], None)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(taken, name), getattr(alone, name))


@MANY
@given(st.data())
def test_contents_of_other_lengths_share_what_is_left_of_both(data):
    ids, size, known, prompt, total = data.draw(contents())
    shares = expected_shares(ids, size, known, total)
    kept = np.array([data.draw(st.integers(0, int(t))) for t in total])
    length = np.maximum(kept + [data.draw(st.integers(0, 3)) for _ in kept], 2)
    limited = tree.limit(tree.finish(from_blocks(ids, size, known, total), prompt, None), kept, length)
    shares = np.minimum(shares, np.minimum(kept[:, None], kept[None, :]))
    np.fill_diagonal(shares, length)
    prompt = np.minimum(prompt, length - 1).astype(np.int32)
    check(tree.finish(limited, prompt, None), shares, prompt, length, None)


@MANY
@given(st.data())
def test_joined_trees_share_nothing_with_each_other(data):
    parts = [data.draw(contents()) for _ in range(2)]
    joined = tree.join([from_blocks(ids, size, known, total) for ids, size, known, _, total in parts])
    n = len(parts[0][0])
    total = np.concatenate([part[4] for part in parts])
    shares = np.zeros((len(total), len(total)), int)
    shares[:n, :n] = expected_shares(*parts[0][:3], parts[0][4])
    shares[n:, n:] = expected_shares(*parts[1][:3], parts[1][4])
    prompt = np.concatenate([part[3] for part in parts])
    check(tree.finish(joined, prompt, None), shares, prompt, total, None)


@MANY
@given(st.data())
def test_a_history_shares_what_was_copied(data):
    n = data.draw(st.integers(1, 8))
    prompt = np.array([data.draw(st.integers(1, 9)) for _ in range(n)], np.int32)
    total = prompt + np.array([data.draw(st.integers(1, 5)) for _ in range(n)])
    before = np.array([data.draw(st.integers(-1, r - 1)) for r in range(n)])
    shared = np.array([0 if b < 0 else data.draw(st.integers(0, int(min(p, total[b])))) for b, p in zip(before, prompt, strict=True)])
    groups, group_tokens = np.array([data.draw(st.integers(0, 1)) for _ in range(n)]), np.minimum(prompt, data.draw(st.integers(0, 6)))
    texts: list[list[tuple]] = []
    for r in range(n):
        of_group = [("group", groups[r], k) for k in range(group_tokens[r])]
        start = of_group if before[r] < 0 else texts[before[r]][: shared[r]]
        texts.append(start + [("own", r, k) for k in range(len(start), total[r])])
    shares = np.diag(total)
    for a in range(n):
        for b in range(a):
            same = [x == y for x, y in zip(texts[a], texts[b], strict=False)]
            shares[a, b] = shares[b, a] = same.index(False) if False in same else len(same)
    history = from_history(before, shared, total, groups, group_tokens)
    check(tree.finish(history, prompt, None), shares, prompt, total, None)


def test_equal_keys_share_the_shorter_length_and_none_shares_nothing():
    total = np.array([10, 10, 10, 10, 10])
    prefixes = from_keys(["a", None, "a", "b", "a"], np.array([6, 6, 4, 6, 9]), total).validate(total)
    shares = [[prefixes.shared_tokens(a, b) for b in range(5)] for a in range(5)]
    assert shares == [[10, 0, 4, 0, 6], [0, 10, 0, 0, 0], [4, 0, 10, 0, 4], [0, 0, 0, 10, 0], [6, 0, 4, 0, 10]]


def test_ids_beyond_32_bits_and_negative_ones_are_told_apart():
    ids = [np.array([2**40, -1]), np.array([2**40, 2**32 - 1]), np.array([0, -1])]
    prefixes = from_blocks(ids, 4, np.full(3, 8), np.full(3, 9))
    assert [prefixes.shared_tokens(0, 1), prefixes.shared_tokens(0, 2), prefixes.shared_tokens(1, 2)] == [4, 0, 0]


def test_a_chain_of_calls_is_not_split_at_its_prompts():
    """Every call's prompt is the whole conversation: no prompt can be cached before its call, so no node ends at a prompt."""
    prompt, total = np.array([10, 20, 30], np.int32), np.array([15, 25, 35])
    history = from_history(np.array([-1, 0, 1]), np.array([0, 15, 25]), total)
    chain = from_waits(np.zeros(3), ("s",), np.arange(3), np.array([0, 1]), np.array([1, 2]), np.zeros(2))
    assert tree.finish(history, prompt, chain).end_tokens.tolist() == [15, 25, 35]
    # Without the waiting the second may come first and cache the first one's prompt as a whole.
    assert tree.finish(history, prompt, None).end_tokens.tolist() == [9, 10, 15, 19, 20, 25, 35]


def test_private_contents_are_a_node_each():
    total = np.array([5, 3])
    prefixes = tree.private(total).validate(total)
    assert prefixes.shared_tokens(0, 1) == 0 and prefixes.num_nodes == 2


TREE = Prefixes(*(np.array(values, np.int32) for values in ([0, 4, 4], [4, 9, 7], [0, 2, 4], [0, 1, 0, 2])))


@pytest.mark.parametrize(
    ("change", "total", "reason"),
    [
        ({}, [9, 8], "request 1: its path ends at token 7 of 8"),
        ({}, [9], "every request needs a path"),
        ({"offsets": [0, 4, 4]}, [9, 7], "every request needs a path"),
        ({"start_tokens": [0, 5, 4]}, [9, 7], "request 0: its path has a gap at token 4"),
        ({"start_tokens": [0, 4, 7]}, [9, 7], "at least one token"),
        ({"nodes": [0, 1, 0, 3]}, [9, 7], "a node that is not among the 3"),
        ({"start_tokens": [0, 4, 0, 4], "end_tokens": [4, 9, 4, 9], "nodes": [0, 1, 2, 1]}, [9, 9], "has two different parents"),
    ],
)
def test_a_tree_that_is_none_is_an_error(change, total, reason):
    TREE.validate(np.array([9, 7]))
    with pytest.raises(SimjaxError, match=f"^trace: .*{reason}"):
        replace(TREE, **{name: np.array(values, np.int32) for name, values in change.items()}).validate(np.array(total), "trace")
