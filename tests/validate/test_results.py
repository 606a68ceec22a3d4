"""Result files of load generators as measured runs: latencies from tokens, and what has to be stated."""

import json

import numpy as np
import pytest

from simjax.config.schema import ValidateConfig
from simjax.errors import SimjaxError
from simjax.validate import compare, read_measured, validate
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
    assert (run.model == "Qwen/Qwen3-8B") == (name == "vllm_bench")


def test_the_cases_of_results():
    run = read_measured(data_path("cases/benchmark_results_unread/vllm_detailed.json"))
    np.testing.assert_allclose(run.e2e_s, [0.67, 0.37, 2.02])
    np.testing.assert_allclose(run.tpot_s, 0.01)
    run = read_measured(data_path("cases/benchmark_results_unread/infperf.json"))
    assert run.ttft_s[0] == pytest.approx(0.1) and run.tpot_s[0] == pytest.approx(0.9 / 63)


def test_a_result_is_replayed_and_compared(tmp_path):
    path = write(tmp_path, VLLM)
    with pytest.raises(SimjaxError, match=r"result\.json: the device is not recorded; device=NAME states it"):
        validate(ValidateConfig(measured=str(path)))
    config = ValidateConfig(measured=str(path), device="h100")
    measured, run = validate(config)
    assert run.cluster.instances[0].model.name == "Qwen/Qwen3-8B"
    assert compare(measured, run.result)["e2e_s"]["mean"]["measured"] == pytest.approx(1.02)
    path = write(tmp_path, [lifecycle(1.0)])
    with pytest.raises(SimjaxError, match=r"result\.json: the model is not recorded; model=NAME states it"):
        validate(config)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("arrival_s,prompt_tokens,output_tokens\n0,1,1\n", "a file; a measured run is a folder, or the result file of a load generator"),
        ({key: value for key, value in VLLM.items() if key != "start_times"} | {"request_rate": 4}, "it has no arrivals, so"),
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
