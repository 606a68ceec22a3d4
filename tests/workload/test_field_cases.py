"""Trace files as they are met in the field, with figures worked out by hand: clocks, block sizes, sessions, columns, zero outputs."""

import json
import logging

import numpy as np
import pytest

import simjax
from simjax.errors import SimjaxError
from simjax.metrics.files import requests_frame
from simjax.workload import WorkloadConfig, build_workload, describe, prefix_reuse, read_trace
from simjax.workload.formats import ReadOptions, read_lengths
from simjax.workload.transform import cap_requests, jitter, rescale_to_rate, start_sessions, window
from tests.data import data_path
from tests.workload.test_shared_formats import shares, waits, write

PLAIN = "arrival_s,prompt_tokens,output_tokens"


def told(path, caplog, **options):
    """The workload, and what is said about the file, line by line, without the name of the file."""
    with caplog.at_level(logging.INFO, logger="simjax"):
        caplog.clear()
        workload = build_workload(WorkloadConfig(kind="trace", file=str(path), **options))
    return workload, [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records]


def simulated(path, **options):
    """Requests of a run on the default cluster: dictionaries in the order of the file's workload."""
    more = [f"workload.{name}={value}" for name, value in options.items()]
    run = simjax.run(simjax.compose(["workload=trace", f"workload.file={path}", *more]))
    return run.result.requests


# ---- Bailian: clock in seconds, blocks of 16 tokens


def bailian(*rows, **more):
    """Rows (chat, parent, time, prompt, ids) with outputs of 40 tokens."""
    keys = ("chat_id", "parent_chat_id", "timestamp", "input_length", "hash_ids")
    return [{**dict(zip(keys, row, strict=True)), "output_length": 40, "type": "text", **more} for row in rows]


CHATS = bailian(
    (11, -1, 0.0, 160, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    (12, -1, 20.5, 160, [1, 2, 3, 4, 5, 6, 27, 28, 29, 30]),
    (13, 11, 61.25, 240, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 31, 32, 33, 34, 35]),
    (14, -1, 100.0, 100, [1, 2, 3, 44, 45, 46, 47]),
    turn=1,
)


def check_bailian(path):
    trace = read_trace(path)
    assert (trace.format, trace.reading.clock, trace.reading.tokens_per_id) == ("bailian", "s", 16)
    found = describe(trace.workload)
    assert found.arrivals is not None and found.prefixes is not None
    assert (found.arrivals.span_s, found.arrivals.mean_rate) == (100.0, pytest.approx(0.03))
    assert found.prefixes.ideal_hit_fraction == pytest.approx((6 + 10 + 3) * 16 / 660)
    # Row 3 continues row 1: it is sent at its time, when row 1 has finished.
    assert waits(trace.workload) == [(0, 3, 0.0)] and trace.workload.arrival_s.tolist() == [0.0, 20.5, 100.0, 61.25]


def test_bailian_traces_are_in_seconds_with_blocks_of_16(tmp_path):
    check_bailian(write(tmp_path, CHATS))


def test_the_case_bailian():
    check_bailian(data_path("cases/bailian_clock_and_blocks/bailian.jsonl"))


def test_the_rows_prove_the_block_size_where_no_key_names_the_maker(tmp_path, caplog):
    rows = [{key: row[key] for key in ("timestamp", "input_length", "output_length", "hash_ids")} for row in CHATS]
    path = write(tmp_path, rows)
    workload, lines = told(path, caplog)
    assert workload.arrival_s.tolist() == [0.0, 20.5, 61.25, 100.0]
    assert prefix_reuse(workload, 16).token_hit_fraction() == pytest.approx(304 / 660)
    assert lines == [
        "an id in hash_ids stands for 16 tokens: that fits all 4 rows, 512 does not",
        "timestamp is read as s, as in Bailian's traces with blocks of 16 tokens; workload.trace_clock=ms reads ms",
    ]
    workload, lines = told(path, caplog, trace_clock="ms", block_tokens=16)
    assert workload.arrival_s.tolist() == [0.0, 0.0205, 0.06125, 0.1] and lines == []
    _, lines = told(path, caplog, trace_clock="s", block_tokens=512)
    assert lines == ["4 of 4 rows have not one id in hash_ids for 512 tokens"]


