import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from simjax.cluster.configured.groups import engine_limits
from simjax.cluster.unsimulated import Setting
from simjax.config.cluster import MeasuredClusterConfig
from simjax.config.scheduler import SchedulerConfig
from simjax.config.schema import ValidateConfig
from simjax.engine.host.result import NEVER
from simjax.errors import SimjaxError
from simjax.parallel.experts import Experts
from simjax.parallel.parallelism import Parallelism
from simjax.parallel.popularity import Popularity
from simjax.speculation.config import MeasuredSpeculationConfig
from simjax.speculation.methods import MTP_RATES
from simjax.validate.measured import read_measured
from simjax.validate.replay import asked_for, measured_cluster, read_to_replay, remedy
from simjax.validate.run import EngineFacts, default_async_scheduling, engine_side
from tests.validate import samples


def test_llmservingsim_layout(tmp_path):
    run = read_measured(samples.llmservingsim(tmp_path / "GPU1" / "model"))
    assert (run.name, run.model, run.device, run.tensor_parallel_size, run.instances) == ("GPU1/model", "org/model", "GPU1", 2, 1)
    # Sorted by arrival; TTFT and E2E count from the arrival, 30 ms more for the request that the API server held.
    np.testing.assert_allclose(run.arrival_s, [0.0, 2.0])
    np.testing.assert_allclose(run.queue_delay_s, [0.0, 0.030], atol=1e-9)
    np.testing.assert_allclose(run.ttft_s, [1.0, 0.499], atol=1e-9)
    np.testing.assert_allclose(run.e2e_s, [3.0, 0.499], atol=1e-9)
    assert run.has_tpot.tolist() == [True, False] and run.tpot_s[1] == NEVER
    assert run.tpot_s[0] == pytest.approx(0.5)
    assert run.makespan_s == pytest.approx(3.0)
    assert run.prompt_tokens.tolist() == [10, 20] and run.prompt_tokens.dtype == np.int32
    workload = run.workload()
    assert workload.arrival_s is run.arrival_s and workload.output_tokens.tolist() == [5, 1]
    # The series starts 0.5 s before the first arrival; t marks the end of an interval.
    assert run.timeseries is not None
    np.testing.assert_allclose(run.timeseries.t_s, [-0.5, 0.5])
    assert run.timeseries.kv_used_fraction.tolist() == [0.025, 0.05] and run.timeseries.waiting.tolist() == [0, 3]
    hardware = run.hardware
    assert hardware.link_bandwidth_bytes_per_s == 16 * 2**30 and hardware.link_latency_s == 20e-6
    assert hardware.device_memory_bytes == 96 * 2**30 and hardware.device_memory_bandwidth_bytes_per_s == 1597e9


def test_the_cluster_may_be_described_in_our_own_terms(tmp_path):
    cluster = {"instances": 2, "tensor_parallel_size": 2, "link_latency_s": 5e-6}
    own = {"model": "qwen3-14b", "device": "h100", "cluster": cluster, "scheduler": {"max_num_seqs": 7, "num_gpu_blocks_override": 900}}
    run = read_measured(samples.llmservingsim(tmp_path / "run", cluster=own))
    assert (run.model, run.device, run.tensor_parallel_size, run.instances) == ("qwen3-14b", "h100", 2, 2)
    assert (run.engine.max_num_seqs, run.engine.num_gpu_blocks) == (7, 900)  # before what meta.json records
    assert run.engine.max_num_batched_tokens == 2048 and run.hardware.link_latency_s == 5e-6
    with pytest.raises(SimjaxError, match=r"config\.json: unknown key 'scheduler.max_num_seq'; did you mean max_num_seqs"):
        read_measured(samples.llmservingsim(tmp_path / "other", cluster={**own, "scheduler": {"max_num_seq": 7}}))


