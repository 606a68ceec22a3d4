"""Shared prefixes and sessions in small handmade trace files."""

import json

import numpy as np
import pandas as pd
import pytest

from simjax.errors import SimjaxError
from simjax.workload.formats import read_lengths, read_trace


def write(folder, rows, name="trace.jsonl"):
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def shares(workload):
    """Tokens shared by each pair of requests that shares any."""
    n = len(workload)
    pairs = {(a, b): workload.prefixes.shared_tokens(a, b) for a in range(n) for b in range(a + 1, n)}
    return {pair: tokens for pair, tokens in pairs.items() if tokens}


def waits(workload):
    """(call waited for, call, delay in s), calls by their positions in the workload."""
    s = workload.sessions
    return list(zip(s.waited_for.tolist(), s.then.tolist(), s.delay_s.tolist(), strict=True))


def flat(at_ns, prompt, output, **ids):
    return {"arrival_time_ns": at_ns, "input_toks": prompt, "output_toks": output, **ids}


def test_token_ids_of_prompts_and_outputs_tell_what_is_shared(tmp_path):
    rows = [
        flat(0, 3, 2, input_tok_ids=[7, 8, 9], output_tok_ids=[1, 2]),
        flat(1, 6, 1, input_tok_ids=[7, 8, 9, 1, 5, 5], output_tok_ids=[3]),  # continues with the first one's output
        flat(2, 2, 2, input_tok_ids=[7, 8]),  # its output is not known
        flat(3, 4, 1),  # nothing is known
        flat(4, 2, 3, input_tok_ids=[7, 8], output_tok_ids=[9, 9, 9]),
    ]
    workload = read_trace(write(tmp_path, rows)).workload
    assert workload.sessions is None
    assert shares(workload) == {(0, 1): 4, (0, 2): 2, (0, 4): 3, (1, 2): 2, (1, 4): 3, (2, 4): 2}


def test_ids_that_contradict_the_lengths_tell_no_more_than_both(tmp_path):
    rows = [
        flat(0, 3, 2, input_tok_ids=[1, 2, 3, 4, 5], output_tok_ids=[6, 7, 8]),
        flat(1, 3, 2, input_tok_ids=[1, 2, 3], output_tok_ids=[6, 7]),
        flat(2, 4, 2, input_tok_ids=[1, 2], output_tok_ids=[3, 6]),  # where the output starts is known, what is before it is not
    ]
    assert shares(read_trace(write(tmp_path, rows)).workload) == {(0, 1): 5, (0, 2): 2, (1, 2): 2}


def test_block_hashes_cover_the_prompt_and_the_last_block_partly(tmp_path):
    row = {"output_length": 100}
    rows = [
        {"timestamp": 0, "input_length": 1300, "hash_ids": [1, 2, 3], **row},
        {"timestamp": 5, "input_length": 1300, "hash_ids": [1, 2, 3], **row},
        {"timestamp": 5, "input_length": 1200, "hash_ids": [1, 2, 3], **row},
        {"timestamp": 2, "input_length": 600, "hash_ids": [1, 9], **row},
        {"timestamp": 9, "input_length": 900, **row},
    ]
    trace = read_trace(write(tmp_path, rows))
    assert trace.format == "mooncake" and trace.lines.tolist() == [1, 4, 2, 3, 5]
    assert shares(trace.workload) == {(0, 1): 512, (0, 2): 1300, (0, 3): 1200, (1, 2): 512, (1, 3): 512, (2, 3): 1200}


@pytest.mark.parametrize("ids", ["seven", 7, [1.5], [[1]], [1, "a"], [True], {"a": 1}])
def test_ids_that_are_none_are_an_error_with_their_line(tmp_path, ids):
    good = {"timestamp": 0, "input_length": 3, "output_length": 4, "hash_ids": [1]}
    path = write(tmp_path, [good, {**good, "hash_ids": ids}])
    with pytest.raises(SimjaxError, match=r"trace\.jsonl:2: hash_ids=.* is not a list of whole numbers \(on_bad_row=skip"):
        read_trace(path)
    assert len(read_trace(path, on_bad_row="skip").workload) == 1
    assert len(read_lengths(path).prompt_tokens) == 2  # lengths do not need them


