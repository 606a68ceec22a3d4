"""Measured mean points: what is read of a table, and points as a target of a fit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simjax.calibrate.targets.points import MeanPoint, read_points
from simjax.calibrate.targets.points_target import Means, PointOptions, PointsTarget, point_lengths
from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.spec import ClusterSpec
from simjax.cluster.timing import ClusterTiming
from simjax.disk.paths import PROFILES
from simjax.engine.host.lower import lower
from simjax.engine.simulate import simulate
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.latency.parameters import with_parameters
from simjax.latency.profiles.compile import compile_profile
from simjax.latency.profiles.file import load_profile
from simjax.model import load_model
from simjax.parallel.parallelism import Parallelism
from simjax.workload.synthetic.closed_loop import closed_loop
from tests.data import data_path
from tests.quickly import jit, quickly

H100 = load_device("h100")
LLAMA, QWEN = load_model("llama-3.1-8b"), load_model("qwen3-32b")
PROFILE = load_profile(PROFILES / "latency" / "h100" / "generic.yaml")
HEADER = "id,concurrency,backend,model_path,system,precision,mode,isl,osl,true_tp,true_ep,true_dp,ttft_ms,tpot_ms,source_kind,ignored"
GAP = "nvidia_dynamo_gap_analysis"
ROWS = (
    f"plain,8,trtllm,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,agg,1024,128,1.0,1.0,1.0,190.9,7.9,{GAP},x",
    "uniform,4,vllm,Qwen/Qwen3-32B,h200_sxm,fp8,agg,1024,512,2.0,0.0,,110,12.2,inferencex_csv_export,",
    f"quantized,16,trtllm,Qwen/Qwen3-32B-FP8,h100_sxm,fp8,agg,2048,512,1,1,1,500,20.9,{GAP},",
    "split,4,vllm,Qwen/Qwen3-32B,h100_sxm,fp8,disagg,1024,512,,,,110,12.2,,",
    "experts,4,vllm,Qwen/Qwen3-235B-A22B,h200_sxm,fp8,agg,1024,512,2,8,1,110,12.2,,",
    "stranger,4,vllm,openai/gpt-oss-240b,h100_sxm,bf16,agg,1024,512,2,1,1,110,12.2,,",
    "narrow,4,vllm,Qwen/Qwen3-32B,b200_sxm,fp6,agg,1024,512,2,1,1,110,12.2,,",
    "old,4,vllm,Qwen/Qwen3-32B,a100_sxm,fp8,agg,1024,512,2,1,1,110,12.2,,",
    "silent,4,vllm,Qwen/Qwen3-32B,h100_sxm,bf16,agg,1024,512,2,1,1,,12.2,,",
    "other,4,vllm,openai/gpt-oss-120b,h100_sxm,bf16,agg,1024,512,2,1,1,110,12.2,,",
    "large,4,vllm,deepseek-ai/DeepSeek-V3,h100_sxm,fp8,agg,1024,512,8,1,1,110,12.2,,",
)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "points.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return path


def test_rows_that_can_be_simulated(table):
    plain, uniform, quantized = read_points(table).points
    assert (plain.id, plain.model, plain.device, plain.tensor_parallel_size) == ("plain", LLAMA, H100, 1)
    assert (plain.concurrency, plain.prompt_tokens, plain.output_tokens, plain.uniform_from) == (8, 1024, 128, 1.0)
    assert (plain.ttft_s, plain.tpot_s) == pytest.approx((0.1909, 0.0079))
    assert (plain.kv_cache_dtype, plain.group) == ("auto", "h100 trtllm Llama-3.1-8B bf16 tp1")
    # InferenceX draws lengths; a 0 where a table has no expert parallelism is no parallelism
    assert (uniform.uniform_from, uniform.model, uniform.kv_cache_dtype) == (0.8, replace(QWEN, quantization="fp8_block"), "auto")
    assert (uniform.max_num_batched_tokens, uniform.max_num_seqs) == (8192, 256)
    # one prompt a step, and TensorRT-LLM's fp8 keys and values
    assert (quantized.model, quantized.kv_cache_dtype) == (replace(QWEN, quantization="fp8_block"), "fp8")
    assert (quantized.max_num_batched_tokens, quantized.max_num_seqs) == (2048 + 16, 16)
    assert (plain.max_num_batched_tokens, plain.max_num_seqs) == (1024 + 8, 7)


@pytest.mark.parametrize(
    ("model", "precision", "device", "quantization", "bare", "cache"),
    [
        ("meta-llama/Llama-3.1-70B", "fp4", "b200", "nvfp4", (), "auto"),
        ("deepseek-ai/DeepSeek-V3", "fp4", "b300", "nvfp4", ("fused_qkv_a_proj", "q_b_proj", "kv_b_proj", "o_proj"), "auto"),
        ("moonshotai/Kimi-K2.5", "fp4", "gb300", "nvfp4", ("fused_qkv_a_proj", "q_b_proj", "kv_b_proj", "o_proj"), "auto"),
        ("moonshotai/Kimi-K2.5", "int4", "h200", "int4_g32s", load_model("kimi-k2.5").unquantized, "auto"),
        ("openai/gpt-oss-120b", "fp4", "h100", "mxfp4", load_model("gpt-oss-120b").unquantized, "auto"),
        ("openai/gpt-oss-120b", "fp4", "b200", "mxfp4_mxfp8", load_model("gpt-oss-120b").unquantized, "fp8"),
        ("nvidia/Qwen3-32B-NVFP4", "fp4", "gb200", "nvfp4", (), "auto"),
    ],
)
def test_checkpoints_that_rows_name(tmp_path, model, precision, device, quantization, bare, cache):
    path = tmp_path / "points.csv"
    path.write_text(f"{HEADER}\none,4,vllm,{model},{device},{precision},agg,1024,512,8,1,1,110,12.2,,\n")
    (point,) = read_points(path).points
    assert (point.model.quantization, set(point.model.unquantized), point.kv_cache_dtype) == (quantization, set(bare), cache)


def test_a_scheduler_that_looks_for_requests_now_and_then(tmp_path):
    """SGLang on Blackwell, as InferenceX starts it: a request waits half the interval in the mean."""
    path = tmp_path / "points.csv"
    where = (("sglang", "b200", 16, "inferencex_csv"), ("sglang", "b300", 8, "inferencex_csv"), ("sglang", "h200", 16, "inferencex_csv"))
    where += (("vllm", "b200", 16, "inferencex_csv"), ("sglang", "b200", 16, "nvidia"))
    rows = (f"{n},{c},{b},Qwen/Qwen3-32B,{d},fp8,agg,1024,512,2,1,1,110,12.2,{kind}," for n, (b, d, c, kind) in enumerate(where))
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    points = read_points(path).points
    assert [x.receive_interval for x in points] == [30, 10, 0, 0, 0]
    assert [round(x.seen_s(0.1, 0.01), 9) for x in points] == [0.25, 0.15, 0.1, 0.1, 0.1]


def test_precisions_that_a_checkpoint_or_a_device_does_not_have(tmp_path):
    path = tmp_path / "points.csv"
    rows = (("Qwen/Qwen3-32B", "fp4", "h100"), ("Qwen/Qwen3-32B", "int4", "h100"), ("moonshotai/Kimi-K2.5", "fp8", "b200"))
    text = (f"{n},4,vllm,{model},{device},{precision},agg,1024,512,8,1,1,110,12.2,,\n" for n, (model, precision, device) in enumerate(rows))
    path.write_text(f"{HEADER}\n{''.join(text)}")
    assert [x.reason for x in read_points(path).left_out] == [
        "device h100 has no fp4 matrix products",
        "precision int4: Qwen/Qwen3-32B is a checkpoint in bfloat16",
        "precision fp8: moonshotai/Kimi-K2.5 is a checkpoint in int4_g32s",
    ]


def test_versions_of_the_backends_are_told_for_the_fit_ignores_them(table):
    assert read_points(table).versions == ()
    table.write_text(table.read_text().replace("source_kind,ignored", "source_kind,backend_version"))
    assert read_points(table).versions == ("x",)


def test_other_rows_say_why_they_are_left_out(table):
    reasons = {row.id: (row.line, row.reason) for row in read_points(table).left_out}
    assert reasons.pop("stranger")[1].startswith("unknown model 'openai/gpt-oss-240b'")
    assert "DeepSeek-V3 does not fit h100 with tensor_parallel_size=8" in reasons.pop("large")[1]
    assert reasons == {
        "split": (5, "mode disagg: only aggregated serving is simulated"),
        "experts": (6, "expert parallelism 8 of 2 ranks: only experts shared by all ranks, or by none, are simulated"),
        "narrow": (8, "precision fp6 is not simulated"),
        "old": (9, "device a100 has no fp8 matrix products"),
        "silent": (10, "ttft_ms or tpot_ms is empty"),
        "other": (11, "precision bf16: openai/gpt-oss-120b is a checkpoint in mxfp4"),
    }


@pytest.mark.parametrize(
    ("kept", "ids"),
    [
        ({"system": "H200"}, ["uniform"]),
        ({"models": ["llama-3.1-8b"]}, ["plain"]),
        ({"models": ["qwen3-32b"], "backends": ["trtllm"]}, ["quantized"]),
        ({"precision": "bf16"}, ["plain"]),
        ({"precision": "fp8", "system": "h100"}, ["quantized"]),
    ],
)
def test_rows_are_chosen_by_any_of_their_names(table, kept, ids):
    assert [point.id for point in read_points(table, **kept).points] == ids


@pytest.mark.parametrize(
    ("change", "kept", "message"),
    [
        (("190.9", "fast"), {}, r"points\.csv:2: ttft_ms must be a number, found 'fast'"),
        (("190.9", "-3"), {}, r"points\.csv:2: ttft_ms must be positive, found '-3'"),
        (("plain,8,", "plain,8.5,"), {}, r"points\.csv:2: concurrency must be a positive whole number, found '8\.5'"),
        (("true_tp", "tp"), {}, r"points\.csv:1: column 'true_tp' is missing"),
        (("", ""), {"models": ["llama-3.1-80b"]}, r"no row of model_path 'llama-3\.1-80b' is left"),
        (("", ""), {"backends": ["tgi"]}, r"no row of backend 'tgi' is left; known: trtllm, vllm"),
    ],
)
def test_mistakes_are_told_in_one_line(table, change, kept, message):
    table.write_text(table.read_text().replace(*change, 1))
    with pytest.raises(SimjaxError, match=message) as error:
        read_points(table, **kept)
    assert "\n" not in str(error.value)


def test_no_table_and_an_empty_one(tmp_path):
    with pytest.raises(SimjaxError, match=r"none\.csv: no such table"):
        read_points(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text(HEADER + "\n")
    with pytest.raises(SimjaxError, match=r"empty\.csv: no rows"):
        read_points(tmp_path / "empty.csv")


def test_throughput_is_littles_law():
    point = replace(POINTS[0], concurrency=8, output_tokens=128, ttft_s=0.19095451, tpot_s=0.007943577)
    assert point.output_tokens_per_s == pytest.approx(853.48352, rel=1e-6)


def point(model, concurrency, prompt, output, ttft_s=0.1, tpot_s=0.01, tp=1, **kwargs) -> MeanPoint:
    limits = {"max_num_batched_tokens": 512, "max_num_seqs": 8} | kwargs
    return MeanPoint(f"c{concurrency}", model, H100, tp, concurrency, prompt, output, ttft_s, tpot_s, **limits)


POINTS = (
    point(LLAMA, 4, 300, 40),
    point(LLAMA, 8, 200, 30, uniform_from=0.5),
    point(replace(QWEN, quantization="fp8"), 6, 250, 20, tp=2, kv_cache_dtype="fp8", max_num_batched_tokens=256, max_num_seqs=5),
)
NAMES = ("gemm_bandwidth", "gemm_compute", "prefill_attention", "step_s", "api_pre_s")
CENTER = np.array([1.0, 1.0, 1.0, 1e-4, 4e-3])


def changed(u):
    return with_parameters(PROFILE, {name: CENTER[i] * jnp.exp(u[i]) for i, name in enumerate(NAMES)})


@pytest.fixture(scope="module")
def target():
    return PointsTarget.of(POINTS, PROFILE)


@pytest.fixture(scope="module")
def means(target):
    """Logarithms of simulated TTFT and TPOT as a function of the logarithms of `NAMES`, f64[2 B], and their Jacobian."""

    def of(u):
        found = target.means(changed(u))
        return jnp.log(jnp.concatenate([found.ttft_s, found.tpot_s]))

    both = jax.jit(lambda u: jax.vmap(lambda v: jax.jvp(of, (u,), (v,)), out_axes=(None, 1))(jnp.eye(len(u))), compiler_options=quickly())
    return lambda u: [np.asarray(x) for x in both(u)]


def one_by_one(point, rounds):
    """Mean TTFT and TPOT of a point's own simulation: the first two rounds, the rounds that are alike and the last, as of ten."""
    limits = InstanceLimits(max_num_seqs=point.max_num_seqs, max_num_batched_tokens=point.max_num_batched_tokens)
    limits = replace(limits, kv_cache_dtype=point.kv_cache_dtype)
    profile = changed(np.zeros(len(NAMES)))
    instance = InstanceSpec(point.model, H100, Parallelism(point.tensor_parallel_size), limits)
    step_time = compile_profile(profile, instance.deployment, max_tokens=512, max_sequences=8)
    host = (np.array([float(x)]) for x in (profile.host.api_pre_s, profile.host.api_post_s))
    timings = ClusterTiming(jax.tree.map(np.asarray, step_time), np.zeros(1, np.int32), *host, ())
    workload = closed_loop(*point_lengths(point, rounds), point.concurrency)
    design = lower(ClusterSpec((instance,)), timings, workload)
    done = simulate(design.shape, design.params).requests
    ttft_s = done.first_token_s - done.arrival_s
    tpot_s = (done.finish_s - done.first_token_s) / (done.output_tokens - 1)
    by_round = np.stack([ttft_s, tpot_s]).reshape(2, rounds, point.concurrency).mean(axis=2)
    return (by_round[:, 0] + by_round[:, 1] + 7 * by_round[:, 2:-1].mean(axis=1) + by_round[:, -1]) / 10