def test_what_a_run_does_not_record_is_filled_in_and_said(tmp_path):
    run = read_measured(samples.llmservingsim(tmp_path / "run"))
    engine = run.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens, engine.block_size) == (128, 2048, 16)
    assert engine.num_gpu_blocks is None and engine.max_model_len is None and engine.cudagraph_capture_sizes is None
    assert engine.gpu_memory_utilization == 0.85  # of config.json
    assert engine.async_scheduling and engine.enable_prefix_caching and engine.enable_chunked_prefill
    assert [line.split()[0] for line in run.assumptions] == [
        "gpu_memory_utilization",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "async_scheduling",
    ]


def test_the_resolved_configuration_wins(tmp_path):
    meta = copy.deepcopy(samples.META)
    meta["kv_cache"] = {"num_gpu_blocks": 2588, "block_size": 32, "gpu_memory_utilization": 0.9, "enable_prefix_caching": False}
    meta["resolved_config"] = {
        "scheduler_config": {
            "async_scheduling": False,
            "enable_chunked_prefill": True,
            "max_num_seqs": 64,
            "long_prefill_token_threshold": 7,
            "scheduler_reserve_full_isl": False,
        },
        "compilation_config": {"cudagraph_capture_sizes": [1, 2, 4]},
        "model_config": {"max_model_len": 32768},
    }
    run = read_measured(samples.llmservingsim(tmp_path / "run", meta=meta))
    engine = run.engine
    assert (engine.max_num_seqs, engine.num_gpu_blocks, engine.block_size, engine.max_model_len) == (64, 2588, 32, 32768)
    assert not engine.async_scheduling and not engine.enable_prefix_caching and engine.long_prefill_token_threshold == 7
    assert not engine.reserve_full_isl and engine_limits(EngineFacts(vllm_version="0.19.0")).reserve_full_isl
    assert engine.gpu_memory_utilization == 0.9 and engine.cudagraph_capture_sizes == (1, 2, 4)
    assert run.assumptions == ()


def test_cluster_file_may_be_missing_and_the_device_overridden(tmp_path):
    folder = samples.llmservingsim(tmp_path / "run", cluster=None)
    with pytest.raises(SimjaxError, match="names the GPU; pass device="):
        read_measured(folder)
    run = read_measured(folder / "vllm", device="GPU9")  # the inner folder will do, too
    assert run.device == "GPU9" and run.hardware.device_memory_bytes is None and run.engine.gpu_memory_utilization is None
    named = samples.llmservingsim(tmp_path / "named", meta={**samples.META, "hardware": {"device_name": "NVIDIA GPU7"}}, cluster=None)
    assert read_measured(named).device == "NVIDIA GPU7"


def test_requests_that_never_finished_are_left_out(tmp_path):
    rows = [*samples.ROWS, {**samples.ROWS[0], "first_token_ts": None, "last_token_ts": None}]
    run = read_measured(samples.llmservingsim(tmp_path / "run", rows=rows))
    assert len(run) == 2 and run.failed == 1
    with pytest.raises(SimjaxError, match="no request succeeded"):
        read_measured(samples.llmservingsim(tmp_path / "none", rows=rows[2:]))