def test_what_is_read_does_not_depend_on_batches(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [flat(i, 4, 1, **({"input_tok_ids": rng.integers(0, 2, 4).tolist()} if i % 3 else {})) for i in range(10)]
    path = write(tmp_path, [*rows, {"session_id": "s", "arrival_time_ns": 2, "sub_requests": [flat(0, 2, 1), flat(0, 4, 1)]}])
    whole = read_trace(path).workload
    monkeypatch.setattr("simjax.workload.formats.tables.rows._CHUNK_ROWS", 3)
    parts = read_trace(path).workload
    assert shares(parts) == shares(whole) and waits(parts) == waits(whole) and len(shares(whole)) > 3
    assert parts.sessions is not None and parts.sessions.names == ("line 1", *(f"line {i}" for i in range(2, 11)), "s")


def call(prompt, output, tool_s=None, **ids):
    row = {"input_toks": prompt, "output_toks": output, **ids}
    return row if tool_s is None else {**row, "tool_duration_ns": int(tool_s * 1e9)}


def test_session_rows_and_flat_rows_mix(tmp_path):
    rows = [
        {"session_id": "first", "arrival_time_ns": 5_000_000_000, "sub_requests": [call(10, 4, 2.5), call(20, 3, 0), call(6, 2, 9)]},
        flat(2_000_000_000, 7, 7),
        {"arrival_time_ns": 2_000_000_000, "sub_requests": [call(8, 1), call(9, 1)]},
    ]
    trace = read_trace(write(tmp_path, rows))
    workload = trace.workload
    assert (trace.rows, trace.skipped, trace.lines.tolist()) == (3, 0, [2, 3, 1, 1, 1, 3])
    assert workload.arrival_s.tolist() == [0.0, 0.0, 3.0, np.inf, np.inf, np.inf]
    assert workload.prompt_tokens.tolist() == [7, 8, 10, 20, 6, 9]
    assert waits(workload) == [(1, 5, 0.0), (2, 3, 2.5), (3, 4, 0.0)]
    assert workload.sessions is not None
    assert [workload.sessions.names[s] for s in workload.sessions.session] == ["line 2", "line 3", "first", "first", "first", "line 3"]
    assert workload.sessions.turn.tolist() == [0, 0, 0, 1, 2, 1]
    # A conversation continues with the whole previous content, or as much of it as fits into the prompt (the third call's 6 tokens).
    assert shares(workload) == {(1, 5): 9, (2, 3): 14, (2, 4): 6, (3, 4): 6}


def test_token_ids_win_over_the_course_of_the_conversation_when_all_calls_have_them(tmp_path):
    rows = [
        {"arrival_time_ns": 0, "sub_requests": [call(2, 1, input_tok_ids=[1, 2], output_tok_ids=[3]), call(3, 1, input_tok_ids=[1, 2, 9])]},
        {"arrival_time_ns": 1, "sub_requests": [call(2, 1, input_tok_ids=[1, 2]), call(3, 1)]},
        flat(2, 3, 1, input_tok_ids=[1, 2, 3]),
    ]
    workload = read_trace(write(tmp_path, rows)).workload
    assert workload.prompt_tokens.tolist() == [2, 2, 3, 3, 3]  # the first calls, the flat row, the second calls
    assert shares(workload) == {(0, 2): 3, (0, 3): 2, (2, 3): 2, (1, 4): 3}


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ([call(5, 1), call(0, 1)], r"sub_requests[1]: input_toks=0 must be at least 1"),
        ([call(5, 1, -1), call(6, 1)], r"sub_requests[0]: tool_duration_ns=-1000000000 is negative"),
        ([{**call(5, 1), "tool_duration_ns": "soon"}], r"sub_requests[0]: tool_duration_ns=soon is not a number"),
        ([call(5, 1), {"input_toks": 4}], r"sub_requests[1]: output_toks is missing"),
        ([call(5, 1, input_tok_ids="x")], r"sub_requests[0]: input_tok_ids=x is not a list of whole numbers"),
        ([], "sub_requests is not a list of calls"),
        ([call(5, 1), 7], "sub_requests is not a list of calls"),
        ({"a": 1}, "sub_requests is not a list of calls"),
    ],
)
def test_a_malformed_call_makes_its_session_unusable(tmp_path, calls, reason):
    path = write(tmp_path, [flat(0, 3, 1), {"arrival_time_ns": 1, "sub_requests": calls}, flat(2, 4, 1)])
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    assert str(error.value) == f"{path}:2: {reason} (on_bad_row=skip leaves such rows out)"
    trace = read_trace(path, on_bad_row="skip")
    assert (trace.rows, trace.skipped, trace.workload.prompt_tokens.tolist()) == (3, 1, [3, 4])


