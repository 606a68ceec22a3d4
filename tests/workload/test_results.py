"""Result files of load generators: arrivals, lengths, first tokens and finishes of their requests."""

import json
import logging

import numpy as np
import pytest

from simjax.errors import SimjaxError
from simjax.workload import WorkloadConfig, build_workload, read_trace
from simjax.workload.formats import FORMATS, read_lengths
from tests.data import data_path

GAPS = [[0.01] * 63, [0.01] * 31, [0.01] * 199]
VLLM = {
    "date": "20260101-000000",
    "backend": "openai",
    "model_id": "Qwen/Qwen3-8B",
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 2,
    "completed": 3,
    "input_lens": [512, 1024, 300],
    "output_lens": [64, 32, 200],
    "ttfts": [0.04, 0.06, 0.03],
    "itls": GAPS,
    "start_times": [10.0, 10.001, 10.7],
    "errors": ["", "", ""],
}
SGLANG = {**{key: VLLM[key] for key in ("input_lens", "output_lens", "ttfts")}, "itls": [[0.01], [0.02], [0.01]], "request_rate": 4.0}


def guide(start_s, prompt=512, output=64, **more):
    return {"prompt_tokens": prompt, "output_tokens": output, "request_start_time": start_s, "time_to_first_token_ms": 40.0, **more}


def benchmark(*successful, **others):
    return {"requests": {"successful": list(successful), "errored": [], "incomplete": [], **others}}


def aiperf(number, start_ns, error=None, **metadata):
    stamps = {"request_start_ns": start_ns, "request_end_ns": start_ns + 900_000_000, "was_cancelled": False, "turn_index": 0}
    values = {
        "input_sequence_length": (500 + number, "tokens"),
        "output_sequence_length": (50, "tokens"),
        "time_to_first_token": (40, "ms"),
    }
    metrics = {name: {"value": value, "unit": unit} for name, (value, unit) in values.items()}
    return {"metadata": {**stamps, **metadata}, "metrics": metrics, "error": error}


def lifecycle(start_s, **more):
    info = {"input_tokens": 512, "output_tokens": 64, "output_token_times": [start_s + 0.1, start_s + 0.5]}
    return {"start_time": start_s, "end_time": start_s + 1.0, "request": "{}", "info": info, "error": None, **more}


def genai(start_ns, tokens=4, usage=None, text="word " * 100):
    """A request of genai-perf whose first token comes after 40 ms and each further one after 10."""
    stamps = [start_ns + 40_000_000 + i * 10_000_000 for i in range(tokens)]
    event = lambda content, **more: {"response": "data: " + json.dumps({"object": "chat.completion.chunk", "choices": content, **more})}
    chunks = [event([{"delta": {"content": "a"}}]) for _ in range(tokens)]
    last = event([], usage=usage) if usage else {"response": "data: [DONE]"}
    payload = json.dumps({"model": "Qwen/Qwen3-8B", "messages": [{"role": "user", "content": text}]})
    return {
        "timestamp": start_ns,
        "request_inputs": {"payload": payload},
        "response_timestamps": [*stamps, stamps[-1] + 5_000_000],
        "response_outputs": [*chunks, last],
    }


def experiments(*requests):
    return {"experiments": [{"experiment": {"mode": "concurrency", "value": 2}, "requests": requests}], "service_kind": "openai"}


EPOCH_NS = 1_759_813_207_532_900_363
FILES = {
    "vllm_bench": (json.dumps(VLLM, indent=1), [0.0, 0.001, 0.7], [512, 1024, 300], [64, 32, 200], [0.04, 0.06, 0.03], [0.67, 0.37, 2.02]),
    "guidellm": (
        json.dumps({"metadata": {}, "benchmarks": [benchmark(guide(100.0, request_end_time=101.0), guide(100.5, request_latency=2.0))]}),
        [0.0, 0.5],
        [512, 512],
        [64, 64],
        [0.04, 0.04],
        [1.0, 2.0],
    ),
    "aiperf": (
        "".join(json.dumps(aiperf(i, EPOCH_NS + i * 500_000_001)) + "\n" for i in range(3)),
        [0.0, 0.500000001, 1.000000002],
        [500, 501, 502],
        [50, 50, 50],
        [0.04] * 3,
        [0.9] * 3,
    ),
    "genai_perf": (
        json.dumps(experiments(*(genai(EPOCH_NS + i, usage={"prompt_tokens": 512, "completion_tokens": 7}) for i in (0, 5 * 10**8)))),
        [0.0, 0.5],
        [512, 512],
        [7, 7],
        [0.04, 0.04],
        [0.07, 0.07],
    ),
    "inference_perf": (json.dumps([lifecycle(10.0), lifecycle(9.5)]), [0.5, 0.0], [512, 512], [64, 64], [0.1, 0.1], [1.0, 1.0]),
}


