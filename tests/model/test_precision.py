"""Formats of quantised checkpoints: what a file asks for, bytes by hand, what is left out, and what devices cannot compute."""

from dataclasses import replace
from fractions import Fraction

import pytest

from simjax.cluster.instance import InstanceLimits, InstanceSpec
from simjax.cluster.warnings import about_models
from simjax.errors import SimjaxError
from simjax.hardware import load_device
from simjax.model import from_hf_config, load_model, weight_bytes
from simjax.model.ops import step_ops
from simjax.model.precision import EXPERTS, FORMATS, MLP, WHAT_IF, format_named
from tests.model.test_model import BASE

LLAMA = load_model("llama-3.1-8b")
MATRICES = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14_336)
INT = {"num_bits": 4, "type": "int", "group_size": 32, "symmetric": True}
FLOAT = {"num_bits": 4, "type": "float", "group_size": 16}


def compressed(weights: dict, inputs: dict | None = None, **others: object) -> dict:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, **others}


@pytest.mark.parametrize(
    ("asked", "name", "each", "computed"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", 1, "fp8"),
        ({"quant_method": "fp8", "fmt": "float8_e4m3fn"}, "fp8", 1, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4_g128", Fraction(1, 2) + Fraction(5, 256), None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, "int4_g32s", Fraction(9, 16), None),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "int8_wo", 1, None),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4_g0s", Fraction(1, 2), None),
        ({"quant_method": "mxfp4"}, "mxfp4", Fraction(17, 32), None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", Fraction(9, 16), "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4"}, "nvfp4_wo", Fraction(9, 16), None),
        ({"quant_algo": "FP8", "kv_cache_scheme": "FP8"}, "fp8", 1, "fp8"),
        (compressed(INT), "int4_g32s", Fraction(9, 16), None),
        (compressed({"num_bits": 8, "type": "int"}, {"num_bits": 8}), "int8", 1, "int8"),
        (compressed({"num_bits": 8, "type": "float"}, {"num_bits": 8}), "fp8", 1, "fp8"),
        (compressed({"num_bits": 8, "type": "float"}), "fp8_wo", 1, None),
        (compressed(FLOAT, {"num_bits": 4}), "nvfp4", Fraction(9, 16), "fp4"),
        (compressed(FLOAT | {"group_size": 32}, format="mxfp4-pack-quantized"), "mxfp4", Fraction(17, 32), None),
    ],
)
def test_what_a_file_asks_for(asked, name, each, computed):
    model = from_hf_config(BASE | {"quantization_config": asked})
    assert (model.quantization, model.computed_in, format_named(name).bytes) == (name, computed, each)
    assert model.unquantized == () and model.notes == ()


@pytest.mark.parametrize(
    "asked",
    [
        compressed(INT, {"num_bits": 8}),
        {**compressed(INT), "config_groups": {"a": {"weights": INT}, "b": {"weights": {"num_bits": 8, "type": "int"}}}},
        {**compressed(INT), "config_groups": {"a": {"weights": INT, "targets": ["re:.*mlp.*"]}}},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4"},
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 4, "type": "float"}},
    ],
)
def test_other_formats_are_refused(asked):
    with pytest.raises(SimjaxError, match=r"not supported yet.*; use the unquantised model's config"):
        from_hf_config(BASE | {"quantization_config": asked})


def test_bytes_of_every_format():
    for name in WHAT_IF:
        small = replace(LLAMA, quantization=name)
        saved = weight_bytes(LLAMA) - weight_bytes(small)
        assert saved == 2 * MATRICES - FORMATS[name].bytes * MATRICES
        ops = [(a, b) for a, b in zip(step_ops(LLAMA), step_ops(small), strict=True) if a != b]
        assert {a.name for a, _ in ops} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
        assert sum(a.count * (a.weight_bytes - b.weight_bytes) for a, b in ops) == saved
        assert {b.dtype for _, b in ops} == {FORMATS[name].compute}
        # the inputs of a product are in the type in which it is computed
        wide = FORMATS[name].compute is None
        assert all((a.row_bytes == b.row_bytes) == wide for a, b in ops)


EXCEPTIONS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_shared_experts": 1}