def test_request_trace_layout(tmp_path):
    run = read_measured(samples.request_trace(tmp_path))
    assert (run.name, run.model, run.device, run.failed) == ("agg_2rps", "org/model", "H100", 1)
    np.testing.assert_allclose(run.arrival_s, [0.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(run.ttft_s, [0.05, 0.1], rtol=1e-9)
    np.testing.assert_allclose(run.e2e_s, [0.25, 0.2], rtol=1e-9)
    np.testing.assert_allclose(run.tpot_s, [0.1, 0.05], rtol=1e-9)
    assert run.prompt_tokens.tolist() == [1024, 1010]  # the server's count where it has one
    engine = run.engine
    assert (engine.num_gpu_blocks, engine.max_num_seqs, engine.max_num_batched_tokens, engine.max_model_len) == (100, 256, 8192, 40960)
    assert not engine.async_scheduling and not engine.enable_prefix_caching  # vLLM 0.13
    assert len(run.assumptions) == 3 and len(read_measured(tmp_path / "agg_2rps", device="A100").assumptions) == 2
    with pytest.raises(SimjaxError, match="does not record when the engine queued"):
        engine_side(run)


def test_inference_perf_layout(tmp_path):
    run = read_measured(samples.inference_perf(tmp_path))
    assert (run.name, run.device, run.tensor_parallel_size, run.failed) == ("exp-1", "H100", 2, 1)
    np.testing.assert_allclose(run.arrival_s, [0.0, 1.0])
    np.testing.assert_allclose(run.tpot_s, [0.1, 0.2])
    assert run.prefix_key is not None and run.prefix_key.tolist() == [0, 1]
    assert run.engine.num_gpu_blocks == 7462 and run.engine.max_model_len == 4096


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.13.2", False), ("0.14.0", True), ("0.19.0", True), ("v0.9.1", False), ("1.0.0", True), ("0.23.0rc1", True), ("main", True)],
)
def test_asynchronous_scheduling_is_vllms_default_from_0_14(version, expected):
    assert default_async_scheduling(version) is expected


def broken(tmp_path, **changes):
    return samples.llmservingsim(tmp_path / "run", **changes)


def trace(tmp_path, old="", new="", **server):
    return samples.request_trace(tmp_path / "a", server={**samples.SERVER, **server}, trace=samples.TRACE.replace(old, new))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t / "nowhere", "no such folder"),
        (lambda t: t, "not a measured run; it has none of vllm/requests.jsonl"),
        (lambda t: broken(t, meta={**samples.META, "vllm_version": None}), r"meta\.json: the field vllm_version is missing"),
        (lambda t: broken(t, meta={**samples.META, "engine_kwargs": {"tensor_parallel_size": 2}}), r"gives max_num_seqs"),
        (lambda t: broken(t, meta={**samples.META, "engine_kwargs": {}}), r"tp_size=2, but .*tensor_parallel_size=1"),
        (lambda t: broken(t, meta={**samples.META, "started_at": "yesterday"}), "started_at='yesterday' is not an ISO date"),
        (lambda t: broken(t, cluster={}), r"config\.json: it has neither nodes"),
        (lambda t: broken(t, cluster={"nodes": [{"instances": []}]}), "has 0 instances"),
        (lambda t: broken(t, rows=[]), "has no rows"),
        (lambda t: broken(t, rows=[{"input_toks": 1}]), r"requests\.jsonl:1: the field output_toks is missing"),
        (lambda t: broken(t, rows=[{**samples.ROWS[0], "input_toks": "many"}]), r"requests\.jsonl:1: input_toks must be a number"),
        (lambda t: broken(t, rows=[*samples.ROWS, {**samples.ROWS[0], "first_token_ts": float("nan")}]), r"jsonl:3: first_token_ts is nan"),
        (lambda t: broken(t, rows=[{**samples.ROWS[0], "arrival_time": float("inf")}]), r"jsonl:1: arrival_time is inf"),
        (lambda t: broken(t, rows=[{**samples.ROWS[0], "output_toks": 0}]), "request 0 .* has output_tokens < 1"),
        (lambda t: broken(t, rows=[{**samples.ROWS[0], "last_token_ts": 1.0}]), "last token before its first"),
        (lambda t: trace(t, "status", "state"), r"trace\.csv\.gz: the column status is missing; it has input_tokens"),
        (lambda t: trace(t, "1782183938050000", "soon"), r"trace\.csv\.gz:3: first_chunk_time_us=soon is not a number"),
        (lambda t: trace(t, "1782183938050000", ""), r"trace\.csv\.gz:3: first_chunk_time_us is empty"),
        (lambda t: trace(t, ",ok", ",timeout"), "no request succeeded"),
        (lambda t: trace(t, block_size="big"), "block_size must be a number, found 'big'"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(tmp_path, make, message):
    with pytest.raises(SimjaxError, match=message) as caught:
        read_measured(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_and_malformed_files(tmp_path):
    folder = samples.request_trace(tmp_path / "b")
    (folder.parent / "server_config.json").unlink()
    with pytest.raises(SimjaxError, match=r"server_config\.json is missing"):
        read_measured(folder)
    folder = samples.inference_perf(tmp_path / "c")
    (folder.parent / "index.csv").write_text("experiment,kv_blocks,block_size\nother,1,16\n")
    with pytest.raises(SimjaxError, match="0 rows for the experiment exp-1"):
        read_measured(folder)
    (folder.parent / "index.csv").unlink()
    with pytest.raises(SimjaxError, match=r"index\.csv: cannot be read"):
        read_measured(folder)
    (folder / "exp-config.yaml").write_text("a: [1\n")
    with pytest.raises(SimjaxError, match=r"exp-config\.yaml: not valid yaml"):
        read_measured(folder)
    folder = samples.llmservingsim(tmp_path / "d")
    (folder / "vllm" / "requests.jsonl").write_text(json.dumps(samples.ROWS[0]) + "\n{oops\n")
    with pytest.raises(SimjaxError, match=r"requests\.jsonl:2: not a JSON object"):
        read_measured(folder)
    (folder / "vllm" / "meta.json").write_text("[]")
    with pytest.raises(SimjaxError, match="expected a mapping"):
        read_measured(folder)


def test_a_folder_of_runs_says_which_runs_it_holds(tmp_path):
    samples.llmservingsim(tmp_path / "one")
    samples.llmservingsim(tmp_path / "two")
    with pytest.raises(SimjaxError, match="holds 2 measured runs, name one of them: one, two"):
        read_measured(tmp_path)


def test_a_recorded_admission_rule_reaches_the_simulated_engine(tmp_path):
    flags = {"max_num_seqs": 7, "num_gpu_blocks_override": 900}
    own = {"model": "llama-3.1-8b", "device": "h100", "cluster": {"tensor_parallel_size": 2}, "scheduler": flags}
    for asked, expected in (({}, True), ({"reserve_full_isl": False}, False)):
        folder = samples.llmservingsim(tmp_path / str(expected), cluster={**own, "scheduler": flags | asked})
        (instance,) = measured_cluster(read_measured(folder), ValidateConfig()).instances
        assert instance.limits.reserve_full_isl is expected


def test_failed_requests_are_replayed_as_load(tmp_path):
    """The row with an error has a prompt and a time of sending, and no token came."""
    run = read_measured(samples.request_trace(tmp_path))
    assert run.failed_requests is not None and run.failed == len(run.failed_requests) == 1
    np.testing.assert_allclose(run.failed_requests.arrival_s, [0.1], atol=1e-6)
    workload = run.workload()
    np.testing.assert_allclose(workload.arrival_s, [0.0, 0.1, 0.5], atol=1e-6)
    assert workload.prompt_tokens.tolist() == [1024, 900, 1010] and workload.output_tokens.tolist() == [3, 1, 3]
    assert run.places.tolist() == [0, 2]
    (told,) = read_to_replay([tmp_path / "agg_2rps"])
    assert told.replay_notes == ("1 request failed: all replayed as load, as far as the record tells; the others are compared",)


def test_a_failed_request_that_had_its_first_token_asked_for_all(tmp_path):
    rows = [*samples.ROWS, {**samples.ROWS[0], "output_toks": 9, "last_token_ts": None}, {**samples.ROWS[0], "arrival_time": None}]
    run = read_measured(samples.llmservingsim(tmp_path / "run", rows=rows))
    assert (run.failed, len(run.failed_requests or ())) == (2, 1)  # of the other one it is not known when it came
    assert run.workload().output_tokens.tolist() == [5, 1, 9] and run.places.tolist() == [0, 1]


def test_failed_requests_without_contents_are_not_replayed_beside_those_that_share(tmp_path):
    run = read_measured(samples.inference_perf(tmp_path))
    assert run.failed == 1 and run.prefix_key is not None and len(run.workload()) == len(run) == 2
    (told,) = read_to_replay([tmp_path / "exp-1"])
    assert told.replay_notes[-1].startswith("1 request failed: none replayed as load")


def test_a_recorded_schedule_is_on_the_clock_of_the_sends(tmp_path):
    """Its own clock starts elsewhere: the least late request was on time."""
    header, *rows = samples.TRACE.splitlines()
    scheduled = [f"{header},arrival_time_us", *(f"{row},{at}" for row, at in zip(rows, (510_000, 7_000, 100_000), strict=True))]
    run = read_measured(samples.request_trace(tmp_path, trace="\n".join(scheduled) + "\n"))
    assert run.due_s is not None and run.failed_requests is not None and run.failed_requests.due_s is not None
    np.testing.assert_allclose(run.due_s, [-0.003, 0.5], atol=1e-6)  # sent 0 and 0.5 s after the first send
    np.testing.assert_allclose(run.failed_requests.due_s, [0.09], atol=1e-6)


def recorded(tmp_path, **kwargs):
    meta = copy.deepcopy(samples.META)
    meta["engine_kwargs"] |= kwargs
    return read_measured(samples.llmservingsim(tmp_path / "run", meta=meta, cluster=None), device="h100")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"quantization": "fp8"}, "quantization='fp8'"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2"),
        ({"data-parallel-size": 2}, "data_parallel_size=2"),
        ({"speculative_config": {"method": "eagle"}}, "speculative_config"),
        ({"dtype": "torch.float32"}, "dtype='torch.float32'"),
        ({"enable_lora": True}, "enable_lora=True"),
        ({"kv_transfer_config": {"kv_connector": "OffloadingConnector"}}, "kv_transfer_config"),
        ({"enable_expert_parallel": True}, "enable_expert_parallel=True"),
    ],
)
def test_a_recorded_setting_that_is_not_simulated_is_named(tmp_path, setting, told):
    assert [str(x) for x in recorded(tmp_path, **setting).unsimulated] == [told]