def write(folder, text):
    path = folder / "result.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_requests_of_a_result(tmp_path, name):
    text, arrival_s, prompt, output, ttft_s, e2e_s = FILES[name]
    path = write(tmp_path, text)
    trace = read_trace(path)
    order = np.argsort(arrival_s)
    assert (trace.format, trace.rows) == (name, len(prompt))
    np.testing.assert_allclose(trace.workload.arrival_s, np.array(arrival_s)[order], rtol=0, atol=1e-9)
    assert trace.workload.prompt_tokens.tolist() == [prompt[i] for i in order]
    assert trace.workload.output_tokens.tolist() == [output[i] for i in order]
    reader = FORMATS[name].reader
    assert reader is not None
    found = reader(path)
    np.testing.assert_allclose(found.ttft_s, ttft_s, atol=1e-6)
    np.testing.assert_allclose(found.e2e_s, e2e_s, atol=1e-6)
    assert read_lengths(path).prompt_tokens.tolist() == prompt


@pytest.mark.parametrize(
    ("name", "format", "arrival_s", "lengths"),
    [
        ("vllm_detailed.json", "vllm_bench", [0.0, 0.001, 0.7], [(512, 64), (1024, 32), (300, 200)]),
        ("aiperf.jsonl", "aiperf", [0.0, 0.5, 1.0], [(500, 50), (501, 50), (502, 50)]),
        ("guidellm.json", "guidellm", [0.0], [(512, 64)]),
        ("infperf.json", "inference_perf", [0.0], [(512, 64)]),
    ],
)
def test_the_cases_of_results(name, format, arrival_s, lengths):
    trace = read_trace(data_path(f"cases/benchmark_results_unread/{name}"))
    assert trace.format == format
    np.testing.assert_allclose(trace.workload.arrival_s, arrival_s, rtol=0, atol=1e-6)
    assert list(zip(trace.workload.prompt_tokens.tolist(), trace.workload.output_tokens.tolist(), strict=True)) == lengths


def test_a_result_of_sglang_has_lengths_and_tells_how_its_arrivals_are_drawn(tmp_path):
    path = write(tmp_path, json.dumps(SGLANG) + "\n")
    assert read_lengths(path).output_tokens.tolist() == [64, 32, 200]
    with pytest.raises(SimjaxError) as error:
        read_trace(path)
    options = f"workload.kind=poisson workload.rate=4 workload.lengths_file={path} workload.num_requests=3"
    assert (
        str(error.value)
        == f"{path}: no arrivals are recorded (no start_times), only lengths; {options} draws arrivals as the benchmark did"
    )
    drawn = build_workload(WorkloadConfig(kind="poisson", rate=4.0, lengths_file=str(path), num_requests=3))
    assert set(drawn.prompt_tokens.tolist()) <= {512, 1024, 300}


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"burstiness": 0.25}, "workload.kind=gamma workload.rate=4 workload.cv=2 "),
        ({"request_rate": "inf", "max_concurrency": 8}, "workload.kind=closed_loop workload.concurrency=8 "),
        ({"request_rate": None}, "workload.kind=poisson workload.rate=RATE "),
    ],
)
def test_other_arrivals_that_are_not_recorded(tmp_path, change, options):
    with pytest.raises(SimjaxError, match=f"only lengths; {options}"):
        read_trace(write(tmp_path, {**SGLANG, **change}))


def test_requests_of_an_infinite_rate_are_sent_at_once(tmp_path):
    trace = read_trace(write(tmp_path, {**SGLANG, "request_rate": "inf"}))
    assert trace.workload.arrival_s.tolist() == [0.0] * 3
    assert trace.reading.notes == ("start_times are not recorded; request_rate=inf sends all requests at once",)


def test_a_cap_of_the_client_is_told(tmp_path, caplog):
    path = write(tmp_path, VLLM)
    with caplog.at_level(logging.INFO, logger="simjax"):
        build_workload(WorkloadConfig(kind="trace", file=str(path)))
    assert f"{path}: the client kept at most 2 requests in flight" in caplog.text


def test_failed_requests_of_results_are_played_or_dropped(tmp_path):
    document = {**VLLM, "output_lens": [64, 0, 0], "errors": ["", "timeout", ""]}
    trace = read_trace(write(tmp_path, document))
    assert trace.workload.output_tokens.tolist() == [64, 1, 1]
    assert (trace.reading.failed, trace.reading.zero_outputs, trace.dropped) == (1, 1, 0)
    rows = [aiperf(0, EPOCH_NS), aiperf(1, EPOCH_NS + 10**9, error={"code": 500}), aiperf(2, EPOCH_NS + 2 * 10**9, was_cancelled=True)]
    rows[1]["metrics"] = {}  # nothing is known about it
    trace = read_trace(write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows)))
    assert trace.workload.prompt_tokens.tolist() == [500, 502] and (trace.reading.failed, trace.dropped) == (1, 1)
    trace = read_trace(write(tmp_path, {"benchmarks": [benchmark(guide(1.0), incomplete=[guide(2.0)], errored=[guide(None)])]}))
    assert len(trace.workload) == 2 and (trace.reading.failed, trace.dropped) == (1, 1)


