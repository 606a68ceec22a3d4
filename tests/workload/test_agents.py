"""Recorded agent sessions (kv-cache-tester)."""

import gzip
import json

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.workload.formats import read_lengths, read_trace
from simjax.workload.formats.sessions.agents import waits
from simjax.workload.formats.sessions.kvcache_tester import read_session
from tests.data import data_path

BUNDLE = "traces/kvcache_tester/traces"


def call(t, ids, prompt, output, api=1.0, think=None, **more):
    row = {"t": t, "type": "n", "in": prompt, "out": output, "hash_ids": ids, "api_time": api, "think_time": think, **more}
    return {key: value for key, value in row.items() if value is not None}


def agent(t, duration_s, *calls):
    return {"t": t, "type": "subagent", "duration_ms": None if duration_s is None else int(1000 * duration_s), "requests": list(calls)}


def write(path, *entries, block_size=4, **more):
    document = {"id": path.name.split(".")[0], "block_size": block_size, "hash_id_scope": "local", **more}
    path.write_text(json.dumps({**document, "requests": list(entries)}))
    return path


def shares(workload):
    n = len(workload)
    pairs = {(a, b): workload.prefixes.shared_tokens(a, b) for a in range(n) for b in range(a + 1, n)}
    return {pair: tokens for pair, tokens in pairs.items() if tokens}


def test_calls_wait_for_each_other_and_agents_run_beside_the_main_line(tmp_path):
    path = write(
        tmp_path / "s.json",
        call(0, [1], 4, 2, api=2),  # 0
        agent(8, 5, call(0, [9], 4, 1), call(2, [9], 5, 1, think=1.5)),  # 1, 2: from 3 to 8 s
        agent(10, 6.5, call(0, [9], 4, 1, api=3)),  # 3: from 3.5 to 10 s
        agent(4, None, call(0, [9], 4, 1), call(5, [9], 4, 1, api=None)),  # 4, 5: launched at 4 s, no call waits for them
        call(12, [1], 6, 1, think=10),  # 6, after 0, 2 and 3, of which the last ended at 6.5 s
        call(14, [1], 7, 1, think=0.75),  # 7
        agent(18, 5.5),  # a sub-agent without calls
        call(20, [1], 8, 1, think=5),  # 8
    )
    expected = [
        *((0, 1, 1.0), (1, 2, 1.5), (0, 3, 1.5), (0, 4, 2.0), (4, 5, 4.0)),
        *((0, 6, 5.5), (2, 6, 5.5), (3, 6, 5.5), (6, 7, 0.75), (7, 8, 5.0)),
    ]
    assert sorted(waits(read_session(path))) == sorted(expected)
    workload = read_trace(path).workload
    s = workload.sessions
    assert s is not None and s.turn.tolist() == list(range(9)) and s.predecessors.tolist() == [0, 1, 1, 1, 1, 1, 3, 1, 1]
    assert workload.arrival_s.tolist() == [0.0, *[np.inf] * 8] and s.names == ("s",)


def test_a_call_without_a_recorded_time_lasts_as_long_a_token_as_the_others(tmp_path):
    path = write(tmp_path / "s.json", call(0, [], 4, 10, api=5), call(7, [], 4, 4, api=None, think=2), call(20, [], 4, 4, api=1, think=15))
    assert waits(read_session(path)) == [
        (0, 1, 2.0),
        (1, 2, 20 - (7 + 4 * 0.375)),
    ]  # 0.5 and 0.25 s per token; 15 s is counted from the first
    unknown = write(tmp_path / "u.json", call(0, [], 4, 10, api=None), call(7, [], 4, 4, api=None))
    assert waits(read_session(unknown)) == [(0, 1, 7.0)]