@pytest.mark.parametrize(("size", "clock", "second_s"), [(512, "ms", 0.002), (64, "ms", 0.002), (16, "s", 2.0)])
def test_block_sizes_are_those_that_fit_all_rows(tmp_path, size, clock, second_s):
    rng = np.random.default_rng(0)
    prompts = rng.integers(1, 5_000, 50).tolist()
    rows = [
        {"timestamp": 2 * i, "input_length": p, "output_length": 5, "hash_ids": list(range(-(-p // size)))} for i, p in enumerate(prompts)
    ]
    trace = read_trace(write(tmp_path, rows))
    assert (trace.reading.tokens_per_id, trace.reading.clock, trace.workload.arrival_s[1]) == (size, clock, second_s)


@pytest.mark.parametrize(("gap", "clock"), [(20_000, "ms"), (3, "s")])
def test_blocks_of_16_are_no_seconds_where_these_would_be_weeks(tmp_path, gap, clock):
    rows = [{"timestamp": gap * i, "input_length": 32, "output_length": 5, "hash_ids": [i, 90 + i]} for i in range(20)]
    trace = read_trace(write(tmp_path, rows))
    assert (trace.reading.tokens_per_id, trace.reading.clock) == (16, clock)
    assert trace.workload.arrival_s[1] == gap / {"ms": 1000, "s": 1}[clock]


def test_files_that_leave_out_the_partial_block_are_read(tmp_path):
    row = {"output_length": 5, "timestamp": 0}
    trace = read_trace(write(tmp_path, [{**row, "input_length": 1000, "hash_ids": [1]}, {**row, "input_length": 600, "hash_ids": [1]}]))
    assert trace.reading.tokens_per_id == 512 and shares(trace.workload) == {(0, 1): 512}


def test_ids_that_fit_no_block_size_are_an_error(tmp_path):
    path = write(tmp_path, [{**CHATS[0], "hash_ids": [1, 2, 3]}, CHATS[1]])
    with pytest.raises(SimjaxError, match=r"trace\.jsonl: line 1 has 3 ids in hash_ids for 160 prompt tokens; .* workload\.block_tokens=N"):
        read_trace(path, format="mooncake")


def test_fractions_of_a_millisecond_are_told(tmp_path, caplog):
    rows = [{"timestamp": 0.25 * i, "input_length": 600, "output_length": 5, "hash_ids": [i, 90 + i]} for i in range(3)]
    _, lines = told(write(tmp_path, rows), caplog)
    assert lines == ["timestamp has fractions and is read as ms, as the mooncake format says; workload.trace_clock=s reads s"]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (f"{PLAIN}\n0,1,1\n", {"clock": "min"}, "trace_clock='min' is not known; use s, ms, us, ns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01,1,1\n", {"clock": "s"}, "trace_clock=s has no effect: the azure format"),
        (f"{PLAIN}\n0,1,1\n", {"block_tokens": 16}, "block_tokens=16 has no effect"),
        (f"{PLAIN}\n0,1,1\n", {"block_tokens": 0}, "block_tokens=0; it must be at least 1"),
        (f"{PLAIN}\n0,1,1\n", {"only_model": "a"}, "only_model=a has no effect"),
        (f"{PLAIN}\n0,1,1\n", {"unanswered": "keep"}, "unanswered='keep' is not known; use play or drop"),
    ],
)
def test_wrong_options_are_errors(tmp_path, text, options, reason):
    with pytest.raises(SimjaxError, match=reason):
        read_trace(write(tmp_path, text, "trace.csv"), options=ReadOptions(**options))


# ---- a clock or lengths in another unit than the format's


@pytest.mark.parametrize(
    ("gap", "clock", "line"),
    [
        (0.1, None, None),
        (1e-5, None, "100,000 requests/s if arrival_s is in s; it may have another clock: workload.trace_clock=s, ms, us or ns"),
        (300, None, "30 requests in 0.1 days if arrival_s is in s; it may have another clock: workload.trace_clock=s, ms, us or ns"),
        (300, "ms", None),
        (300e6, None, "30 requests in 275.9 years if arrival_s is in s; it may have another clock: workload.trace_clock=s, ms, us or ns"),
    ],
)
def test_an_implausible_clock_is_told(tmp_path, caplog, gap, clock, line):
    text = "".join(f"{i * gap},5,6\n" for i in range(30))
    workload, lines = told(write(tmp_path, f"{PLAIN}\n{text}", "trace.csv"), caplog, trace_clock=clock)
    assert lines == ([] if line is None else [line])
    assert workload.arrival_s[-1] == pytest.approx(29 * gap / (1000 if clock else 1))


def test_implausible_lengths_are_told(tmp_path, caplog):
    _, lines = told(write(tmp_path, f"{PLAIN}\n0,20000000,1\n", "trace.csv"), caplog)
    assert lines == ["a request of 20,000,001 tokens; are prompt_tokens and output_tokens numbers of tokens?"]


# ---- splitwise-sim


SPLITWISE = """request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size
0,2,0,0.0,1,512,64
1,2,0,0.75,1,1024,32
2,2,0,1.9,1,300,200
"""


@pytest.mark.parametrize("own", [True, False])
def test_splitwise_sim(tmp_path, own):
    path = write(tmp_path, SPLITWISE, "s.csv") if own else data_path("cases/splitwise_sim_trace/splitwise.csv")
    trace = read_trace(path)
    assert (trace.format, trace.workload.arrival_s.tolist()) == ("splitwise", [0.0, 0.75, 1.9])
    assert trace.workload.prompt_tokens.tolist() == [512, 1024, 300] and trace.workload.output_tokens.tolist() == [64, 32, 200]
    assert trace.reading.unused == ("request_id", "request_type", "application_id", "batch_size")


# ---- Frontier


FRONTIER = "arrived_at,num_prefill_tokens,num_decode_tokens,session_id"
TURNS = f"{FRONTIER}\n0.0,2000,160,7\n100.0,48,80,7\n1.0,1000,160,8\n101.0,64,80,8\n"
BLOCKS = f"{FRONTIER},block_hash_ids\n0.0,48,30,1,11|22|33\n10.0,48,30,2,11|22|33\n20.0,48,30,3,11|22|44\n"


@pytest.mark.parametrize("own", [True, False])
def test_a_later_turn_of_frontier_adds_to_all_before_it(tmp_path, caplog, own):
    path = write(tmp_path, TURNS, "s.csv") if own else data_path("cases/frontier_vidur_sessions/sessions.csv")
    workload, lines = told(path, caplog)
    assert workload.prompt_tokens.tolist() == [2000, 1000, 2208, 1224]
    assert workload.arrival_s.tolist() == [0.0, 1.0, 100.0, 101.0] and waits(workload) == [(0, 2, 0.0), (1, 3, 0.0)]
    assert shares(workload) == {(0, 2): 2160, (1, 3): 1160}
    assert lines == ["num_prefill_tokens of 2 later turns of sessions is read as what the turn adds to all before it"]
    requests = simulated(path)
    np.testing.assert_allclose(requests.arrival_s, [0.0, 1.0, 100.0, 101.0])
    # Whole blocks of all before them but the last token of the answer, which nobody has computed.
    assert requests.cached_tokens.tolist() == [0, 0, 2159 // 16 * 16, 1159 // 16 * 16]


@pytest.mark.parametrize("own", [True, False])
def test_block_ids_of_frontier(tmp_path, own):
    path = write(tmp_path, BLOCKS, "b.csv") if own else data_path("cases/frontier_vidur_sessions/blocks.csv")
    found = describe(read_trace(path).workload)
    assert found.prefixes is not None and found.prefixes.ideal_hit_fraction == pytest.approx(64 / 144)


def test_turns_of_frontier_are_put_in_the_order_of_their_index(tmp_path):
    text = f"{FRONTIER},session_turn_index\n5,10,1,a,2\n0,30,5,a,0\n3,20,1,b,0\n4,7,2,a,1\n"
    workload = read_trace(write(tmp_path, text, "s.csv")).workload
    assert workload.prompt_tokens.tolist() == [30, 20, 42, 54] and waits(workload) == [(0, 2, 0.0), (2, 3, 0.0)]


def test_block_ids_tell_whether_a_turn_of_frontier_lists_the_whole_prompt(tmp_path):
    head = f"{FRONTIER},block_hash_ids\n0,32,16,a,1|2\n"
    whole = read_trace(write(tmp_path, f"{head}9,64,16,a,1|2|3|4\n", "s.csv")).workload
    assert whole.prompt_tokens.tolist() == [32, 64] and shares(whole) == {(0, 1): 32}
    added = read_trace(write(tmp_path, f"{head}9,64,16,a,5|6|7|8\n", "s.csv")).workload
    assert added.prompt_tokens.tolist() == [32, 112] and shares(added) == {(0, 1): 48}
    counted = read_trace(write(tmp_path, f"{head}9,64,16,a,1|2|5|6|7|8|9\n", "s.csv")).workload
    assert counted.prompt_tokens.tolist() == [32, 112] and shares(counted) == {(0, 1): 32}


# ---- sessions by delays, and by recorded arrivals


def mooncake(session, prompt, output, ids, **times):
    return {"session_id": session, **times, "input_length": prompt, "output_length": output, "hash_ids": ids}


DELAYS = [
    mooncake("s1", 600, 100, [1, 2], timestamp=0),
    mooncake("s1", 1100, 100, [1, 2, 3], delay=5000),
    mooncake("s2", 600, 100, [9, 10], timestamp=2000),
    mooncake("s2", 1100, 100, [9, 10, 11], delay=1000),
]
STAMPED = [mooncake("s1", 600, 1000, [1, 2], timestamp=0), mooncake("s1", 1700, 100, [1, 2, 3, 4], timestamp=500, delay=5000)]


@pytest.mark.parametrize("own", [True, False])
def test_mooncake_turns_follow_after_their_delays(tmp_path, own):
    path = write(tmp_path, DELAYS) if own else data_path("cases/mooncake_sessions_delay/delays.jsonl")
    workload = read_trace(path).workload
    assert workload.arrival_s.tolist() == [0.0, 2.0, np.inf, np.inf] and waits(workload) == [(0, 2, 5.0), (1, 3, 1.0)]
    assert shares(workload) == {(0, 2): 600, (1, 3): 600}
    requests = simulated(path)
    np.testing.assert_allclose(requests.arrival_s[2:], requests.finish_s[:2] + np.array([5.0, 1.0]))
    assert np.all(requests.cached_tokens[2:] >= 592)


@pytest.mark.parametrize("own", [True, False])
def test_a_delay_counts_where_a_stamp_is_given_too(tmp_path, own):
    path = write(tmp_path, STAMPED) if own else data_path("cases/mooncake_sessions_delay/with_stamps.jsonl")
    requests = simulated(path)
    assert requests.arrival_s[1] == pytest.approx(requests.finish_s[0] + 5.0) and requests.arrival_s[1] == pytest.approx(11.8, abs=0.05)


def test_sessions_without_any_stamp_start_at_once(tmp_path, caplog):
    rows = [{key: value for key, value in row.items() if key != "timestamp"} for row in DELAYS]
    workload, lines = told(write(tmp_path, rows), caplog)
    assert workload.arrival_s.tolist() == [0.0, 0.0, np.inf, np.inf] and waits(workload) == [(0, 2, 5.0), (1, 3, 1.0)]
    assert lines == ["no timestamp is recorded: all sessions start at once; workload.session_rate=RATE draws their starts"]
    with pytest.raises(SimjaxError, match=r"no arrivals \(no column timestamp\), only lengths"):
        read_trace(write(tmp_path, [{"input_length": 5, "output_length": 6}]))


SESSIONS = "session,arrival_s,prompt_tokens,output_tokens\na,0,100,10\na,30,250,10\nb,5,100,10\nb,65,300,10\n"
UNORDERED = "session,arrival_s,prompt_tokens,output_tokens\na,10,400,10\na,0,100,10\na,5,250,10\n"


@pytest.mark.parametrize("own", [True, False])
def test_recorded_arrivals_of_later_calls_count(tmp_path, own):
    path = write(tmp_path, SESSIONS, "s.csv") if own else data_path("cases/plain_session_without_delays/sess2.csv")
    requests = simulated(path)
    np.testing.assert_allclose(requests.arrival_s, [0.0, 5.0, 30.0, 65.0])


def test_a_later_call_waits_for_the_one_before_it(tmp_path):
    text = "session,arrival_s,prompt_tokens,output_tokens\na,0,100,200\na,0.5,350,10\n"
    requests = simulated(write(tmp_path, text, "s.csv"))
    assert requests.finish_s[0] > 1.0 and requests.arrival_s[1] == pytest.approx(requests.finish_s[0])


@pytest.mark.parametrize("own", [True, False])
def test_rows_of_a_session_are_put_in_the_order_of_their_arrivals(tmp_path, own):
    path = write(tmp_path, UNORDERED, "s.csv") if own else data_path("cases/plain_session_without_delays/out_of_order.csv")
    workload = read_trace(path).workload
    assert workload.prompt_tokens.tolist() == [100, 250, 400] and waits(workload) == [(0, 1, 0.0), (1, 2, 0.0)]
    assert workload.arrival_s.tolist() == [0.0, 5.0, 10.0] and shares(workload) == {(0, 1): 110, (0, 2): 110, (1, 2): 260}


def test_a_malformed_arrival_of_a_later_call_is_an_error(tmp_path):
    path = write(tmp_path, "session,arrival_s,prompt_tokens,output_tokens\na,0,1,1\na,soon,1,1\n", "s.csv")
    with pytest.raises(SimjaxError, match=r"s\.csv:3: arrival_s=soon is not a number"):
        read_trace(path)


def test_recorded_arrivals_of_sessions_move_with_the_others(tmp_path):
    workload = read_trace(write(tmp_path, SESSIONS, "s.csv")).workload
    assert rescale_to_rate(workload, 3 / 65 * 2).arrival_s.tolist() == pytest.approx([0.0, 2.5, 15.0, 32.5])
    assert start_sessions(workload, np.array([1.0, 2.0])).arrival_s.tolist() == [1.0, 2.0, 31.0, 62.0]
    moved = jitter(workload, 2.0).arrival_s - workload.arrival_s
    assert np.all((moved > -2) & (moved < 2)) and len(set(moved)) == 4
    inside = window(workload, 4.0, 50.0)  # the call at 30 s no longer waits for one that is not played
    assert inside.arrival_s.tolist() == [1.0, 26.0] and inside.known_arrivals == 2
    assert window(workload, 0.0, 40.0).arrival_s.tolist() == [0.0, 5.0, 30.0]
    assert cap_requests(workload, 3).arrival_s.tolist() == [0.0, 5.0, 30.0] and cap_requests(workload, 1).arrival_s.tolist() == [0.0]


# ---- requests that answered nothing


AZURE = """TIMESTAMP,NumImages,ContextTokens,GeneratedTokens
2024-10-15 00:00:00.0,2,6000,64
2024-10-15 00:00:00.5,0,7000,0
2024-10-15 00:00:00.6,0,7500,0
2024-10-15 00:00:00.7,1,1700,31
"""


@pytest.mark.parametrize("own", [True, False])
def test_requests_without_an_answer_load_the_server_with_their_prompts(tmp_path, caplog, own):
    path = write(tmp_path, AZURE, "azure.csv") if own else data_path("cases/zero_output_rows/azure.csv")
    workload, lines = told(path, caplog)
    assert workload.prompt_tokens.tolist() == [6000, 7000, 7500, 1700] and workload.output_tokens.tolist() == [64, 1, 1, 31]
    assert lines == [
        "2 of 4 requests answered nothing; they are played with 1 output token (workload.unanswered=drop leaves them out)",
        "columns that are not used: NumImages",
    ]
    requests = simulated(path)
    assert np.mean(requests.first_token_s - requests.arrival_s) == pytest.approx(0.213, abs=0.0005)
    left, lines = told(path, caplog, unanswered="drop")
    assert left.prompt_tokens.tolist() == [6000, 1700] and lines[0] == "2 of 4 requests failed or answered nothing and were dropped"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"{PLAIN}\n0,5,0\n", "plain"),
        ("Timestamp,Request tokens,Response tokens\n0,5,0\n", "burstgpt"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,0\n", "vidur"),
        ("arrival_timestamp,prompt_size,token_size\n0,5,0\n", "splitwise"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 0}\n', "mooncake"),
        ('{"arrival_time_ns": 0, "input_toks": 5, "output_toks": 0}\n', "llmservingsim"),
        ("send_time_us,server_input_tokens,output_tokens,status\n0,5,0,ok\n", "vllm_trace"),
        (json.dumps({"block_size": 4, "requests": [{"t": 0, "in": 5, "out": 0}]}), "kvcache_tester"),
    ],
)
def test_every_reader_plays_them(tmp_path, text, name):
    trace = read_trace(write(tmp_path, text))
    assert (trace.format, trace.workload.prompt_tokens.tolist(), trace.workload.output_tokens.tolist()) == (name, [5], [1])
    assert trace.reading.zero_outputs + trace.reading.failed == 1
    assert read_lengths(write(tmp_path, text)).output_tokens.tolist() == [1]


def test_failed_requests_are_played_as_far_as_they_are_known(tmp_path, caplog):
    text = "send_time_us,server_input_tokens,output_tokens,status\n0,5,6,ok\n1,7,3,timeout\n2,8,,timeout\n3,,,timeout\n"
    workload, lines = told(write(tmp_path, text, "trace.csv"), caplog)
    assert workload.prompt_tokens.tolist() == [5, 7, 8] and workload.output_tokens.tolist() == [6, 3, 1]
    assert lines[0] == "1 of 4 requests failed or answered nothing and were dropped"
    assert lines[1].startswith("2 of 4 requests failed when they were recorded; they are played as load")


# ---- columns without effect


def test_columns_without_effect_are_named_once_whatever_the_container(tmp_path, caplog):
    rows = [{"arrival_time_ns": i * 10**9, "input_toks": 5, "output_toks": 6, "user": "a"} for i in range(30)]
    rows[29]["late"] = 1  # not among the rows from which the columns are learnt
    _, lines = told(write(tmp_path, rows), caplog)
    assert lines == ["columns that are not used: user, late"]
    calls = [{"input_toks": 5, "output_toks": 6, "tool_duration_ns": 1, "tool": "ls"}]
    _, lines = told(write(tmp_path, [{"session_id": "a", "arrival_time_ns": 0, "sub_requests": calls}]), caplog)
    assert lines == ["columns that are not used: tool"]
    many = ",".join(f"c{i}" for i in range(12))
    _, lines = told(write(tmp_path, f"{many},{PLAIN}\n{'1,' * 12}0,5,6\n", "trace.csv"), caplog)
    assert lines == ["columns that are not used: c0, c1, c2, c3, c4, c5, c6, c7 and 4 more"]


def test_results_of_a_simulation_are_no_strangers(tmp_path, caplog):
    run = simjax.run(simjax.compose(["workload=trace", f"workload.file={write(tmp_path, SESSIONS, 's.csv')}"]))
    (path := tmp_path / "requests.csv").write_text(requests_frame(run.result.requests, run.result.sessions).to_csv(index=False))
    workload, lines = told(path, caplog)
    assert lines == [] and waits(workload) == [(0, 2, 0.0), (1, 3, 0.0)]
    np.testing.assert_allclose(workload.arrival_s, [0.0, 5.0, 30.0, 65.0])  # the same requests again


def test_rows_of_several_models_are_told_and_one_can_be_chosen(tmp_path, caplog):
    path = write(tmp_path, "Timestamp,Model,Request tokens,Response tokens\n0,GPT-4,5,6\n1,ChatGPT,7,8\n2,ChatGPT,9,0\n", "b.csv")
    _, lines = told(path, caplog)
    told_of_both = (
        "column Model names 2 models, ChatGPT (2), GPT-4 (1); a cluster of one model serves all; workload.only_model=NAME keeps one"
    )
    assert told_of_both in lines
    workload, lines = told(path, caplog, only_model="GPT-4")
    assert workload.prompt_tokens.tolist() == [5] and lines == ["1 of 3 requests are of GPT-4, the others are left out"]
    with pytest.raises(SimjaxError, match=r"no row is of the model workload\.only_model=GPT; column Model has ChatGPT \(2\), GPT-4 \(1\)"):
        told(path, caplog, only_model="GPT")
    one, lines = told(write(tmp_path, f"model,{PLAIN}\nm,0,5,6\n", "one.csv"), caplog)
    assert len(one) == 1 and lines == ["columns that are not used: model"]


def test_the_description_tells_how_the_file_was_read(tmp_path):
    trace = read_trace(write(tmp_path, CHATS + bailian((15, 99, 101.0, 16, [1])) + [{**CHATS[0], "output_length": 0}]))
    read = describe(trace.workload, reading=trace.reading).to_dict()["reading"]
    assert {name: read[name] for name in ("format", "clock", "tokens_per_id", "rows", "zero_outputs")} == {
        "format": "bailian",
        "clock": "s",
        "tokens_per_id": 16,
        "rows": 6,
        "zero_outputs": 1,
    }
