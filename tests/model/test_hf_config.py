"""What is read from a Hugging Face configuration beyond its sizes: windows, data types, quantization, wrappers and unknown keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.warnings import about_models
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.model import from_hf_config, load_model, model_names, weight_bytes, without_windows
from simjax.model.ops import step_ops
from simjax.parallel.parallelism import Parallelism
from tests.data import data_path
from tests.model.test_model import BASE

H100 = load_device("h100")
LLAMA_70B = load_model("llama-3.1-70b")
QWEN3_MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}


def case(name: str) -> Path:
    return data_path(f"cases/{name}")


def instance(name: str | Path, **limits: object) -> InstanceSpec:
    return InstanceSpec(load_model(name), H100, limits=InstanceLimits(**limits))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("model", ["sliding_window_dropped/window.json", "mistralai/Mistral-7B-v0.1", "phi-mini-moe"])
def test_a_window_in_use_is_told_unless_no_request_exceeds_it(model: str) -> None:
    found = case(model) if model.endswith(".json") else model
    window = load_model(found).sliding_window
    assert window in (2047, 4096)
    for limits in ({}, {"max_model_len": window + 1}):
        one = instance(found, **limits)
        assert one.model is load_model(found)
        assert any(f"the window of {window} tokens shortens attention, but no block behind it is freed" in x for x in about_models([one]))
    short = instance(found, max_model_len=window)
    assert short.longest_request_tokens == window and not short.model.mixers and about_models([short]) == []


@pytest.mark.parametrize(
    ("change", "window"),
    [
        ({"sliding_window": 64}, 64),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 1}, 64),  # the second of two layers has it
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, 64),
        ({"sliding_window": 64, "use_sliding_window": False}, None),
        ({"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, None),
        ({"sliding_window": 64, "layer_types": ["full_attention", "full_attention"]}, None),
        ({"sliding_window": 128}, None),  # as long as the context
        ({"sliding_window": None}, None),
    ],
)
def test_which_windows_are_in_use(change: dict, window: int | None) -> None:
    assert from_hf_config(BASE | change).sliding_window == window


def test_names_of_unlike_checkpoints_are_models_of_their_own() -> None:
    config = json.loads((case("shipped_names_of_unlike_checkpoints") / "config.json").read_text())
    for name, context in (
        ("Qwen/Qwen3-30B-A3B", 40_960),
        ("Qwen/Qwen3-235B-A22B", 40_960),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 262_144),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", 262_144),
    ):
        assert load_model(name).max_position_embeddings == context
    named = load_model("Qwen/Qwen3-30B-A3B")
    assert from_hf_config(config, name=named.name) == named
    first, second = load_model("mistralai/Mistral-7B-v0.1"), load_model("mistralai/Mistral-7B-Instruct-v0.2")
    assert (first.sliding_window, second.sliding_window) == (4096, None)
    assert replace(without_windows(first), name=second.name, sliding_window=None) == second
    assert all(load_model(name).name for name in model_names())


@pytest.mark.parametrize("stated", ["float32", "torch.float32", "auto"])
def test_a_checkpoint_in_float32_is_served_in_bfloat16(stated: str) -> None:
    model = from_hf_config(BASE | {"torch_dtype": stated})
    assert model == from_hf_config(BASE | {"torch_dtype": "bfloat16"})
    assert bool(model.notes) == (stated != "auto")


def test_the_case_of_a_float32_checkpoint() -> None:
    path = case("float32_checkpoint") / "f32.json"
    one = instance(path)
    assert weight_bytes(one.model) == 2_471_628_800
    half = from_hf_config(json.loads(path.read_text()) | {"torch_dtype": "bfloat16"}, name=one.model.name)
    assert one.num_gpu_blocks == InstanceSpec(half, H100).num_gpu_blocks
    (line,) = about_models([one])
    assert line.endswith("torch_dtype float32 is served as bfloat16, as by vLLM's --dtype auto; scheduler.dtype=float32 keeps it")
    whole = instance(path, dtype="float32")
    assert weight_bytes(whole.model) == 2 * 2_471_628_800 and about_models([whole]) == []
    assert whole.model is instance(path, dtype="float32").model  # clusters recognise models by object
    assert instance("llama-3.1-8b", dtype="half").model.dtype == "float16"


def test_a_quantization_beside_config_json_is_that_of_the_model() -> None:
    """ModelOpt's FP8: the numbers of the case by hand."""
    model = load_model(case("modelopt_fp8_beside_config"))
    assert (model.quantization, model.kv_cache_dtype) == ("fp8", "fp8")
    assert replace(model, quantization=None, kv_cache_dtype=None, name=LLAMA_70B.name) == LLAMA_70B
    assert weight_bytes(model) == 68_451_041_280 + 2 * 2_102_665_216
    one = InstanceSpec(model, H100, Parallelism(2))
    wide = replace(one, limits=InstanceLimits(kv_cache_dtype="bfloat16"))
    assert one.num_gpu_blocks == 29_175 and abs(wide.num_gpu_blocks - 14_588) <= 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "MIXED_PRECISION"}}, "modelopt MIXED_PRECISION"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "W4A8_AWQ"}}, "modelopt W4A8_AWQ"),
        ("hf_quant_config.json", {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}}, "kv_cache_quant_algo=NVFP4"),
        ("quantize_config.json", {"bits": 3, "group_size": 128}, "not supported yet for gptq"),
        ("quant_config.json", {"zero_point": True}, "this quantization is not supported yet"),
        ("hf_quant_config.json", [1], "this quantization is not supported yet"),
    ],
)
def test_other_files_of_a_quantization_are_refused(tmp_path: Path, name: str, content: object, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    assert load_model(tmp_path).quantization is None
    (tmp_path / name).write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(SimjaxError, match=said) as error:
            load_model(path)
        assert name in str(error.value) and "use the unquantised model's config" in str(error.value)


def test_fp8_in_blocks_is_a_byte_a_weight_of_the_layers() -> None:
    model = load_model(case("current_models_refused") / "fp8.json")
    assert (model.quantization, model.kv_cache_dtype) == ("fp8_block", None)
    plain = replace(model, quantization=None)
    assert plain == replace(load_model("qwen3-8b"), name=model.name)
    saved = weight_bytes(plain) - weight_bytes(model)
    assert saved == sum(op.count * op.k * op.n for op in step_ops(plain) if op.is_gemm and op.name != "lm_head")


@pytest.mark.parametrize(
    "asked",
    [
        {"quant_method": "awq", "bits": 3},
        {"quant_method": "gptq", "bits": 4, "lm_head": True},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "fp8", "fmt": "e5m2"},
        {"quant_method": "hqq"},
    ],
)
def test_other_quantizations_are_refused(asked: dict) -> None:
    with pytest.raises(SimjaxError, match=r"x\.json: quantization_config .*not supported yet.*; use the unquantised model's config"):
        from_hf_config(BASE | {"quantization_config": asked}, where="x.json")
    kept = ["lm_head", "model.layers.0.input_layernorm", "model.layers.0.mlp.gate", "visual.blocks.0.mlp"]
    assert from_hf_config(BASE | {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": kept}}).quantization == "fp8"


def test_the_text_stack_of_a_multimodal_model_is_read() -> None:
    path = case("current_models_refused") / "vl.json"
    model = load_model(path)
    assert replace(model, name="", max_position_embeddings=40_960) == replace(load_model("qwen3-8b"), name="")
    assert about_models([instance(path)]) == [
        "vl: only the text stack of 'qwen3_vl' is simulated, without the tokens, weights and time of other media"
    ]


@pytest.mark.parametrize(
    ("outer", "inner", "kind"),
    [
        ("mistral3", "mistral", "mistral"),
        ("llava_next", "llama", "llama"),
        ("qwen2_5_vl", "qwen2_5_vl_text", "qwen2"),
        ("qwen3_vl_moe", "qwen3_vl_moe_text", "qwen3_moe"),
    ],
)
def test_wrappers_whose_text_stack_is_known(outer: str, inner: str, kind: str) -> None:
    experts = QWEN3_MOE if kind == "qwen3_moe" else {}
    wrapped = {"model_type": outer, "vision_config": {}, "torch_dtype": "float16", "text_config": BASE | experts | {"model_type": inner}}
    found = from_hf_config(wrapped, name="x")
    assert found == from_hf_config(BASE | experts | {"model_type": kind, "torch_dtype": "float16"}, name="x")
    with pytest.raises(SimjaxError, match="quantization_config is not supported yet for hqq"):
        from_hf_config(wrapped | {"quantization_config": {"quant_method": "hqq"}})
    assert from_hf_config(wrapped | {"quantization_config": {"quant_method": "fp8"}}).quantization == "fp8"


def test_other_architectures_are_refused_without_advice_to_rename_them() -> None:
    for config in ({"model_type": "rwkv7"}, {"model_type": "x_vl", "text_config": {"model_type": "rwkv7"}}):
        with pytest.raises(SimjaxError, match=r"'rwkv7'.* is not supported; known: llama, mistral") as error:
            from_hf_config(BASE | config)
        assert "did you mean" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mlp_bias": True}, "mlp_bias=True changes the arithmetic"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu changes the arithmetic"),
        ({"kv_lora_rank": 512}, "kv_lora_rank=512 changes the arithmetic"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers=1 changes the arithmetic"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types: linear_attention is not simulated"),
    ],
)
def test_keys_that_change_the_arithmetic_are_refused(change: dict, said: str) -> None:
    with pytest.raises(SimjaxError, match=rf"x\.json: {said}"):
        from_hf_config(BASE | change, where="x.json")


def test_keys_that_are_not_known_are_named() -> None:
    assert from_hf_config(BASE | {"rope_theta": 1e4, "mlp_bias": False, "_x": 1, "brand_new": None}).notes == ()
    (note,) = from_hf_config(BASE | {"brand_new": 3, "other": [1]}).notes
    assert note == "keys of its configuration that are not known here are ignored: brand_new, other"
