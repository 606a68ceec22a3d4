"""Runs as results of vLLM's benchmark, read again."""

import json

import numpy as np

from simjax.validate import read_measured
from simjax.validate.export import FAILED, vllm_bench
from tests.validate.test_results import VLLM, write


def test_a_run_is_the_same_when_it_is_read_again(tmp_path):
    document = {**VLLM, "output_lens": [64, 1, 200], "itls": [[0.01] * 63, [], [0.02] * 199], "gpu": "h100", "max_num_seqs": 64}
    run = read_measured(write(tmp_path, document))
    again = read_measured(write(tmp_path, json.dumps(vllm_bench(run), allow_nan=False)))
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "ttft_s", "e2e_s", "tpot_s"):
        np.testing.assert_allclose(getattr(again, name), getattr(run, name), atol=1e-9)
    assert (again.model, again.device, again.engine.max_num_seqs, again.max_concurrency) == (run.model, "h100", 64, 2)
    assert again.unrecorded == run.unrecorded


def test_statistics_are_those_of_the_requests(tmp_path):
    found = vllm_bench(read_measured(write(tmp_path, VLLM)))
    assert found["mean_ttft_ms"] == 1e3 * np.mean(VLLM["ttfts"]) and found["completed"] == 3
    np.testing.assert_allclose([found["mean_itl_ms"], found["p99_tpot_ms"]], 10.0)
    np.testing.assert_allclose(found["output_throughput"], 296 / (0.7 + 2.02))
    assert [len(gaps) for gaps in found["itls"]] == [63, 31, 199]


def test_failed_requests_are_kept(tmp_path):
    document = {**VLLM, "errors": ["", "timeout", ""], "ttfts": [0.04, None, 0.03]}
    found = vllm_bench(read_measured(write(tmp_path, document)))
    assert found["errors"] == ["", "", FAILED] and found["failed"] == 1 and found["input_lens"] == [512, 300, 1024]
