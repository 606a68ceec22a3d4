"""Families of models: published parameter counts and KV sizes of models by name, and what each family adds, by hand."""

from dataclasses import replace

import pytest

from simjax.errors import SimjaxError
from simjax.model import (
    from_hf_config,
    kv_bytes_per_token,
    load_model,
    parameters,
    state_bytes_per_sequence,
    weight_bytes,
)
from simjax.model.mixers import Attention, Latent, Recurrent
from simjax.model.ops import attention_flops, step_ops
from tests.model.test_model import BASE

LATENT = {"q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def test_checkpoint_sizes():
    # gpt-oss-120b's card: 60.8 GiB; DeepSeek-V3: a byte for all but embedding, head, norms and router, and vLLM's copies of kv_b_proj
    gpt, deepseek = load_model("gpt-oss-120b"), load_model("deepseek-v3")
    assert weight_bytes(gpt) / 2**30 == pytest.approx(60.8, abs=0.05)
    wide = 2 * 129_280 * 7168 + 58 * 256 * (7168 + 1) + 61 * (2 * 7168 + 1536 + 512) + 7168
    copies = 61 * 512 * 128 * 256 * 2
    assert weight_bytes(deepseek) == parameters(deepseek) + wide + copies


def test_the_latent_is_on_every_rank():
    model = load_model("deepseek-v3")
    assert {kv_bytes_per_token(model, tp) for tp in (1, 2, 8, 16)} == {70_272}
    assert kv_bytes_per_token(model, 8, "fp8") == 35_136
    assert kv_bytes_per_token(load_model("deepseek-v3.2"), 1, "fp8") == 61 * (656 + 132)
    ranks = {tp: {op.name: op for op in step_ops(model, tp)} for tp in (1, 8)}
    assert ranks[1]["fused_qkv_a_proj"] == ranks[8]["fused_qkv_a_proj"]
    assert ranks[1]["q_b_proj"].n == 8 * ranks[8]["q_b_proj"].n and ranks[1]["o_proj"].k == 8 * ranks[8]["o_proj"].k


def test_latent_attention_by_hand():
    model = from_hf_config(BASE | LATENT | {"model_type": "deepseek_v3", "head_dim": 12})
    assert set(model.mixers) == {Latent(4, 24, 16, 8, 4, 6)}
    layer = 64 * (24 + 20) + 24 * 4 * 12 + 16 * 4 * 14 + 4 * 6 * 64 + 24 + 16
    assert parameters(model) == 2 * 100 * 64 + 2 * (layer + 3 * 64 * 96 + 2 * 64) + 64
    assert attention_flops(model) == 2 * 2 * 4 * (8 + 4 + 6)
    (reading,) = model.mixers[0].readings(2, 2)
    assert (reading.bytes, reading.prefill_flops, reading.decode_flops) == (40, 2 * 2 * 18, 2 * 2 * (2 * 16 + 4))
    whole = from_hf_config(BASE | LATENT | {"model_type": "deepseek_v2", "q_lora_rank": None})
    assert [op.name for op in step_ops(whole)][2:4] == ["q_proj", "kv_a_proj"]
    with pytest.raises(SimjaxError, match=r"config\.json: kv_lora_rank must be a positive whole number, got None"):
        from_hf_config(BASE | {**LATENT, "kv_lora_rank": None} | {"model_type": "deepseek_v3"})


def test_sparse_attention_reads_an_index_key_of_all_and_the_best():
    index = {"index_topk": 32, "index_n_heads": 2, "index_head_dim": 8}
    model = from_hf_config(BASE | LATENT | index | {"model_type": "deepseek_v32"})
    keys, best = model.mixers[0].readings(1, 2)
    assert (keys.window, keys.bytes, keys.decode_flops) == (None, 8 + 4, 2 * 2 * 8)
    assert (best.window, best.bytes, best.prefill_flops) == (32, 40, 2 * 4 * (2 * 16 + 4))
    with pytest.raises(SimjaxError, match="index_topk=32 changes the arithmetic"):
        from_hf_config(BASE | LATENT | index | {"model_type": "deepseek_v3"})


def test_linear_attention_by_hand():
    linear = {
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 6},
        **{"linear_conv_kernel_dim": 4, "full_attention_interval": 2, "mamba_ssm_dtype": "float32", "head_dim": 16},
    }
    model = from_hf_config(BASE | linear | {"model_type": "qwen3_next"})
    first, second = model.mixers
    assert isinstance(first, Recurrent) and isinstance(second, Attention) and second.gated
    conv = 2 * 2 * 8 + 4 * 6
    layer = 64 * (conv + 4 * 6 + 2 * 4) + conv * 4 + 2 * 4 + 6 + 4 * 6 * 64
    attention = 64 * (2 * 4 + 2 * 4) * 16 + 64 * 64 + 2 * 16
    assert parameters(model) == 2 * 100 * 64 + layer + attention + 2 * (3 * 64 * 96 + 2 * 64) + 64
    assert state_bytes_per_sequence(model) == 3 * conv * 2 + 4 * 8 * 6 * 4
    assert state_bytes_per_sequence(model, 2) == state_bytes_per_sequence(model) // 2
    assert kv_bytes_per_token(model) == 2 * 4 * 16 * 2
    assert state_bytes_per_sequence(load_model("llama-3.1-8b")) == 0