def test_settings_that_ask_for_nothing_are_not_named(tmp_path):
    nothing = {
        "quantization": None,
        "pipeline_parallel_size": 1,
        "speculative_config": None,
        "dtype": "torch.bfloat16",
        "enable_lora": False,
    }
    assert recorded(tmp_path, **nothing).unsimulated == ()


def test_every_reader_names_what_is_not_simulated(tmp_path):
    cluster = copy.deepcopy(samples.CLUSTER)
    cluster["nodes"][0]["instances"][0]["pd_type"] = "prefill"
    assert [x.name for x in read_measured(samples.llmservingsim(tmp_path / "run", cluster=cluster)).unsimulated] == ["pd_type"]
    server = {**samples.SERVER, "quantization": "awq"}
    assert [x.name for x in read_measured(samples.request_trace(tmp_path / "a", server=server)).unsimulated] == ["quantization"]
    folder = samples.inference_perf(tmp_path)
    (folder / "exp-config.yaml").write_text((folder / "exp-config.yaml").read_text() + "pipeline_parallel_size: 4\n")
    assert [x.name for x in read_measured(folder).unsimulated] == ["pipeline_parallel_size"]


def test_a_data_type_that_the_model_has_is_simulated(tmp_path):
    run = recorded(tmp_path, quantization="fp8")
    cluster = measured_cluster(replace(run, model="llama-3.1-8b"), ValidateConfig(scheduler=SchedulerConfig(gpu_memory_utilization=0.9)))
    instance = cluster.instances[0]
    fp8 = replace(cluster, instances=(replace(instance, model=replace(instance.model, quantization="fp8")),))
    assert [str(x) for x in asked_for(run, cluster)] == ["quantization='fp8'"] and asked_for(run, fp8) == []