def test_the_output_is_what_the_next_prompt_goes_on_with(tmp_path):
    path = write(
        tmp_path / "s.json",
        call(0, [1, 2], 9, 6),  # 8 tokens by ids, 15 in all: the rest follows from the next prompt
        call(1, [1, 2, 3, 4], 18, 2),  # the next one leaves its last block: nothing is known beyond its 16 tokens
        call(2, [1, 2, 3, 5], 17, 3),
        call(3, [1, 2, 3, 5], 17, 3),  # the same again
        call(4, [1, 2, 3, 5, 6, 7], 25, 3),
    )
    assert shares(read_trace(path).workload) == {
        **{(0, 1): 15, (0, 2): 12, (0, 3): 12, (0, 4): 12},
        **{(1, 2): 12, (1, 3): 12, (1, 4): 12},
        **{(2, 3): 16, (2, 4): 16, (3, 4): 20},
    }


def test_ids_are_local_to_a_file_unless_it_says_otherwise(tmp_path):
    for name in "ab":
        write(tmp_path / f"{name}.json", call(0, [1, 2], 9, 1), call(1, [1, 2, 3], 12, 1))
    trace = read_trace(tmp_path)
    assert (trace.format, trace.rows, trace.lines.tolist(), trace.workload.source) == ("kvcache_tester", 2, [1, 1, 2, 2], tmp_path.name)
    assert trace.workload.arrival_s.tolist() == [0.0, 0.0, np.inf, np.inf]
    assert shares(trace.workload) == {(0, 2): 10, (1, 3): 10}
    for name in "cd":
        write(tmp_path / f"{name}.json", call(0, [1, 2], 9, 1), hash_id_scope="global")
    write(tmp_path / "e.json", call(0, [1, 2], 9, 1), hash_id_scope="global", block_size=3)
    assert shares(read_trace(tmp_path).workload) == {(0, 5): 10, (1, 6): 10, (2, 3): 8}


def test_files_of_a_directory_are_read_by_name_and_may_be_gzipped_or_pretty(tmp_path):
    write(tmp_path / "b.json", call(3, [], 5, 1))
    (tmp_path / "a.json.gz").write_bytes(gzip.compress((tmp_path / "b.json").read_bytes().replace(b"5", b"6")))
    pretty = tmp_path / "c.json"
    pretty.write_text(json.dumps({"block_size": 4, "requests": [call(0, [], 7, 1)]}, indent=2))
    (tmp_path / "notes.txt").write_text("not a session")
    trace = read_trace(tmp_path)
    assert trace.workload.prompt_tokens.tolist() == [6, 5, 7] and trace.workload.arrival_s.tolist() == [0.0] * 3
    assert trace.workload.sessions is not None and trace.workload.sessions.names == ("b", "b", "c")
    assert read_trace(pretty).workload.prompt_tokens.tolist() == [7]
    assert read_lengths(tmp_path, format="kvcache_tester").prompt_tokens.tolist() == [6, 5, 7]


def test_calls_without_an_answer_are_played_with_one_token(tmp_path):
    assert read_trace(write(tmp_path / "s.json", call(0, [1], 5, 0))).workload.output_tokens.tolist() == [1]


@pytest.mark.parametrize(
    ("entries", "more", "reason"),
    [
        ([call(0, [], 0, 1)], {}, "requests[0]: in=0 must be at least 1"),
        ([call(0, [], 5, 1), call(1, [], 5, -1)], {}, "requests[1]: out=-1 must be at least 0"),
        ([call(0, [], 5.5, 1)], {}, "requests[0]: in=5.5 is not a whole number up to 2147483647"),
        ([call("x", [], 5, 1)], {}, "requests[0]: t=x is not a number"),
        ([call(0, [], 5, 1, api=-1)], {}, "requests[0]: api_time=-1 must be at least 0"),
        ([call(0, ["x"], 5, 1)], {}, "requests[0]: hash_ids is not a list of whole numbers"),
        ([call(0, [], 5, 1), agent(3, 1, call(0, [], 5, 1), {"t": 1, "in": 4})], {}, "requests[1].requests[1]: out is missing"),
        ([agent(None, 1, call(0, [], 5, 1))], {}, "requests[0]: t is missing"),
        ([{"t": 1, "type": "subagent"}], {}, "requests[0].requests is not a list"),
        ([7], {}, "requests[0] is not an object"),
        ([], {}, "the session has no calls"),
        ([call(0, [], 5, 1)], {"block_size": 0}, "block_size=0 must be at least 1"),
    ],
)
def test_a_malformed_session_is_an_error_that_names_the_entry_or_is_left_out(tmp_path, entries, more, reason):
    path = write(tmp_path / "bad.json", *entries, **more)
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    assert str(error.value) == f"{path}: {reason} (on_bad_row=skip leaves such sessions out)"
    with pytest.raises(SimjaxError, match="the trace has no usable request: 1 malformed sessions"):
        read_trace(path, on_bad_row="skip")
    write(tmp_path / "good.json", call(0, [], 5, 1))
    trace = read_trace(tmp_path, on_bad_row="skip")
    assert (trace.rows, trace.skipped, len(trace.workload)) == (2, 1, 1)