def test_a_session_row_needs_an_arrival(tmp_path):
    path = write(tmp_path, [flat(0, 3, 1), {"sub_requests": [call(5, 1)]}])
    with pytest.raises(SimjaxError, match=r"trace\.jsonl:2: arrival_time_ns is missing"):
        read_trace(path)


def test_lengths_of_sessions_are_those_of_all_calls(tmp_path):
    path = write(tmp_path, [{"arrival_time_ns": 1, "sub_requests": [call(5, 1), call(7, 2)]}])
    assert read_lengths(path).prompt_tokens.tolist() == [5, 7]


def test_prefix_keys_of_a_plain_table(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens,prefix_key,prefix_tokens\n0,9,1,a,4\n1,9,1,a,\n2,3,1,a,6\n3,9,1,,5\n4,9,1,b,\n5,9,1,,5\n"
    assert shares(read_trace(write(tmp_path, text, "trace.csv")).workload) == {(0, 1): 4, (0, 2): 3, (1, 2): 3}
    whole = "arrival_s,prompt_tokens,output_tokens,prefix_key\n0,9,1,7\n1,9,1,7\n"
    assert shares(read_trace(write(tmp_path, whole, "trace.csv")).workload) == {(0, 1): 9}
    table = {"arrival_s": [0.0, 1.0, 2.0], "prompt_tokens": [5, 6, 7], "output_tokens": [1, 1, 1]}
    path = tmp_path / "trace.parquet"
    pd.DataFrame({**table, "prefix_key": [3, 3, None], "prefix_tokens": [4.0, None, 2.0]}).to_parquet(path)
    assert shares(read_trace(path).workload) == {(0, 1): 4}


def test_sessions_of_a_plain_table(tmp_path):
    header = "arrival_s,prompt_tokens,output_tokens,session,delay_s\n"
    text = header + "8,5,2,u,1\n4,3,1,,7\n,9,1,u,2.5\n6,4,1,v,\n99,6,1,u,\n"
    trace = read_trace(write(tmp_path, text, "trace.csv"))
    workload = trace.workload
    assert trace.lines.tolist() == [3, 5, 2, 4, 6]
    # The last row has no pause, so its recorded arrival counts.
    assert workload.arrival_s.tolist() == [0.0, 2.0, 4.0, np.inf, 95.0]
    assert waits(workload) == [(2, 3, 2.5), (3, 4, 0.0)]
    assert workload.sessions is not None and workload.sessions.names == ("u", "line 3", "v")
    assert shares(workload) == {(2, 3): 7, (2, 4): 6, (3, 4): 6}


def test_keys_replace_the_course_of_the_conversation(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens,session,prefix_key\n0,5,2,u,a\n,9,1,u,a\n"
    workload = read_trace(write(tmp_path, text, "trace.csv")).workload
    assert shares(workload) == {(0, 1): 5} and waits(workload) == [(0, 1, 0.0)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("5,3,1,v,0,a,4", None),
        (",3,1,u,0,a,4", None),  # it waits, so it needs no arrival
        (",3,1,v,0,a,4", "arrival_s is missing"),
        ("5,3,1,u,-1,a,4", "delay_s=-1 is negative"),
        ("5,3,1,u,soon,a,4", "delay_s=soon is not a number"),
        ("5,3,1,u,0,a,0", "prefix_tokens=0 must be at least 1"),
        ("5,3,1,u,0,a,2.5", "prefix_tokens=2.5 is not a whole number"),
        ("5,3,1,u,0,,x", "prefix_tokens=x is not a number"),
    ],
)
def test_malformed_columns_are_errors_with_their_line(tmp_path, row, reason):
    header = "arrival_s,prompt_tokens,output_tokens,session,delay_s,prefix_key,prefix_tokens\n"
    path = write(tmp_path, f"{header}0,3,1,u,,a,\n{row}\n7,3,1,u,,a,\n", "trace.csv")
    if reason is None:
        assert len(read_trace(path).workload) == 3
        return
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    assert str(error.value) == f"{path}:3: {reason} (on_bad_row=skip leaves such rows out)"
    # The rest of a session continues without the row.
    left = read_trace(path, on_bad_row="skip").workload
    assert (len(left), waits(left)) == (2, [(0, 1, 0.0)])


def test_a_plain_table_without_such_columns_tells_nothing(tmp_path):
    workload = read_trace(write(tmp_path, "arrival_s,prompt_tokens,output_tokens\n0,1,1\n", "trace.csv")).workload
    assert workload.prefixes is None and workload.sessions is None