def test_several_benchmarks_of_guidellm_are_one_trace(tmp_path):
    trace = read_trace(write(tmp_path, {"benchmarks": [benchmark(guide(100.0), guide(130.0)), benchmark(guide(160.0), guide(200.0))]}))
    assert trace.workload.arrival_s.tolist() == [0.0, 30.0, 60.0, 100.0]
    assert trace.reading.notes == (
        "2 benchmarks, played one after another as they ran (0.0 to 30.0 s, 60.0 to 100.0 s); workload.start_s and end_s choose one",
    )


def test_later_turns_of_aiperf_are_told(tmp_path):
    text = json.dumps(aiperf(0, EPOCH_NS)) + "\n" + json.dumps(aiperf(1, EPOCH_NS + 10, turn_index=1)) + "\n"
    assert read_trace(write(tmp_path, text)).reading.notes == (
        "1 requests are later turns of conversations; all are sent at their recorded times",
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({**VLLM, "output_lens": [64, 32]}, "output_lens is not a list of 3 values"),
        ({**VLLM, "ttfts": [0.1]}, "ttfts is not a list of 3 values, one for each of input_lens"),
        ({**VLLM, "input_lens": [512, "many", 300]}, "input_lens of request 2 is 'many', not a number"),
        ({**VLLM, "input_lens": [512, 0, 300]}, r"request 2 lacks lengths that can be \(0 prompt, 32 output tokens\) \(on_bad_row=skip"),
        ({**VLLM, "start_times": [1.0, None, 2.0]}, "request 2 lacks its arrival"),
        (json.dumps(VLLM) + "\n" + json.dumps(VLLM) + "\n", "the results of 2 benchmarks, one a line; keep one of them"),
        ({"benchmarks": []}, "benchmarks is not a list of benchmarks"),
        ({"benchmarks": [{"metrics": {}}]}, r"benchmarks\[0\]\.requests is missing; the file holds a summary"),
        ({"mean_ttft_ms": 3.0, "completed": 3}, "a summary of a benchmark without its requests; .*--save-detailed"),
        (json.dumps({"metadata": 3, "metrics": {}}), "result.json:1: metadata is missing"),
    ],
)
def test_what_is_wrong_with_a_result_is_told(tmp_path, content, reason):
    with pytest.raises(SimjaxError, match=reason):
        read_trace(write(tmp_path, content))


def test_malformed_requests_of_a_result_can_be_skipped(tmp_path):
    trace = read_trace(write(tmp_path, {**VLLM, "input_lens": [512, 0, 300]}), on_bad_row="skip")
    assert trace.workload.prompt_tokens.tolist() == [512, 300] and trace.skipped == 1


def test_tokens_of_genai_perf_without_a_usage(tmp_path):
    path = write(tmp_path, experiments(genai(EPOCH_NS), genai(EPOCH_NS + 10**9, text="word " * 300)))
    with pytest.raises(
        SimjaxError, match=r"lengths of prompts are not recorded; put genai-perf's summary result_genai_perf\.json beside it"
    ):
        read_trace(path)
    (tmp_path / "result_genai_perf.json").write_text(json.dumps({"input_sequence_length": {"unit": "tokens", "avg": 200.0}}))
    trace = read_trace(path)
    assert trace.workload.prompt_tokens.tolist() == [100, 300] and trace.workload.output_tokens.tolist() == [4, 4]
    assert "shared out by their characters" in trace.reading.notes[0] and "each event with a text" in trace.reading.notes[1]


def test_the_halves_of_an_event_and_failures_of_genai_perf(tmp_path):
    request = genai(EPOCH_NS, usage={"prompt_tokens": 9, "completion_tokens": 4})
    whole = request["response_outputs"][1]["response"]
    request["response_outputs"][1]["response"] = whole[:30]
    request["response_outputs"][2]["response"] = whole[30:]
    silent = {**genai(EPOCH_NS + 10**9), "response_timestamps": [], "response_outputs": []}
    found = FORMATS["genai_perf"].reader(write(tmp_path, experiments(request, silent)))
    assert found.failed.tolist() == [False, True] and found.output_tokens.tolist() == [4, 0] and found.model == "Qwen/Qwen3-8B"
    np.testing.assert_allclose(found.e2e_s[0], 0.07)
    with pytest.raises(SimjaxError, match="request 1: response_timestamps is not a list with a stamp for each"):
        read_trace(write(tmp_path, experiments({**request, "response_timestamps": [1]})))
    with pytest.raises(SimjaxError, match="experiments holds no requests"):
        read_trace(write(tmp_path, experiments()))