def test_what_is_no_session_file_is_an_error(tmp_path):
    with pytest.raises(SimjaxError, match=r"a directory, not a trace file, and it holds no session files \(\*\.json\)"):
        read_trace(tmp_path)
    (tmp_path / "x.json").write_text('{"a": 1,')
    with pytest.raises(SimjaxError, match=r"x\.json: not valid JSON at line 1 column 9"):
        read_trace(tmp_path)
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(SimjaxError, match=r"x\.json: not a JSON object"):
        read_trace(tmp_path)
    with pytest.raises(SimjaxError, match="looks like json, but the azure format is csv"):
        read_trace(tmp_path, format="azure")


def test_the_bundled_sessions():
    trace = read_trace(data_path(BUNDLE))
    workload = trace.workload
    s = workload.sessions
    assert s is not None and (trace.format, trace.rows, len(workload), len(s.names)) == ("kvcache_tester", 46, 1_733, 46)
    assert np.bincount(s.session).max() == 416 and workload.known_arrivals == 46 and np.all(workload.arrival_s[:46] == 0)
    assert (workload.prompt_tokens.max(), workload.output_tokens.max()) == (894_371, 9_829)
    assert s.names[:2] == ("trace_0001", "trace_0002")


def test_the_waits_of_the_bundled_sessions_give_the_recorded_starts():
    """With the recorded durations of the calls, each call starts at its recorded time, within the whole second of the stamps."""
    checked = 0
    for path in sorted(data_path(BUNDLE).iterdir()):
        session = read_session(path)
        calls = session.calls
        timed = {call.number: call.start_s + call.api_s for call in calls if call.api_s is not None}
        ready = {}
        for before, call, delay_s in waits(session):
            if before in timed:
                ready[call] = max(ready.get(call, 0.0), timed[before] + delay_s)
        for number, start_s in ready.items():
            assert start_s == pytest.approx(calls[number].start_s, abs=1.0)
            checked += 1
    assert checked > 1_500


def test_the_agents_of_a_bundled_session():
    """trace_0274: three agents of 11, 13 and 24 calls start after the first call, share their first blocks, and the next call waits."""
    workload = read_trace(data_path(f"{BUNDLE}/trace_0274.json")).workload
    s = workload.sessions
    assert s is not None
    firsts, after = [1, 12, 25], 49
    assert s.then[s.offsets[0] : s.offsets[1]].tolist() == [*firsts, after] and s.predecessors[after] == 4
    assert [int(s.then[s.offsets[last]]) for last in (11, 24, 48)] == [after] * 3
    assert np.all(s.delay_s[s.then == after] == s.delay_s[s.then == after][0])
    assert workload.prefixes is not None
    assert min(workload.prefixes.shared_tokens(a, b) for a in firsts for b in firsts) > 7771  # their tools' descriptions
    assert workload.prefixes.shared_tokens(0, 1) == 0 and workload.prefixes.shared_tokens(0, after) > 21_000