def test_points_side_by_side_are_as_they_are_alone(means):
    with jax.enable_x64(True):
        together = np.exp(means(jnp.zeros(len(NAMES)))[0]).reshape(2, -1)
        alone = np.stack([one_by_one(point, 4) for point in POINTS], axis=1)
    np.testing.assert_allclose(together, alone, rtol=1e-9)


def test_forward_derivatives_are_those_of_finite_differences(means):
    with jax.enable_x64(True):
        u, h = jnp.zeros(len(NAMES)), 1e-4
        exact = means(u)[1]
        steps = [(means(u.at[i].set(h))[0] - means(u.at[i].set(-h))[0]) / (2 * h) for i in range(len(NAMES))]
    np.testing.assert_allclose(exact, np.stack(steps, axis=1), rtol=1e-4, atol=1e-6)
    assert (exact[:, 0] < 0).all() and (exact[len(POINTS) :, 0] < -0.3).all()  # faster memory, faster decodes
    assert (exact[: len(POINTS), 4] > 0).all() and np.allclose(exact[len(POINTS) :, 4], 0.0, atol=2e-3)  # the API is in TTFT alone


@pytest.mark.slow
def test_reverse_mode_gives_the_same_gradient(means):
    with jax.enable_x64(True):
        one = PointsTarget.of(POINTS[:1], PROFILE)
        total = lambda u: sum(jnp.log(x[0]) for x in one.means(changed(u), reverse=True)[:2])
        u = jnp.zeros(len(NAMES))
        backward, forward = jax.jit(jax.grad(total), compiler_options=quickly())(u), means(u)[1]
    np.testing.assert_allclose(np.asarray(backward), forward[0] + forward[len(POINTS)], rtol=1e-9)