@pytest.mark.parametrize(
    ("change", "windows"),
    [
        ({"model_type": "gemma2", "sliding_window": 32, "head_dim": 16}, [32, None] * 3),
        ({"model_type": "gemma3_text", "sliding_window": 32, "sliding_window_pattern": 3, "head_dim": 16}, [32, 32, None] * 2),
        ({"model_type": "gpt_oss", "sliding_window": 32}, [32, None] * 3),
        ({"model_type": "llama4_text", "attention_chunk_size": 32}, [32, 32, 32, None, 32, 32]),
        ({"model_type": "llama4_text", "attention_chunk_size": 32, "no_rope_layers": [1, 0] * 3}, [32, None] * 3),
        ({"sliding_window": 32, "layer_types": ["full_attention"] * 5 + ["sliding_attention"]}, [None] * 5 + [32]),
        ({"model_type": "qwen2", "sliding_window": 32, "use_sliding_window": True, "max_window_layers": 4}, [None] * 4 + [32] * 2),
    ],
)
def test_which_layers_have_a_window(change, windows):
    model = from_hf_config(BASE | {"num_hidden_layers": 6} | change)
    assert [mixer.window for mixer in model.mixers] == windows
    stage = model.layers(1, 4)
    assert [mixer.window for mixer in stage.mixers] == windows[1:4] and sum(count for _, count in stage.groups) == 3


def test_what_families_add():
    plain = parameters(from_hf_config(BASE))
    assert parameters(from_hf_config(BASE | {"model_type": "gemma2", "tie_word_embeddings": False, "head_dim": 16})) - plain == 2 * 2 * 64
    assert parameters(from_hf_config(BASE | {"model_type": "olmo2"})) - plain == 2 * 2 * 64
    assert parameters(from_hf_config(BASE | {"model_type": "seed_oss", "attention_bias": True})) - plain == 2 * 3 * 64
    mixture = parameters(from_hf_config(BASE | EXPERTS | {"model_type": "qwen3_moe"}))
    sinks = from_hf_config(BASE | EXPERTS | {"model_type": "gpt_oss", "attention_bias": True})
    biases = 2 * (4 * 64 + 4) + 2 * (8 + 8 * (2 * 16 + 64))
    assert parameters(sinks) - mixture == biases - 2 * 2 * 16
    dense = from_hf_config(BASE | EXPERTS | {"model_type": "llama4_text", "interleave_moe_layer_step": 2, "intermediate_size_mlp": 128})
    assert (dense.intermediate_size, dense.num_moe_layers, dense.shared_expert_intermediate_size) == (128, 1, 16)
    gemma = from_hf_config(
        {k: v for k, v in BASE.items() if k not in ("num_attention_heads", "vocab_size")} | {"model_type": "gemma3_text"}
    )
    assert (gemma.num_attention_heads, gemma.num_key_value_heads, gemma.head_dim, gemma.vocab_size) == (8, 4, 256, 262_208)
    assert gemma.tie_word_embeddings


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"type": "yarn", "factor": 4.0}, 512),
        ({"type": "linear", "factor": 2.0}, 256),
        ({"rope_type": "dynamic", "factor": 2.0}, 256),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}, 128),
        ({"type": "longrope", "factor": 8.0}, 128),
        ({"type": "mrope", "mrope_section": [1, 2], "factor": 2.0}, 128),
        ({"rope_type": "default"}, 128),
    ],
)
def test_the_context_that_a_rotary_embedding_allows(rope, context):
    model = from_hf_config(BASE | {"rope_scaling": rope})
    assert (model.max_position_embeddings, model.notes) == (context, ())
    assert from_hf_config(BASE | {"rope_parameters": rope}).max_position_embeddings == context


def test_other_rotary_embeddings_are_named():
    (note,) = from_hf_config(BASE | {"rope_scaling": {"type": "spiral", "factor": 2}}).notes
    assert note.startswith("rope_scaling of type 'spiral' is not known here") and "128" in note
    with pytest.raises(SimjaxError, match=r"rope_scaling\.factor must be a positive number, got 0"):
        from_hf_config(BASE | {"rope_scaling": {"type": "yarn", "factor": 0}})
    assert load_model("deepseek-v3").max_position_embeddings == 4096 * 40


def test_a_key_of_another_family_is_refused():
    with pytest.raises(SimjaxError, match="kv_lora_rank=16 changes the arithmetic"):
        from_hf_config(BASE | LATENT | {"model_type": "qwen3"})
    with pytest.raises(SimjaxError, match="attention_k_eq_v=True changes the arithmetic"):
        from_hf_config(BASE | {"model_type": "gemma3_text", "attention_k_eq_v": True})
    assert from_hf_config(BASE | {"model_type": "mimo", "num_nextn_predict_layers": 1}) == replace(
        from_hf_config(BASE | {"model_type": "qwen2"}), model_type="mimo"
    )
