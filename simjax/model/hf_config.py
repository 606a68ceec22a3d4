"""Reads a Hugging Face `config.json`, and refuses or names what it asks for beyond the arithmetic of `simjax.model.ops`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simjax.errors import SimjaxError
from simjax.model.dtypes import canonical_dtype
from simjax.model.hf_keys import check_keys, unknown_keys
from simjax.model.quantized import read_quantization
from simjax.model.spec import FLOAT32, MODEL_TYPES, ModelSpec

_QK_NORM = ("qwen3", "qwen3_moe")
_QKV_BIAS_ONLY = ("qwen2", "qwen2_moe")  # bias on q, k and v whatever the config has, none on o
_NORM_BIAS = ("phimoe",)  # nn.LayerNorm instead of RMSNorm
# Text stacks of multimodal models that are those of another type, block by block.
_TEXT_STACKS = {
    **{"qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2"},
    **{"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe"},
}
_OF_THE_WRAPPER = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")  # beside text_config, they hold for it, too


def from_hf_config(config: Mapping[str, Any], name: str = "", where: str = "config.json") -> ModelSpec:
    """Read a Hugging Face `config.json` that is already parsed; of a multimodal model its text stack.

    Args:
        config: the file's mapping.
        name: the model's name; defaults to `_name_or_path` of the file.
        where: the file's name, for error messages.

    Raises:
        SimjaxError: a field is missing or not a positive whole number, or the file asks for an architecture or a quantization that is not
            described here.
    """
    config, notes = _text_stack(config, where)
    model_type = str(config.get("model_type", "missing"))
    model_type = _TEXT_STACKS.get(model_type, model_type)
    if model_type not in MODEL_TYPES:
        raise SimjaxError(f"{where}: model_type '{model_type}' is not supported; known: {', '.join(MODEL_TYPES)}")
    check_keys(config, where)
    quantization, kv_cache_dtype = read_quantization(config, where)

    def whole(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SimjaxError(f"{where}: {key} must be a positive whole number, got {value!r}")
        return value

    heads, layers, hidden = whole("num_attention_heads"), whole("num_hidden_layers"), whole("hidden_size")
    bias = bool(config.get("attention_bias", False))
    dtype, changed = _served_dtype(config)
    return ModelSpec(
        name=name or str(config.get("_name_or_path") or where),
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=whole("intermediate_size"),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=whole("num_key_value_heads", heads),
        head_dim=whole("head_dim", max(hidden // heads, 1)),
        vocab_size=whole("vocab_size"),
        max_position_embeddings=whole("max_position_embeddings"),
        dtype=dtype,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        sliding_window=_window(config, layers, whole("max_position_embeddings"), where),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias or model_type in _QKV_BIAS_ONLY,
        o_bias=bias and model_type not in _QKV_BIAS_ONLY,
        norm_bias=model_type in _NORM_BIAS,
        lm_head_bias=bool(config.get("lm_head_bias", False)),
        qk_norm=model_type in _QK_NORM,
        notes=(*notes, *changed, *unknown_keys(config)),
        **_experts(config, layers, where),
    )


def _text_stack(config: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The configuration of the text stack of a multimodal model, and what is left out; other configurations as they are."""
    inner = config.get("text_config")
    if inner is None:
        vision = ("vision_config: the vision tower is left out, its weights, its time and the tokens of images",)
        return config, vision if config.get("vision_config") else ()
    if not isinstance(inner, Mapping):
        raise SimjaxError(f"{where}: text_config must be a mapping, got {inner!r}")
    text = {"_name_or_path": config.get("_name_or_path")} | dict(inner)
    known = _TEXT_STACKS.get(str(text.get("model_type")), str(text.get("model_type")))
    if known not in MODEL_TYPES:
        raise SimjaxError(
            f"{where}: text_config has model_type '{known}' (in '{config.get('model_type')}'), which is not supported; "
            f"known: {', '.join((*MODEL_TYPES, *_TEXT_STACKS))}"
        )
    text |= {key: config[key] for key in _OF_THE_WRAPPER if config.get(key) is not None}
    left_out = f"only the text stack of '{config.get('model_type')}' is simulated, without the tokens, weights and time of other media"
    return text, (left_out,)


def _served_dtype(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The data type in which vLLM's `--dtype auto` serves a checkpoint, and a note if that is not the checkpoint's own."""
    stated = config.get("torch_dtype") or config.get("dtype") or "auto"
    dtype = "bfloat16" if stated == "auto" else canonical_dtype(stated)
    if dtype != "float32":
        return dtype, ()
    return "bfloat16", (f"{FLOAT32} is served as bfloat16, as by vLLM's --dtype auto; scheduler.dtype=float32 keeps it",)


def _window(config: Mapping[str, Any], layers: int, longest: int, where: str) -> int | None:
    """Tokens of the sliding window; None where the file states none that is in use and shorter than its context."""
    window, types, first = config.get("sliding_window"), config.get("layer_types"), config.get("max_window_layers")
    if window is None or config.get("use_sliding_window") is False:
        return None
    if (types and "sliding_attention" not in types) or (isinstance(first, int) and first >= layers):  # layers from `first` on have it
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise SimjaxError(f"{where}: sliding_window must be a positive whole number or null, got {window!r}")
    return window if window < longest else None


def _experts(config: Mapping[str, Any], layers: int, where: str) -> dict[str, Any]:
    """The mixture-of-experts fields, all absent (zero) in a dense model."""
    experts = int(config.get("num_experts") or config.get("num_local_experts") or config.get("n_routed_experts") or 0)
    if experts == 0:
        return {}
    top_k = int(config.get("num_experts_per_tok") or 0)
    if not 1 <= top_k <= experts:
        raise SimjaxError(f"{where}: num_experts_per_tok must lie between 1 and num_experts={experts}, got {top_k}")
    width = int(config.get("moe_intermediate_size") or config["intermediate_size"])
    shared = int(config.get("shared_expert_intermediate_size") or int(config.get("n_shared_experts") or 0) * width)
    dense = set(config.get("mlp_only_layers") or ()) | set(range(int(config.get("first_k_dense_replace") or 0)))
    step = int(config.get("decoder_sparse_step") or 1)
    return {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": width,
        "num_moe_layers": sum(i not in dense and (i + 1) % step == 0 for i in range(layers)),
        "shared_expert_intermediate_size": shared,
        "shared_expert_gate": bool(config.get("shared_expert_intermediate_size")),
    }