@pytest.mark.parametrize(
    ("left_out", "names"),
    [
        (["lm_head", "model.layers.0.mlp.gate", "gate", "model.layers.0.input_layernorm", "visual"], ()),
        (["model.layers.*.self_attn"], ("qkv_proj", "o_proj")),
        (["re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"], ("qkv_proj", "o_proj", MLP)),
        (["model.layers.0.self_attn*", "model.layers.1.self_attn*", "model.layers.2.self_attn*"], ("qkv_proj", "o_proj")),
        (["language_model.model.layers.*.mlp.shared_experts*"], ("shared_experts",)),
        (["*.mlp.shared_expert.*"], ("shared_experts",)),
        (["self_attn.o_proj", "model.layers.0.mlp.down_proj"], ("o_proj", MLP)),
        (["model.layers.1.mlp.experts", "model.layers.2.mlp.experts"], (EXPERTS,)),
    ],
)
def test_what_is_left_out(left_out, names):
    quantization = {"quant_method": "fp8", "modules_to_not_convert": left_out}
    config = BASE | EXCEPTIONS | {"model_type": "qwen3_moe", "num_hidden_layers": 3}
    model = from_hf_config(config | {"quantization_config": quantization})
    assert (model.unquantized, model.notes) == (names, ())
    kept = {"mlp": ("gate_up_proj", "down_proj"), "shared_experts": ("gate_up_proj", "down_proj"), EXPERTS: ("moe",)}
    plain = [op for op in step_ops(model) if op.is_gemm and op.dtype is None and op.name != "lm_head"]
    assert {op.name for op in plain} == {op for name in names for op in kept.get(name, (name,))}
    whole = replace(model, unquantized=())
    lost = sum(op.count * (op.k * op.n if not op.experts else op.experts * 3 * 64 * 16) for op in plain)
    assert weight_bytes(model) - weight_bytes(whole) == lost


def test_what_is_left_out_in_some_layers_is_named():
    config = BASE | {"num_hidden_layers": 3}
    few = from_hf_config(config | {"quantization_config": {"quant_method": "fp8", "ignore": ["model.layers.0*"]}})
    assert few.unquantized == ()
    assert "its quantization leaves out qkv_proj in 1 of 3 layers; taken as in the others" in few.notes
    most = from_hf_config(config | {"quantization_config": {"quant_method": "fp8", "ignore": ["re:.*layers.[01].mlp.*"]}})
    assert most.unquantized == (MLP,) and most.notes == ("its quantization has mlp in 1 of 3 layers; taken as in the others",)
    with pytest.raises(SimjaxError, match="no regular expression"):
        from_hf_config(config | {"quantization_config": {"quant_method": "fp8", "ignore": ["re:("]}})


def test_what_if_a_checkpoint_were_quantised():
    h100, b200 = load_device("h100"), load_device("b200")
    for name in WHAT_IF:
        one = InstanceSpec(LLAMA, b200, limits=InstanceLimits(quantization=name))
        assert one.model == replace(LLAMA, quantization=name) and one.model is InstanceSpec(LLAMA, b200, limits=one.limits).model
        assert about_models([one]) == []
    assert InstanceSpec(LLAMA, h100).model is LLAMA
    with pytest.raises(SimjaxError, match=r"scheduler\.quantization=fp5: not one of the formats; did you mean fp8"):
        InstanceSpec(LLAMA, h100, limits=InstanceLimits(quantization="fp5"))
    with pytest.raises(SimjaxError, match="is a checkpoint in mxfp4; it is for checkpoints that are not quantised"):
        InstanceSpec(load_model("gpt-oss-120b"), b200, limits=InstanceLimits(quantization="fp8"))
    fp8 = load_model("qwen3-32b-fp8")
    assert InstanceSpec(fp8, h100, limits=InstanceLimits(quantization="fp8")).model is fp8


@pytest.mark.parametrize(
    ("model", "device", "asked", "missing"),
    [
        ("llama-3.1-8b", "h100", "nvfp4", "no matrix products in fp4 .*bfloat16, float16, fp8, int8"),
        ("llama-3.1-8b", "a100", "fp8", "no matrix products in fp8"),
        ("qwen3-32b-fp8", "a100", "auto", "Qwen/Qwen3-32B-FP8 is in fp8_block: a100 has no matrix products in fp8"),
    ],
)
def test_a_device_without_the_precision_is_named(model, device, asked, missing):
    with pytest.raises(SimjaxError, match=missing):
        InstanceSpec(load_model(model), load_device(device), limits=InstanceLimits(quantization=asked))
    InstanceSpec(LLAMA, load_device(device), limits=InstanceLimits(quantization="int4"))
