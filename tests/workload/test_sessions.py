"""Calls that wait for other calls: the record, and the effect of changes to a workload on it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simjax.errors import SimjaxError
from simjax.workload.contents import tree
from simjax.workload.multi_turn import Conversations, multi_turn
from simjax.workload.sessions import from_waits
from simjax.workload.transform import (
    cap_requests,
    cap_sessions,
    clip_lengths,
    jitter,
    mean_rate,
    rescale_to_rate,
    scale_rate,
    select,
    start_sessions,
    window,
)
from simjax.workload.workload import Workload


def workload():
    """Session a: call 0, then 1 and 2 in parallel, then 3 after both; b: 0, 1; c: 0. Starts at 0, 4 and 10 s."""
    arrival_s = np.array([0.0, 4.0, 10.0, *[np.inf] * 4])
    session, turn = np.array([0, 1, 2, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 2, 3, 1])
    before, after = np.array([0, 0, 3, 4, 1]), np.array([3, 4, 5, 5, 6])
    sessions = from_waits(session, ("a", "b", "c"), turn, before, after, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    prompt = np.array([10, 20, 30, 11, 12, 13, 21], np.int32)
    return Workload(arrival_s, prompt, np.ones(7, np.int32), source="w", sessions=sessions).validate()


def calls(w):
    """Per session: (name, turn, prompt tokens, {turn waited for: delay}) of each call in the order of the turns."""
    s, found = w.sessions, []
    for r in np.lexsort((s.turn, s.session)):
        waits = {int(s.turn[s.waited_for[e]]): float(s.delay_s[e]) for e in np.flatnonzero(s.then == r)}
        found.append((s.names[s.session[r]], int(s.turn[r]), int(w.prompt_tokens[r]), waits))
    return found


A = [("a", 0, 10, {}), ("a", 1, 11, {0: 1.0}), ("a", 2, 12, {0: 2.0}), ("a", 3, 13, {1: 3.0, 2: 4.0})]
B = [("b", 0, 20, {}), ("b", 1, 21, {0: 5.0})]
C = [("c", 0, 30, {})]


def test_the_graph_is_kept_call_by_call():
    w = workload()
    s = w.sessions
    assert calls(w) == A + B + C
    assert s.predecessors.tolist() == [0, 0, 0, 1, 1, 2, 1] and s.offsets.tolist() == [0, 2, 3, 3, 4, 5, 5, 5]
    assert w.known_arrivals == 3 and len(s) == 7


def test_the_window_and_the_rate_are_those_of_the_first_calls():
    w = workload()
    cut = window(w, 3.0, 11.0).validate()
    assert calls(cut) == B + C and cut.arrival_s[:2].tolist() == [1.0, 7.0]
    assert mean_rate(w) == 2 / 10
    fast = rescale_to_rate(w, 1.0).validate()
    assert fast.arrival_s[:3].tolist() == [0.0, 0.8, 2.0] and calls(fast) == A + B + C
    np.testing.assert_array_equal(scale_rate(w, 5.0).arrival_s, fast.arrival_s)


def test_jitter_moves_the_first_calls_with_their_sessions():
    moved = jitter(workload(), 50.0, seed=1).validate()
    assert calls(moved) == A + B + C
    assert moved.prompt_tokens[:3].tolist() != [10, 20, 30] and moved.arrival_s[0] == 0.0


def test_a_cap_keeps_the_first_sessions_and_cuts_the_last_short():
    w = workload()
    assert [calls(cap_requests(w, n).validate()) for n in (1, 3, 4, 5, 6, 7, 99)] == [
        *(A[:1], A[:3], A, A + B[:1], A + B, A + B + C, A + B + C),
    ]
    assert [calls(cap_sessions(w, n).validate()) for n in (1, 2, 9)] == [A, A + B, A + B + C]
    with pytest.raises(SimjaxError, match="0 sessions asked for"):
        cap_sessions(w, 0)


def test_sessions_start_at_other_times_in_their_order():
    later = start_sessions(window(workload(), 1.0), np.array([2.0, 2.5])).validate()
    assert calls(later) == B + C and later.arrival_s[:2].tolist() == [2.0, 2.5]
    # The order of the starts decides, not that of the names.
    turned = start_sessions(replace(workload(), arrival_s=np.array([0.0, 0.0, 0.0, *[np.inf] * 4])), np.array([1.0, 2.0, 3.0]))
    assert turned.prompt_tokens[:3].tolist() == [10, 20, 30]


def test_without_a_call_those_that_wait_for_it_are_gone():
    w = workload()
    for prompt, left in ((11, A[:1] + A[2:3] + B + C), (10, B + C), (20, A + C), (21, A + B[:1] + C)):
        assert calls(select(w, w.prompt_tokens != prompt).validate()) == left
    with pytest.raises(SimjaxError, match="although a call that it waits for is not"):
        w.sessions.take(np.array([0, 1, 5]))


def test_all_starting_at_once_have_no_rate():
    w = replace(workload(), arrival_s=np.array([0.0, 0.0, 0.0, *[np.inf] * 4]))
    with pytest.raises(SimjaxError, match="at the same time, so there is no mean rate; session_rate draws starts"):
        rescale_to_rate(w, 1.0)
    plain = Workload(np.zeros(2), np.ones(2, np.int32), np.ones(2, np.int32), source="plain")
    for change in (lambda: cap_sessions(plain, 1), lambda: start_sessions(plain, np.zeros(1))):
        with pytest.raises(SimjaxError, match=r"^plain: there are no sessions"):
            change()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"turn": np.array([0, 0, 0, 1, 2, 2, 1])}, "a call waits for a call that does not come before it in its session"),
        ({"session": np.array([0, 1, 2, 1, 0, 0, 1])}, "a call waits for a call of another session"),
        ({"session": np.array([0, 1, 3, 0, 0, 0, 1])}, "session is not one of the 3 that have names"),
        ({"delay_s": np.array([1.0, 2.0, -3.0, 4.0, 5.0])}, "delays between calls must be finite and not negative"),
        ({"predecessors": np.array([0, 0, 0, 1, 1, 1, 1])}, "the counts of the calls waited for"),
        ({"then": np.array([3, 4, 6, 5, 9])}, "a waiting call is not one of the 7 requests"),
        ({"offsets": np.array([0, 2, 3, 3, 4, 5, 5, 6])}, "the offsets of the waiting calls must rise from 0 to 5"),
        ({"delay_s": np.zeros(3)}, "have different lengths"),
    ],
)
def test_sessions_that_are_none_are_an_error(change, reason):
    w = workload()
    with pytest.raises(SimjaxError, match=f"^w: .*{reason}"):
        replace(w, sessions=replace(w.sessions, **change)).validate()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arrival_s": np.array([0.0, 4.0, 10.0, -1.0, *[np.inf] * 3])}, "must be a time, or inf where it is unknown"),
        ({"arrival_s": np.array([0.0, 4.0, 10.0, np.nan, *[np.inf] * 3])}, "must be a time, or inf where it is unknown"),
        ({"arrival_s": np.array([5.0, 4.0, 10.0, *[np.inf] * 4])}, "arrivals must be finite, non-negative and sorted"),
        ({"concurrency": 2}, "sessions do not run in a closed loop"),
    ],
)
def test_arrivals_that_contradict_sessions_are_an_error(change, reason):
    with pytest.raises(SimjaxError, match=f"^w: .*{reason}"):
        replace(workload(), **change).validate()


def test_waiting_calls_come_last():
    w = workload()
    order = np.array([0, 3, 1, 2, 4, 5, 6])
    mixed = replace(w, arrival_s=w.arrival_s[order], prompt_tokens=w.prompt_tokens[order], sessions=w.sessions.take(order))
    with pytest.raises(SimjaxError, match="must come after all others"):
        mixed.validate()


def users(max_context_tokens=None, **options):
    """Two users: prompts 10 -> 10+4+3 -> 17+5+2 and 20 -> 20+6+1."""
    arguments = {
        "start_s": np.array([1.0, 2.0]),
        "turns": np.array([3, 2]),
        "first_prompt_tokens": np.array([10, 20]),
        "followup_tokens": np.array([99, 3, 2, 99, 1]),
        "output_tokens": np.array([4, 5, 6, 6, 7]),
        "think_s": np.array([9.0, 0.5, 1.5, 9.0, 2.5]),
    }
    return multi_turn(Conversations(**{**arguments, **options}), max_context_tokens)


def test_each_prompt_of_a_conversation_is_all_that_was_said_and_something_new():
    w = users()
    assert calls(w) == [
        *(("session 0", 0, 10, {}), ("session 0", 1, 17, {0: 0.5}), ("session 0", 2, 24, {1: 1.5})),
        *(("session 1", 0, 20, {}), ("session 1", 1, 27, {0: 2.5})),
    ]
    assert w.arrival_s.tolist() == [1.0, 2.0, np.inf, np.inf, np.inf] and w.output_tokens.tolist() == [4, 6, 5, 6, 7]
    shared = {(a, b): w.prefixes.shared_tokens(a, b) for a in range(5) for b in range(a)}
    assert {pair: tokens for pair, tokens in shared.items() if tokens} == {(2, 0): 14, (3, 0): 14, (3, 2): 22, (4, 1): 26}


def test_conversations_of_a_group_start_with_the_same_tokens():
    w = users(groups=np.array([0, 0]), group_tokens=12)
    assert w.prefixes.shared_tokens(0, 1) == 10 and w.prefixes.shared_tokens(3, 4) == 10  # the first prompt is shorter than the 12
    apart = users(groups=np.array([0, 1]), group_tokens=12)
    assert apart.prefixes.shared_tokens(0, 1) == 0 and apart.prefixes.shared_tokens(3, 0) == 14


def test_conversations_end_before_they_exceed_the_context():
    assert calls(users(max_context_tokens=29)) == [
        *(("session 0", 0, 10, {}), ("session 0", 1, 17, {0: 0.5})),
        ("session 1", 0, 20, {}),
    ]
    assert len(users(max_context_tokens=30)) == 4
    with pytest.raises(SimjaxError, match="the first call of session 1 has 26 tokens, more than max_context_tokens=25"):
        users(max_context_tokens=25)
    with pytest.raises(SimjaxError, match=r"a session grows to .* tokens; max_context_tokens ends it"):
        users(first_prompt_tokens=np.array([2**31 - 5, 20]))


CHANGES = {
    "select": lambda w, kept: select(w, kept),
    "cap": lambda w, kept: cap_requests(w, len(w) // 2 + 1),
    "cap sessions": lambda w, kept: cap_sessions(w, 2),
    "jitter": lambda w, kept: jitter(w, 3.0, seed=1),
    "starts": lambda w, kept: start_sessions(w, np.zeros(w.known_arrivals)),
}


@st.composite
def conversations(draw):
    turns = np.array(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    rng, n, users = np.random.default_rng(draw(st.integers(0, 2**32))), turns.sum(), len(turns)
    lengths = (rng.integers(1, 9, users), rng.integers(1, 9, n), rng.integers(1, 9, n), rng.random(n))
    groups = rng.integers(0, 2, users)
    return multi_turn(Conversations(np.sort(rng.random(users)), turns, *lengths, groups, group_tokens=4))


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
@settings(deadline=None, max_examples=40)
@given(w=conversations(), data=st.data())
def test_changes_keep_what_the_remaining_calls_share(change, w, data):
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(w), max_size=len(w))))
    kept[0] = True
    changed = change(w, kept).validate()
    place = {(w.sessions.names[s], t): r for r, (s, t) in enumerate(zip(w.sessions.session, w.sessions.turn, strict=True))}
    before = [place[changed.sessions.names[s], t] for s, t in zip(changed.sessions.session, changed.sessions.turn, strict=True)]
    np.testing.assert_array_equal(changed.prompt_tokens, w.prompt_tokens[before])
    for a in range(len(changed)):
        for b in range(len(changed)):
            assert changed.prefixes.shared_tokens(a, b) == w.prefixes.shared_tokens(before[a], before[b])


@settings(deadline=None, max_examples=100)
@given(w=conversations(), prompt_max=st.integers(1, 30), output_max=st.integers(1, 9))
def test_cut_lengths_share_what_is_left(w, prompt_max, output_max):
    cut = clip_lengths(w, prompt_max=prompt_max, output_max=output_max).validate()
    # A prompt that was cut is followed by another output; one that was not by the start of its own.
    known = np.where(cut.prompt_tokens < w.prompt_tokens, cut.prompt_tokens, cut.prompt_tokens + cut.output_tokens)
    for a in range(len(w)):
        for b in range(a):
            assert cut.prefixes.shared_tokens(a, b) == min(w.prefixes.shared_tokens(a, b), known[a], known[b])
    again = tree.finish(cut.prefixes, cut.prompt_tokens, cut.sessions)
    np.testing.assert_array_equal(again.end_tokens, cut.prefixes.end_tokens)
