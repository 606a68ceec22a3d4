"""Reads a Hugging Face `config.json`, and refuses or names what it asks for beyond the arithmetic of `simjax.model.ops`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simjax.errors import SimjaxError
from simjax.model.dtypes import canonical_dtype
from simjax.model.families import FAMILIES, Family, Keys, alike
from simjax.model.hf_keys import check_keys, unknown_keys
from simjax.model.mixers import Attention
from simjax.model.quantized import quantized, read_quantization
from simjax.model.spec import FLOAT32, ModelSpec

# Text stacks of multimodal models that are those of another type, block by block.
_TEXT_STACKS = {
    **{"qwen2_vl": "qwen2", "qwen2_vl_text": "qwen2", "qwen2_5_vl": "qwen2", "qwen2_5_vl_text": "qwen2"},
    **{"qwen3_vl_text": "qwen3", "qwen3_vl_moe_text": "qwen3_moe", "gemma3": "gemma3_text", "llama4": "llama4_text"},
}
_OF_THE_WRAPPER = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")  # beside text_config, they hold for it, too


_STATED = ("default", "llama3", "longrope", "su", "mrope", "proportional")
_SCALED = ("linear", "dynamic", "yarn", "deepseek_yarn")
"""Types of rotary embedding whose context is stated, and those that multiply it."""


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
    if model_type not in FAMILIES:
        raise SimjaxError(f"{where}: model_type '{model_type}' is not supported; known: {', '.join(FAMILIES)}")
    family = FAMILIES[model_type]
    config = {**family.defaults, **{key: value for key, value in config.items() if value is not None or key not in family.defaults}}
    check_keys(config, where, family)
    keys = Keys(config, where)
    heads, layers, hidden = keys.whole("num_attention_heads"), keys.whole("num_hidden_layers"), keys.whole("hidden_size")
    experts = _experts(keys, layers, model_type)
    plain = _attention(keys, family, heads, hidden)
    mixers = (family.mixers or alike)(keys, plain, layers)
    longest, of_context = longest_context(config, where)
    dtype, changed = _served_dtype(config)
    norm = _norm(keys, model_type, family)
    model = ModelSpec(
        name=name or str(config.get("_name_or_path") or where),
        model_type=model_type,
        hidden_size=hidden,
        intermediate_size=_dense_width(keys, experts),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=plain.kv_heads,
        head_dim=plain.head_dim,
        vocab_size=keys.whole("vocab_size"),
        max_position_embeddings=longest,
        dtype=dtype,
        sliding_window=max((mixer.window for mixer in mixers if isinstance(mixer, Attention) and mixer.window), default=None),
        mixers=() if set(mixers) == {plain} and norm != "layer" else mixers,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=plain.qkv_bias,
        o_bias=plain.o_bias,
        norm_bias=family.norm_bias,
        norms_per_layer=family.norms_per_layer,
        lm_head_bias=bool(config.get("lm_head_bias", False)),
        qk_norm=norm == "head",
        router_bias=bool(experts) and (family.router_bias or config.get("topk_method") == "noaux_tc"),
        expert_bias=bool(experts) and family.expert_bias,
        notes=(*notes, *changed, *of_context, *unknown_keys(config, family)),
        **experts,
    )
    return quantized(model, read_quantization(config, where, model))


def _norm(keys: Keys, model_type: str, family: Family) -> str:
    """The norms of queries and keys; GLM-4.5's larger models have some, the others none."""
    return "head" if model_type == "glm4_moe" and keys.get("use_qk_norm") else family.qk_norm


def _attention(keys: Keys, family: Family, heads: int, hidden: int) -> Attention:
    """Attention as the file describes it, on the whole context."""
    bias = bool(keys.get("attention_bias", False))
    return Attention(
        heads=heads,
        kv_heads=keys.whole("num_key_value_heads", heads),
        head_dim=keys.whole("head_dim", max(hidden // heads, 1)),
        qkv_bias=bias or family.qkv_bias is True,
        o_bias=bias and family.qkv_bias is None and family.o_bias,
        qk_norm=_norm(keys, str(keys.get("model_type")), family),
    )


def _dense_width(keys: Keys, experts: Mapping[str, Any]) -> int:
    """Width of the dense MLP: Llama 4 has a key of its own; a mixture without dense layers needs none."""
    other = keys.get("intermediate_size_mlp") or experts.get("moe_intermediate_size")
    return keys.whole("intermediate_size_mlp") if keys.get("intermediate_size_mlp") else keys.whole("intermediate_size", other)


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
    if known not in FAMILIES:
        raise SimjaxError(
            f"{where}: text_config has model_type '{known}' (in '{config.get('model_type')}'), which is not supported; "
            f"known: {', '.join((*FAMILIES, *_TEXT_STACKS))}"
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


def _experts(keys: Keys, layers: int, model_type: str) -> dict[str, Any]:
    """The mixture-of-experts fields, all absent (zero) in a dense model."""
    experts = int(keys.get("num_experts") or keys.get("num_local_experts") or keys.get("n_routed_experts") or 0)
    if experts == 0:
        return {}
    top_k = int(keys.get("num_experts_per_tok") or keys.get("experts_per_token") or 0)
    if not 1 <= top_k <= experts:
        raise SimjaxError(f"{keys.where}: num_experts_per_tok must lie between 1 and num_experts={experts}, got {top_k}")
    width = int(keys.get("moe_intermediate_size") or keys.whole("intermediate_size"))
    shared = int(keys.get("shared_expert_intermediate_size") or int(keys.get("n_shared_experts") or 0) * width)
    shared = width if model_type == "llama4_text" else shared
    return {
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "moe_intermediate_size": width,
        "num_moe_layers": sum(_mixtures(keys, layers)),
        "shared_expert_intermediate_size": shared,
        "shared_expert_gate": bool(keys.get("shared_expert_intermediate_size")),
    }


def _mixtures(keys: Keys, layers: int) -> list[bool]:
    """Whether each layer is a mixture of experts."""
    if isinstance(listed := keys.get("moe_layer_freq"), list):
        return [bool(here) for here in listed]
    dense = set(keys.get("mlp_only_layers") or ()) | set(range(int(keys.get("first_k_dense_replace") or 0)))
    step = int(keys.get("decoder_sparse_step") or keys.get("interleave_moe_layer_step") or 1)
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def longest_context(config: Mapping[str, Any], where: str) -> tuple[int, tuple[str, ...]]:
    """Tokens of the longest context as vLLM derives it (`_get_and_verify_max_len`), and a note on a scaling that is not known.

    A scaling of the rotary embedding multiplies the context by its factor, YaRN's that of `original_max_position_embeddings`; "llama3",
    "longrope" and Gemma's state the scaled one already.

    Raises:
        SimjaxError: `max_position_embeddings` or the factor is not a positive number.
    """
    longest = config.get("max_position_embeddings")
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise SimjaxError(f"{where}: max_position_embeddings must be a positive whole number, got {longest!r}")
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping) or str(config.get("model_type", "")).startswith("gemma"):
        return longest, ()
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    if kind in _STATED or "mrope_section" in scaling:
        return longest, ()
    if kind not in _SCALED:
        return longest, (f"rope_scaling of type '{kind}' is not known here; its context is taken to be max_position_embeddings={longest}",)
    factor = scaling.get("factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor <= 0:
        raise SimjaxError(f"{where}: rope_scaling.factor must be a positive number, got {factor!r}")
    base = scaling.get("original_max_position_embeddings") if "yarn" in kind else None
    return int((base or longest) * factor), ()
