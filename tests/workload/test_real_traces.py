"""Every reader on the file for which it was written, with that file's peculiarities."""

import csv
import gzip
import json

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.workload.formats import read_lengths, read_trace
from simjax.workload.transform import jitter
from tests.data import data_path

AZURE_CONV = "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
AZURE_2024 = "traces/azure2024/AzureLLMInferenceTrace_code_1week.rows3765335-3766358.csv"
AZURE_REPLAY = "traces/azure2024/azure_llm_code_v3_1024.csv"
MOONCAKE = "traces/mooncake/conversation_trace.jsonl"
SHAREGPT = "llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
QWEN = "vllm_qwen3_14b_h100/agg_2rps/trace.csv.gz"


def test_azure_2023_has_7_digit_stamps_crlf_and_no_final_newline():
    path = data_path(AZURE_CONV)
    raw = path.read_bytes()
    assert raw.count(b"\r\n") == 19_366 and not raw.endswith(b"\n")  # the peculiarities are there
    trace = read_trace(path)
    workload = trace.workload
    assert (trace.format, trace.rows, trace.skipped, trace.dropped) == ("azure", 19_366, 0, 0)
    assert workload.arrival_s[0] == 0.0
    assert workload.arrival_s[1] == 4.314579  # 18:15:50.9951690 - 18:15:46.6805900
    assert workload.arrival_s[-1] == 3501.721937  # 19:14:08.4025270
    assert (workload.prompt_tokens[-1], workload.output_tokens[-1], trace.lines[-1]) == (197, 183, 19_367)


