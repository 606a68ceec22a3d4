"""Result files of load generators as measured runs: latencies from tokens, and what has to be stated."""

import json

import numpy as np
import pytest

from simjax.config.schema import ValidateConfig
from simjax.errors import SimjaxError
from simjax.validate import compare, read_measured, validate
from simjax.validate.replay import measured_cluster
from simjax.validate.unrecorded import presumption
from tests.data import data_path
from tests.workload.test_results import FILES, VLLM, lifecycle


def write(folder, content):
    path = folder / "result.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", FILES)
def test_latencies_are_those_of_the_client_and_tpot_counts_tokens(tmp_path, name):
    text, arrival_s, prompt, output, ttft_s, e2e_s = FILES[name]
    order = np.argsort(arrival_s)
    run = read_measured(write(tmp_path, text), "H100")
    assert run.prompt_tokens.tolist() == [prompt[i] for i in order] and (run.device, run.failed) == ("H100", 0)
    np.testing.assert_allclose(run.arrival_s, np.array(arrival_s)[order], atol=1e-9)
    np.testing.assert_allclose(run.ttft_s, np.array(ttft_s)[order], atol=1e-6)
    np.testing.assert_allclose(run.e2e_s, np.array(e2e_s)[order], atol=1e-6)
    np.testing.assert_allclose(run.tpot_s, ((np.array(e2e_s) - ttft_s) / (np.array(output) - 1))[order], atol=1e-6)
    assert (run.model == "Qwen/Qwen3-8B") == (name in ("vllm_bench", "genai_perf"))


def test_the_cases_of_results():
    run = read_measured(data_path("cases/benchmark_results_unread/vllm_detailed.json"))
    np.testing.assert_allclose(run.e2e_s, [0.67, 0.37, 2.02])
    np.testing.assert_allclose(run.tpot_s, 0.01)
    run = read_measured(data_path("cases/benchmark_results_unread/infperf.json"))
    assert run.ttft_s[0] == pytest.approx(0.1) and run.tpot_s[0] == pytest.approx(0.9 / 63)


def test_a_result_is_replayed_and_compared(tmp_path):
    path = write(tmp_path, VLLM)
    with pytest.raises(SimjaxError, match=r"result\.json: device is not recorded; device=NAME states it\. Not recorded, so"):
        validate(ValidateConfig(measured=str(path)))
    config = ValidateConfig(measured=str(path), device="h100")
    measured, run = validate(config)
    assert run.cluster.instances[0].model.name == "Qwen/Qwen3-8B"
    assert compare(measured, run.result)["e2e_s"]["mean"]["measured"] == pytest.approx(1.02)
    path = write(tmp_path, [lifecycle(1.0)])
    with pytest.raises(SimjaxError, match=r"result\.json: model is not recorded; model=NAME states it\."):
        validate(config)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n0,1,1\n", r"no column for the first token \(ttft_s, .*\) or the last token"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,9,9,1,x\n", r"result\.json:2: e2e_s=x is not a number"),
        ("arrival_s,prompt_tokens,output_tokens,ttft_s,e2e_s\n0,9,9,,2\n", "it has no times to the first token"),
        ("a,b\n0,1\n", "cannot tell the format .*; a measured run is a folder, the result file of a load generator"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n0,1,1\n", r"a trace \(azure\) without measured times"),
        ({key: value for key, value in VLLM.items() if key != "start_times"} | {"request_rate": None}, "it has no arrivals, so"),
        ({key: value for key, value in VLLM.items() if key != "ttfts"}, "it has no times to the first token, so"),
        ({**VLLM, "ttfts": [0.1, None, 0.1]}, "request 2 is without times to the first token"),
        ({**VLLM, "errors": ["timeout"] * 3}, "no request succeeded"),
    ],
)
def test_what_is_missing_is_told(tmp_path, content, reason):
    with pytest.raises(SimjaxError, match=reason):
        read_measured(write(tmp_path, content))


def test_a_folder_of_results_is_told_apart_from_a_run(tmp_path):
    write(tmp_path, VLLM)
    with pytest.raises(SimjaxError, match=r"not a measured run; .*; name the result file of a load generator itself: result\.json"):
        read_measured(tmp_path)


def test_requests_that_failed_or_answered_nothing_are_counted(tmp_path):
    run = read_measured(write(tmp_path, {**VLLM, "output_lens": [64, 0, 200], "errors": ["", "", "timeout"]}))
    assert len(run) == 1 and run.failed == 2


def closed_loop(count=40, cap=4):
    """A benchmark without start times, in which so many requests are in flight, and when they must have been sent."""
    e2e_s = 0.5 + 0.1 * np.arange(count) % 1.0
    free_s, sent_s = [0.0] * cap, []
    for taken in e2e_s:
        at = int(np.argmin(free_s))
        sent_s.append(free_s[at])
        free_s[at] += taken
    lists = {"input_lens": [64] * count, "output_lens": [11] * count, "ttfts": [0.1] * count, "itls": [[x - 0.1] for x in e2e_s]}
    return {"backend": "sglang", "request_rate": float("inf"), "max_concurrency": cap, "duration": max(free_s), **lists}, np.array(sent_s)


def test_sends_of_a_closed_loop_follow_from_its_answers(tmp_path):
    document, sent_s = closed_loop()
    run = read_measured(write(tmp_path, document), "h100")
    np.testing.assert_allclose(run.arrival_s, np.sort(sent_s), atol=1e-12)
    assert run.max_concurrency == 4 and not run.due_s.any() and not run.drawn_arrivals
    assert run.assumptions[0].startswith("served by SGLang")
    assert "start times are not recorded: at most 4 in flight" in run.assumptions[-1]