def served(run, **options) -> tuple:
    """The instance that serves a recorded run, and what is recorded of it but not simulated."""
    config = ValidateConfig(scheduler=SchedulerConfig(gpu_memory_utilization=0.9), **options)
    cluster = measured_cluster(run, config)
    return cluster.instances[0], [x.name for x in asked_for(run, cluster)]


def test_recorded_ranks_and_stages_are_simulated(tmp_path):
    run = replace(recorded(tmp_path, data_parallel_size=2, pipeline_parallel_size="2"), model="llama-3.1-8b")
    instance, left = served(run)
    assert instance.parallelism == Parallelism(run.tensor_parallel_size, 2, 2) and left == []
    assert not instance.limits.enable_prefix_caching, "stages have none, and nobody knows of anything to find there"
    alone, left = served(run, cluster=MeasuredClusterConfig(data_parallel_size=1, pipeline_parallel_size=1))
    assert alone.parallelism.num_devices == run.tensor_parallel_size and left == ["data_parallel_size", "pipeline_parallel_size"]
    with pytest.raises(SimjaxError, match=r"data_parallel_size='all' is not a whole number; cluster\.data_parallel_size=N states it$"):
        served(replace(run, unsimulated=(Setting("data_parallel_size", "all"),)))


def test_recorded_experts_are_simulated(tmp_path):
    run = replace(recorded(tmp_path, data_parallel_size=2, enable_expert_parallel=True), model="qwen3-30b-a3b", tensor_parallel_size=1)
    instance, left = served(run, cluster=MeasuredClusterConfig(expert_popularity="zipf", expert_zipf_exponent=0.5))
    assert instance.parallelism == Parallelism(1, data=2, expert=2, experts=Experts(popularity=Popularity("zipf", 0.5))) and left == []
    dense, left = served(replace(run, model="llama-3.1-8b"))
    assert dense.parallelism.expert == 1 and left == [], "vLLM takes no notice of it"