def test_residuals_are_logarithms_over_their_sd(target, monkeypatch):
    ttft_s, tpot_s = (np.array([getattr(p, name) for p in POINTS]) for name in ("ttft_s", "tpot_s"))
    there = Means(jnp.asarray(1.02 * ttft_s), jnp.asarray(tpot_s / 1.5), jnp.array([True, True, False]))
    monkeypatch.setattr(PointsTarget, "means", lambda *_: there)
    found = np.asarray(target.residuals(PROFILE)).reshape(2, -1)
    pseudo_huber = lambda r: r * np.sqrt(2 / (1 + np.sqrt(1 + (r / 3) ** 2)))
    np.testing.assert_allclose(found[0, :2], pseudo_huber(np.log(1.02) / 0.2), rtol=1e-5)
    np.testing.assert_allclose(found[1, :2], pseudo_huber(-np.log(1.5) / 0.05), rtol=1e-5)
    np.testing.assert_allclose(found[:, 2], [pseudo_huber(5 / 0.2), pseudo_huber(5 / 0.05)], rtol=1e-5)  # requests were left over


def test_the_points_of_a_group_share_its_weight(target):
    same = replace(target, points=tuple(replace(p, group="one") for p in POINTS), options=PointOptions(group_weight=1.5))
    np.testing.assert_allclose(same.weights, 0.5)
    assert same.observations == pytest.approx(3.0)
    np.testing.assert_allclose(target.weights, 1.0)