def test_azure_2024_has_offsets_and_agrees_with_its_replay_shape():
    trace, replay = read_trace(data_path(AZURE_2024)), read_trace(data_path(AZURE_REPLAY))
    assert (trace.format, replay.format) == ("azure", "azure_replay")
    np.testing.assert_allclose(trace.workload.arrival_s, replay.workload.arrival_s, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(trace.workload.prompt_tokens, replay.workload.prompt_tokens)
    np.testing.assert_array_equal(trace.workload.output_tokens, replay.workload.output_tokens)
    assert trace.workload.arrival_s[1] == 0.23388


@pytest.mark.parametrize(
    ("name", "kept", "failed", "first", "second_s"),
    [("BurstGPT_1", 383, 17, (472, 18), 40.0), ("BurstGPT_3", 399, 1, (906, 446), 51.0)],
)
def test_burstgpt_is_read_by_column_name_and_failures_are_dropped(name, kept, failed, first, second_s):
    path = data_path(f"traces/burstgpt/{name}.first400.csv")
    trace = read_trace(path)
    assert (trace.format, trace.rows, len(trace.workload), trace.dropped, trace.skipped) == ("burstgpt", 400, kept, failed, 0)
    assert (trace.workload.prompt_tokens[0], trace.workload.output_tokens[0]) == first
    assert trace.workload.arrival_s[1] == second_s
    with path.open() as text:
        failures = [line for line, row in enumerate(csv.DictReader(text), start=2) if row["Response tokens"] == "0"]
    assert len(failures) == failed and not set(failures) & set(trace.lines)


def test_mooncake_ties_keep_the_order_of_the_file():
    trace = read_trace(data_path(MOONCAKE))
    assert (trace.format, trace.rows) == ("mooncake", 12_031)
    np.testing.assert_array_equal(trace.lines, np.arange(1, 12_032))
    assert trace.workload.prompt_tokens[:3].tolist() == [6758, 7322, 7236]
    assert len(np.unique(trace.workload.arrival_s)) == 1_180
    assert trace.workload.arrival_s[-1] == 3536.999


def test_jitter_undoes_the_quantised_clock_of_mooncake():
    workload = read_trace(data_path(MOONCAKE)).workload
    spread = jitter(workload, 3.0, seed=1)
    assert len(np.unique(spread.arrival_s)) == len(workload)
    assert np.all(np.diff(spread.arrival_s) >= 0) and spread.arrival_s[0] == 0
    # The first stamp holds several requests, so the first jittered arrival is within 3 s of it and all others follow suit.
    assert np.abs(spread.arrival_s - workload.arrival_s).max() < 6.0
    assert spread.prompt_tokens.sum() == workload.prompt_tokens.sum()
    np.testing.assert_array_equal(jitter(workload, 3.0, seed=1).arrival_s, spread.arrival_s)
    assert not np.array_equal(jitter(workload, 3.0, seed=2).arrival_s, spread.arrival_s)


def test_llmservingsim_is_in_nanoseconds_and_needs_no_token_ids():
    path = data_path(SHAREGPT)
    with path.open() as text:
        rows = [json.loads(line) for line in text]
    trace = read_trace(path)
    assert (trace.format, len(trace.workload)) == ("llmservingsim", 300)
    assert trace.workload.arrival_s[1] == (rows[1]["arrival_time_ns"] - rows[0]["arrival_time_ns"]) / 1e9
    assert trace.workload.prompt_tokens.tolist() == [len(row["input_tok_ids"]) for row in rows]
    assert trace.workload.output_tokens.tolist() == [len(row["output_tok_ids"]) for row in rows]
    without_ids = read_trace(data_path("llmservingsim/workloads/workload_me2_01_mixed.jsonl")).workload
    assert len(without_ids) == 608 and without_ids.prefixes is None


@pytest.mark.parametrize(
    ("name", "calls", "sessions"), [("claude_code_50sess_sps0.2", 1_170, 50), ("swebench_claude_code_46sess_sps0.2", 2_146, 46)]
)
def test_agentic_sessions_are_chains_of_calls(name, calls, sessions):
    path = data_path(f"traces/derived/{name}.llmservingsim_agentic.jsonl")
    with path.open() as text:
        rows = [json.loads(line) for line in text]
    trace = read_trace(path)
    workload, linked = trace.workload, trace.workload.sessions
    assert (trace.format, trace.rows, len(workload), workload.known_arrivals) == ("llmservingsim", len(rows), calls, sessions)
    assert linked is not None and workload.prefixes is not None
    first_s = min(row["arrival_time_ns"] for row in rows) / 1e9
    for number, row in enumerate(rows):
        mine = np.flatnonzero(linked.session == number)
        assert linked.names[number] == row["session_id"] and linked.turn[mine].tolist() == list(range(len(row["sub_requests"])))
        assert workload.prompt_tokens[mine].tolist() == [call["input_toks"] for call in row["sub_requests"]]
        assert workload.arrival_s[mine[0]] == pytest.approx(row["arrival_time_ns"] / 1e9 - first_s, abs=1e-9)
        for before, after, call in zip(mine[:-1], mine[1:], row["sub_requests"], strict=False):
            edge = linked.offsets[before]
            assert linked.then[edge] == after and linked.offsets[before + 1] == edge + 1
            assert linked.delay_s[edge] == call["tool_duration_ns"] / 1e9
            content = workload.prompt_tokens[before] + workload.output_tokens[before]
            assert workload.prefixes.shared_tokens(before, after) == min(content, workload.prompt_tokens[after])


def test_vllm_recording_replays_the_trace_it_was_made_from():
    recorded = read_trace(data_path("llmservingsim/bench/RTXPRO6000/Llama-3.1-8B/vllm/requests.jsonl"))
    sent = read_trace(data_path(SHAREGPT))
    assert recorded.format == "llmservingsim_bench"
    np.testing.assert_array_equal(recorded.workload.prompt_tokens, sent.workload.prompt_tokens)
    np.testing.assert_array_equal(recorded.workload.output_tokens, sent.workload.output_tokens)
    # The recorder's clock is the real one: late by scheduling jitter, never by much.
    np.testing.assert_allclose(recorded.workload.arrival_s, sent.workload.arrival_s, rtol=0, atol=0.05)


def test_vllm_client_trace_is_sorted_by_send_time_and_uses_server_side_lengths():
    path = data_path(QWEN)
    with gzip.open(path, "rt") as text:
        rows = list(csv.DictReader(text))
    trace = read_trace(path)
    assert (trace.format, trace.rows, len(trace.workload)) == ("vllm_trace", 1_212, 1_212)
    assert np.any(np.diff(trace.lines) < 0)  # the file is not sorted, so the order is worth checking
    by_line = [rows[line - 2] for line in trace.lines]
    stamps = np.array([int(row["send_time_us"]) for row in by_line])
    np.testing.assert_allclose(trace.workload.arrival_s, (stamps - stamps.min()) / 1e6, rtol=0, atol=1e-9)
    assert trace.workload.prompt_tokens.tolist() == [int(row["server_input_tokens"]) for row in by_line]
    assert set(trace.workload.output_tokens.tolist()) == {128}


@pytest.mark.parametrize(
    ("run", "requests", "outputs"),
    [("20260217-155451-llama-2-7b-tp1-codegen", 9_000, 247), ("20260218-130541-mixtral-8x7b-v0-1-tp2-general", 16_800, 248)],
)
def test_vllm_request_report_uses_nominal_output_lengths(run, requests, outputs):
    trace = read_trace(data_path(f"vllm_h100_0.15/{run}/requests.csv.gz"))
    assert (trace.format, len(trace.workload), trace.dropped) == ("vllm_requests", requests, 0)
    assert np.median(trace.workload.output_tokens) == outputs


def test_vidur_repeats_azure_2023():
    vidur, azure = read_trace(data_path("traces/vidur/splitwise_conv.csv")), read_trace(data_path(AZURE_CONV))
    assert vidur.format == "vidur"
    np.testing.assert_allclose(vidur.workload.arrival_s, azure.workload.arrival_s, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(vidur.workload.prompt_tokens, azure.workload.prompt_tokens)
    np.testing.assert_array_equal(vidur.workload.output_tokens, azure.workload.output_tokens)


def test_vidur_without_arrivals_gives_lengths_but_no_trace():
    path = data_path("traces/vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv")
    lengths = read_lengths(path)
    assert (len(lengths.prompt_tokens), lengths.prompt_tokens[0], lengths.output_tokens[0]) == (28_257, 3772, 54)
    assert round(lengths.prompt_tokens.mean()) == 2_588 and round(lengths.output_tokens.mean()) == 291
    with pytest.raises(SimjaxError, match=r"no arrivals .*arrived_at.*source of lengths"):
        read_trace(path)


@pytest.mark.parametrize("name", ["tracelab/example_sanitized_round_trace.jsonl", "servegen/data/reason/deepseek-r1/chunk-3-trace.csv"])
def test_files_of_other_formats_are_not_guessed(name):
    with pytest.raises(SimjaxError, match="cannot tell the format from its columns"):
        read_trace(data_path(f"traces/{name}"))
