"""Keys of a Hugging Face `config.json`: those that are read, those that change no size and no time, and those that are not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simjax.errors import SimjaxError
from simjax.model.families import Family

_READ = """
    model_type hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim vocab_size
    max_position_embeddings torch_dtype dtype tie_word_embeddings attention_bias lm_head_bias num_experts num_local_experts
    n_routed_experts num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size n_shared_experts mlp_only_layers
    first_k_dense_replace decoder_sparse_step quantization_config sliding_window use_sliding_window max_window_layers layer_types
    vision_config text_config names source published experts_per_token intermediate_size_mlp topk_method rope_scaling rope_parameters
    moe_layer_freq quantization hybrid_layer_pattern v_head_dim swa_num_attention_heads swa_num_key_value_heads swa_head_dim swa_v_head_dim
    add_swa_attention_sink_bias add_full_attention_sink_bias
"""
# Keys that change values, training or the file's bookkeeping, but neither a tensor's shape nor the work on it.
_IDLE = """
    architectures auto_map transformers_version use_cache initializer_range pretraining_tp model_max_length max_sequence_length
    tokenizer_class attention_dropout attn_dropout hidden_dropout expert_dropout resid_pdrop embd_pdrop dropout classifier_dropout
    bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id decoder_start_token_id
    rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps rope_theta rope_type rope_local_base_freq swa_rope_theta
    original_max_position_embeddings rope_interleave partial_rotary_factor rotary_dim indexer_rope_interleave use_mrope
    n_group topk_group routed_scaling_factor scoring_func seq_aux aux_loss_alpha ep_size swiglu_limit initial_context_length qk_head_dim
    query_pre_attn_scalar
    use_routing_bias use_mtp mtp_transformer_layers num_mtp_modules mtp_num_hidden_layers mtp_use_dedicated_embeddings qk_norm_type
    attention_value_scale sliding_window_size shared_intermediate_size attn_temperature_tuning attn_scale floor_scale for_llm_compressor
    embedding_multiplier logits_scaling residual_multiplier attention_multiplier cache_implementation eoi_token_index boi_token_index
    mm_tokens_per_image use_bidirectional_attention
    norm_topk_prob output_router_logits router_aux_loss_coef router_jitter_noise input_jitter_noise
    image_token_id image_token_index video_token_id vision_start_token_id vision_end_token_id vision_token_id video_token_index
    projector_hidden_act multimodal_projector_bias spatial_merge_size vision_feature_layer vision_feature_select_strategy
    image_seq_length ignore_index return_dict output_attentions output_hidden_states problem_type task_specific_params
    id2label label2id finetuning_task torchscript use_bfloat16 chunk_size_feed_forward pruned_heads prefix
"""
_KNOWN = frozenset(_READ.split()) | frozenset(_IDLE.split())

# Keys that change the arithmetic, with the values that ask for nothing beyond what is simulated.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "mlp_bias": (False, None),
    "use_qk_norm": (False, None),
    "qk_layernorm": (False, None),
    "kv_lora_rank": (None,),
    "q_lora_rank": (None,),
    "attention_chunk_size": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "full_attention_interval": (1, None),
    "linear_num_value_heads": (0, None),
    "num_kv_shared_layers": (0, None),
    "num_nextn_predict_layers": (0, None),
    "moe_layer_freq": (1, None),
    "index_topk": (None,),
    "attention_k_eq_v": (False, None),
    "enable_moe_block": (False, None),
    "sliding_window_pattern": (1, None),
    "hidden_activation": ("silu", None),
    "interleave_moe_layer_step": (1, None),
    "block_configs": (None,),
    "no_rope_layers": (None, []),
    "cross_attention_layers": (None, []),
    "is_encoder_decoder": (False, None),
}
_LAYERS = ("full_attention", "sliding_attention")
_OTHER_LAYERS = {
    "full_attention_interval": "linear_attention",
    "attention_chunk_size": "chunked_attention",
    "index_topk": "deepseek_sparse_attention",
}
"""Kinds of layers of the families that have a key."""
_MOST_NAMED = 6


def check_keys(config: Mapping[str, Any], where: str, family: Family) -> None:
    """Raise for a key that changes the arithmetic in a way that is not simulated, for models of that family.

    Raises:
        SimjaxError: naming the key and its value.
    """
    for key in dict.fromkeys((*_UNSUPPORTED, *family.reads)):
        harmless = family.reads[key] if key in family.reads else _UNSUPPORTED[key]
        value = config.get(key)
        if value is not None and harmless is not None and value not in harmless:
            shown = "" if isinstance(value, dict | list) else f"={value}"
            raise SimjaxError(f"{where}: {key}{shown} changes the arithmetic in a way that is not simulated")
    known = (*_LAYERS, *(name for key, name in _OTHER_LAYERS.items() if key in family.reads))
    if others := sorted({str(kind) for kind in config.get("layer_types") or ()} - set(known)):
        raise SimjaxError(f"{where}: layer_types: {', '.join(others)} is not simulated; layers must be {' or '.join(known)}")


def unknown_keys(config: Mapping[str, Any], family: Family) -> tuple[str, ...]:
    """A note that names the keys that nothing is known of, if there are any with a value that asks for something."""
    unknown = [
        key
        for key, value in config.items()
        if not key.startswith("_") and key not in {*_KNOWN, *_UNSUPPORTED, *family.reads} and value not in (None, False)
    ]
    if not unknown:
        return ()
    more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
    return (f"keys of its configuration that are not known here are ignored: {', '.join(unknown[:_MOST_NAMED])}{more}",)