def test_arrivals_at_a_rate_are_drawn_over_the_time_that_the_benchmark_took(tmp_path):
    document, _ = closed_loop()
    drawn = {**document, "request_rate": 8.0, "max_concurrency": None, "duration": 7.0}
    run = read_measured(write(tmp_path, drawn), "h100")
    assert run.makespan_s == pytest.approx(7.0) and run.max_concurrency is None and run.drawn_arrivals
    gaps = np.diff(run.arrival_s)
    assert gaps.min() > 0 and 0.6 < gaps.std() / gaps.mean() < 1.4
    assert "statistics can be compared, single requests cannot" in run.assumptions[-1]


def test_what_files_record_of_the_server(tmp_path):
    stated = {"tensor_parallel_size": "2", "gpu": "H100", "max_num_seqs": "64", "enable_prefix_caching": "false"}
    run = read_measured(write(tmp_path, {**VLLM, **stated, "vllm_version": "0.15.1"}))
    assert (run.device, run.tensor_parallel_size, run.engine.max_num_seqs, run.engine.vllm_version) == ("H100", 2, 64, "0.15.1")
    assert run.engine.enable_prefix_caching is False and "max_num_seqs" not in run.unrecorded and "release" not in run.unrecorded
    info = {"model_path": "Qwen/Qwen3-8B", "tp_size": 4, "max_total_num_tokens": 160_000, "chunked_prefill_size": 4096, "device": "cuda"}
    run = read_measured(write(tmp_path, {**closed_loop()[0], "server_info": {**info, "disable_radix_cache": True, "dp_size": 2}}), "h100")
    assert (run.model, run.tensor_parallel_size, run.engine.num_gpu_blocks_override) == ("Qwen/Qwen3-8B", 4, 10_000)
    assert (run.engine.max_num_batched_tokens, run.engine.enable_prefix_caching) == (4096, False)
    assert [str(x) for x in run.unsimulated] == ["dp_size=2"]
    with pytest.raises(SimjaxError, match=r"result\.json: max_num_seqs=many: it must be a whole number"):
        read_measured(write(tmp_path, {**VLLM, "max_num_seqs": "many"}))


@pytest.mark.parametrize(
    ("device", "release", "seqs", "tokens"),
    [("h100", None, 1024, 8192), ("rtx4090", None, 256, 2048), ("a100", None, 256, 2048), ("b200", "vllm-0.33", 1024, 16384)],
)
def test_flags_that_are_not_recorded_have_the_defaults_of_the_server_on_the_device(tmp_path, device, release, seqs, tokens):
    measured = read_measured(write(tmp_path, VLLM))
    config = ValidateConfig(device=device)
    config.backend.release = release
    limits = measured_cluster(measured, config).instances[0].limits
    assert (limits.max_num_seqs, limits.max_num_batched_tokens) == (seqs, tokens)
    config.scheduler.max_num_seqs = 8
    assert measured_cluster(measured, config).instances[0].limits.max_num_seqs == 8
    line = presumption(measured, config, measured_cluster(measured, config).instances[0], "vllm-0.19")
    assert line is not None and f"max_num_batched_tokens={tokens}" in line and "max_num_seqs" not in line


def test_an_answer_of_one_token_may_be_rounded_to_an_end_before_its_first_token(tmp_path):
    table = "arrival_s,prompt_tokens,output_tokens,ttft_ms,e2e_s\n0,9,1,500.004,0.5\n1,9,3,500,0.4\n"
    with pytest.raises(SimjaxError, match=r"request 1 .* has its last token before its first"):
        read_measured(write_csv(tmp_path, table))
    run = read_measured(write_csv(tmp_path, table.rpartition("1,9,3")[0]))
    assert run.ttft_s[0] == run.e2e_s[0] == pytest.approx(0.500004)


def write_csv(folder, text):
    path = folder / "mine.csv"
    path.write_text(text)
    return path


TABLES = {
    "stamps": "arrival_s,prompt_tokens,output_tokens,first_token_s,finish_s,status\n5,10,3,5.5,6.5,finished\n6,20,2,,,waiting\n",
    "times": "Arrival_s;Prompt Tokens;Output-Tokens;TTFT_ms;E2E_s;error\n5;10;3;500;1.5;\n6;20;2;;;timeout\n",
    "per token": "arrival_s,prompt_tokens,output_tokens,ttft_s,tpot_ms\n5,10,3,0.5,500\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_requests_with_their_times(tmp_path, name):
    run = read_measured(write_csv(tmp_path, TABLES[name]), "h100")
    assert (run.prompt_tokens.tolist(), run.output_tokens.tolist(), run.failed) == ([10], [3], int(name != "per token"))
    np.testing.assert_allclose([run.ttft_s[0], run.e2e_s[0], run.tpot_s[0]], [0.5, 1.5, 0.5])


def test_a_simulation_is_a_measured_run_of_its_own_configuration(tmp_path):
    (tmp_path / "requests.csv").write_text(TABLES["stamps"])
    (tmp_path / "config.yaml").write_text(
        "model: qwen3-8b\ndevice: h200\ncluster: {instances: 2, tensor_parallel_size: 2, groups: []}\n"
        "scheduler: {max_num_seqs: 32, block_size: null}\nbackend: {release: vllm-0.23}\n"
    )
    for path in (tmp_path, tmp_path / "requests.csv"):
        run = read_measured(path)
        assert (run.model, run.device, run.instances, run.tensor_parallel_size) == ("qwen3-8b", "h200", 2, 2)
        assert (run.engine.max_num_seqs, run.engine.vllm_version, run.unrecorded) == (32, "0.23", ())