@pytest.mark.parametrize(
    ("recorded_config", "method"),
    [
        ({"method": "eagle3", "num_speculative_tokens": 2}, "eagle"),
        ('{"method": "ngram", "num_speculative_tokens": 2}', "ngram"),
        ({"model": "llama-3.1-8b", "num_speculative_tokens": 2}, "draft_model"),
    ],
)
def test_recorded_drafts_are_simulated_where_their_acceptance_is_known(tmp_path, recorded_config, method):
    run = replace(recorded(tmp_path, speculative_config=recorded_config), model="llama-3.1-8b")
    unknown, left = served(run)
    assert unknown.speculation is None and left == ["speculative_config"]
    assert remedy(Setting("speculative_config", recorded_config)) == "; speculation.synthetic_acceptance_rates=[...] simulates it"
    drafting, left = served(run, speculation=MeasuredSpeculationConfig([0.7, 0.4]))
    assert drafting.speculation is not None and left == []
    assert (drafting.speculation.method, drafting.speculation.rates) == (method, (0.7, 0.4))


def test_acceptance_of_mtp_and_recorded_rates_need_no_option(tmp_path):
    mtp = replace(recorded(tmp_path, speculative_config={"method": "deepseek_mtp", "num_speculative_tokens": 1}), model="llama-3.1-8b")
    stated = {"method": "eagle", "num_speculative_tokens": 1, "synthetic_acceptance_rates": [0.6]}
    assert served(mtp)[0].speculation.rates == MTP_RATES
    assert served(replace(mtp, unsimulated=(Setting("speculative_config", stated),)))[0].speculation.rates == (0.6,)
    strange = {"method": "medusa", "num_speculative_tokens": 1}
    assert served(replace(mtp, unsimulated=(Setting("speculative_config", strange),)))[1] == ["speculative_config"]
