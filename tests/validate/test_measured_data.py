"""The readers and the comparison on real recordings; skipped without the recordings."""

import numpy as np
import pytest

from simjax.validate.compare import compare, error_pct
from simjax.validate.measured import read_measured
from simjax.validate.run import engine_side
from tests.data import data_path
from tests.validate import samples

BENCHES = ["RTX4090/Llama-3.1-8B", "RTXPRO6000/Llama-3.1-8B", "RTXPRO6000/Qwen3-32B"]


@pytest.mark.parametrize("bench", BENCHES)
def test_llmservingsims_own_table_is_reproduced(bench):
    # Its "vLLM" column counts from when vLLM queued a request, not from when the client sent it.
    folder = data_path(f"llmservingsim/bench/{bench}")
    run = engine_side(read_measured(folder))
    report = compare(run, samples.peer_result(folder / "peer" / "sim.csv"))
    for (metric, statistic), (measured_ms, simulated_ms, difference) in samples.peer_summary(folder / "peer_summary.txt").items():
        row = report[metric][statistic]
        assert row["measured"] * 1e3 == pytest.approx(measured_ms, abs=0.0501), (metric, statistic)
        assert row["simulated"] * 1e3 == pytest.approx(simulated_ms, abs=0.0501), (metric, statistic)
        assert row["error_pct"] == pytest.approx(difference, abs=0.0501), (metric, statistic)


@pytest.mark.parametrize(
    ("bench", "mean_delay_ms"), [("RTX4090/Llama-3.1-8B", 29.8), ("RTXPRO6000/Llama-3.1-8B", 22.8), ("RTXPRO6000/Qwen3-32B", 133.4)]
)
def test_clients_wait_for_the_api_server_too(bench, mean_delay_ms):
    run = read_measured(data_path(f"llmservingsim/bench/{bench}"))
    assert run.queue_delay_s is not None and run.queue_delay_s.min() >= 0.0
    assert run.queue_delay_s.mean() * 1e3 == pytest.approx(mean_delay_ms, abs=0.06)
    np.testing.assert_allclose(run.ttft_s - run.queue_delay_s, engine_side(run).ttft_s, rtol=1e-12)


def test_the_recorded_configuration_of_the_rtx_4090_run():
    run = read_measured(data_path("llmservingsim/bench/RTX4090/Llama-3.1-8B"))
    engine = run.engine
    assert (run.model, run.device, run.tensor_parallel_size, len(run), run.failed) == ("meta-llama/Llama-3.1-8B", "RTX4090", 1, 300, 0)
    assert (engine.max_num_seqs, engine.max_num_batched_tokens, engine.num_gpu_blocks, engine.block_size) == (256, 2048, 2588, 16)
    assert (
        engine.async_scheduling and engine.enable_chunked_prefill and engine.enable_prefix_caching and engine.gpu_memory_utilization == 0.9
    )
    assert engine.cudagraph_capture_sizes is not None and engine.cudagraph_capture_sizes[-1] == 512
    assert run.assumptions == () and run.timeseries is not None and run.timeseries.kv_used_fraction.max() == 1.0


@pytest.mark.parametrize("bench", BENCHES)
def test_the_recorded_series_holds_the_tokens_of_the_workload(bench):
    run = read_measured(data_path(f"llmservingsim/bench/{bench}"))
    assert run.timeseries is not None
    # One row a second; the sampler ends within a second of the last token, on the same clock.
    assert run.timeseries.t_s.iloc[-1] + 1.0 == pytest.approx(run.makespan_s, abs=1.5)
    assert run.timeseries.output_tokens_per_s.sum() == pytest.approx(run.output_tokens.sum(), rel=0.01)


@pytest.mark.parametrize(("rate", "requests", "ttft_ms", "e2e_ms"), [(2, 1212, 66.87, 1632.69), (6, 3610, 80.22, 2016.41)])
def test_qwen3_14b_on_h100(rate, requests, ttft_ms, e2e_ms):
    run = read_measured(data_path(f"vllm_qwen3_14b_h100/agg_{rate}rps"))
    assert (run.model, run.device, len(run)) == ("Qwen/Qwen3-14B", "H100", requests)
    assert run.ttft_s.mean() * 1e3 == pytest.approx(ttft_ms, abs=0.006)  # the recorder's own summary
    assert run.e2e_s.mean() * 1e3 == pytest.approx(e2e_ms, abs=0.006)
    assert run.prompt_tokens.mean() == pytest.approx(986, abs=1) and set(run.output_tokens) == {128}
    assert (run.engine.num_gpu_blocks, run.engine.max_num_batched_tokens, run.engine.max_num_seqs) == (18038, 8192, 256)
    assert np.all(np.diff(run.arrival_s) >= 0) and run.arrival_s[0] == 0.0


@pytest.mark.parametrize(
    ("name", "tensor_parallel", "blocks", "ttft_ms", "e2e_ms"),
    [
        ("20260217-155451-llama-2-7b-tp1-codegen", 1, 7462, 28.0, 2081.0),
        ("20260218-130541-mixtral-8x7b-v0-1-tp2-general", 2, 27510, 68.9, 5039.0),
    ],
)
def test_inference_perf_runs(name, tensor_parallel, blocks, ttft_ms, e2e_ms):
    run = read_measured(data_path(f"vllm_h100_0.15/{name}"))
    assert (run.tensor_parallel_size, run.engine.num_gpu_blocks) == (tensor_parallel, blocks)
    assert run.ttft_s.mean() * 1e3 == pytest.approx(ttft_ms, abs=0.06) and run.e2e_s.mean() * 1e3 == pytest.approx(e2e_ms, abs=0.6)
    assert run.prefix_key is not None and run.prefix_key.max() == 99


@pytest.mark.parametrize("relative", ["llmservingsim/bench/RTX4090/Llama-3.1-8B", "vllm_qwen3_14b_h100/agg_2rps"])
def test_a_recording_compared_with_itself_has_no_error(relative):
    run = read_measured(data_path(relative))
    report = compare(run, samples.answer(run))
    errors = [row["error_pct"] for metric in ("ttft_s", "tpot_s", "e2e_s") for row in report[metric].values()]
    np.testing.assert_allclose(errors, 0.0, atol=1e-6)
    np.testing.assert_allclose(list(report["per_request"].values()), 0.0, atol=1e-6)
    assert report["makespan"]["error_pct"] == pytest.approx(0.0, abs=1e-9)


def test_error_pct():
    assert error_pct(2.0, 1.0) == -50.0 and error_pct(0.0, 1.0) is None and error_pct(None, 1.0) is None