def test_every_round_holds_the_whole_distribution():
    prompts, outputs = point_lengths(point(LLAMA, 50, 1000, 500, uniform_from=0.8), rounds=4)
    for lengths, longest in ((prompts, 1000), (outputs, 500)):
        assert lengths.min() >= 0.8 * longest and lengths.max() <= longest
        np.testing.assert_allclose(lengths.reshape(4, 50).mean(axis=1), 0.9 * longest, rtol=0.002)
    assert np.corrcoef(prompts, outputs)[0, 1] < 0.5
    prompts, outputs = point_lengths(point(LLAMA, 5, 1000, 500), rounds=4)
    assert set(prompts) == {1000} and set(outputs) == {500}


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ((), {}, "no mean points are left"),
        (POINTS, {"rounds": 3}, "rounds=3: mean points need at least 4"),
        ((point(load_model("llama-3.1-70b"), 4, 100, 20),), {}, "mean point c4: .* does not fit h100"),
    ],
)
def test_what_cannot_be_a_target(points, options, message):
    with pytest.raises(SimjaxError, match=message):
        PointsTarget.of(points, PROFILE, PointOptions(**options))


def test_priors_alone_price_measured_llama_on_one_h100():
    """Mean TPOT of the 36 H100 rows of up to 64 requests in flight within 3 % in the mean, mean TTFT within 15 %; nothing is fitted."""
    table = data_path("silicon/deployments.csv")
    points = read_points(table, "h100", ["llama-3.1-8b"], ["trtllm"]).points
    points = [p for p in points if p.tensor_parallel_size == 1 and p.concurrency <= 64]
    assert len(points) == 36
    with jax.enable_x64(True):
        target = PointsTarget.of(points, PROFILE)
        found = jit(lambda: target.means(PROFILE))()
    error = {name: np.abs(np.asarray(getattr(found, name)) / [getattr(p, name) for p in points] - 1) for name in ("ttft_s", "tpot_s")}
    assert error["tpot_s"].mean() < 0.03 and error["ttft_s"].mean() < 0.15
