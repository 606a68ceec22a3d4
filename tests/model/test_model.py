"""Sizes of the shipped models against published parameter counts, and what reading a config does with odd files."""

import json

import pytest

from simjax.errors import SimjaxError
from simjax.model import from_hf_config, kv_bytes_per_token, load_model, parameters, shard, weight_bytes
from tests.data import data_path

BASE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}


def test_weight_bytes_per_rank():
    llama = load_model("llama-3.1-8b")
    assert weight_bytes(llama) == 16_060_522_496
    # Everything is halved but the 65 norm vectors of 4096.
    assert weight_bytes(llama, 2) == (16_060_522_496 + 65 * 4096 * 2) // 2
    # Experts are divided, the 48 routers of 2048 x 128 and the rest of the model are not.
    qwen = load_model("qwen3-30b-a3b")
    experts = 48 * 128 * 3 * 2048 * 768 * 2
    assert weight_bytes(qwen, 1, 2) == weight_bytes(qwen) - experts // 2


def test_few_kv_heads_are_replicated():
    qwen = load_model("qwen3-30b-a3b")
    assert kv_bytes_per_token(qwen) == 98_304
    assert kv_bytes_per_token(qwen, 4) == kv_bytes_per_token(qwen, 8) == 98_304 // 4
    assert shard(qwen, 8).kv_heads == 1
    assert kv_bytes_per_token(qwen, 1, "fp8") == 98_304 // 2


def test_tied_embeddings_count_once():
    tied = from_hf_config(BASE | {"tie_word_embeddings": True})
    assert parameters(from_hf_config(BASE)) - parameters(tied) == 100 * 64


def test_vocabulary_is_padded_as_in_vllm():
    assert shard(from_hf_config(BASE)).vocab == 128
    assert shard(from_hf_config(BASE), 4).vocab == 32


def test_defaults_of_absent_fields():
    model = from_hf_config(BASE)
    assert (model.num_key_value_heads, model.head_dim, model.dtype, model.qkv_bias) == (4, 16, "bfloat16", False)
    assert from_hf_config(BASE | {"model_type": "qwen2"}).qkv_bias
    assert not from_hf_config(BASE | {"model_type": "qwen2"}).o_bias


def test_which_layers_are_mixtures():
    moe = BASE | {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 6,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    }
    assert from_hf_config(moe).num_moe_layers == 6
    assert from_hf_config(moe | {"decoder_sparse_step": 2}).num_moe_layers == 3
    assert from_hf_config(moe | {"mlp_only_layers": [0, 5]}).num_moe_layers == 4
    assert from_hf_config(moe | {"first_k_dense_replace": 1}).num_moe_layers == 5
    shared = from_hf_config(moe | {"shared_expert_intermediate_size": 32})
    # Three matrices of the shared expert and its gate, in each layer.
    assert parameters(shared) - parameters(from_hf_config(moe)) == 6 * (3 * 64 * 32 + 64)


def test_shipped_models_equal_the_configs_of_the_reference_simulator():
    for short, path in (
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
        ("qwen3-32b", "Qwen/Qwen3-32B"),
        ("qwen3-30b-a3b-2507", "Qwen/Qwen3-30B-A3B-Instruct-2507"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1"),
        ("phi-mini-moe", "microsoft/Phi-mini-MoE-instruct"),
    ):
        config = json.loads(data_path(f"llmservingsim/configs/model/{path}.json").read_text())
        shipped = load_model(short)
        assert from_hf_config(config, name=shipped.name) == shipped
        assert load_model(path) == shipped == load_model(path.lower())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "x.json: hidden_size must be a positive whole number, got None"),
        ({"vocab_size": -3}, "x.json: vocab_size must be a positive whole number, got -3"),
        ({"model_type": "lama"}, "x.json: model_type 'lama' is not supported; known: llama, mistral"),
        ({"torch_dtype": "bf61"}, "unknown dtype 'bf61'; did you mean"),
        ({"quantization_config": {"bits": 4}}, "x.json: quantization_config is not supported yet for unknown; use the"),
        ({"num_local_experts": 4, "num_experts_per_tok": 5}, "x.json: num_experts_per_tok must lie between 1 and num_experts=4, got 5"),
    ],
)
def test_a_wrong_config_is_told_in_one_line(change, message):
    with pytest.raises(SimjaxError, match=message) as error:
        from_hf_config(BASE | change, where="x.json")
    assert "\n" not in str(error.value)


def test_unknown_model_gets_a_hint():
    with pytest.raises(SimjaxError, match=r"unknown model 'llama-3-8b'; did you mean llama-3\.1-8b"):
        load_model("llama-3-8b")
    with pytest.raises(SimjaxError, match="cannot read model file nowhere"):
        load_model("nowhere.json")


def test_a_model_can_be_read_from_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BASE))
    assert load_model(tmp_path).hidden_size == 64
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SimjaxError, match="is not valid"):
        load_model(tmp_path)


def test_what_does_not_divide_is_refused():
    with pytest.raises(SimjaxError, match="num_attention_heads=4 cannot be divided by tensor_parallel_size=3"):
        shard(from_hf_config(BASE), 3)
    with pytest.raises(SimjaxError, match="num_experts=128 are fewer than expert_parallel_size=129"):
        shard(load_model("qwen3-30b-a3b"), 1, 129)
