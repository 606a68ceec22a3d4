"""The architecture of a decoder-only language model, as far as its size and its arithmetic depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simjax.errors import SimjaxError, closest
from simjax.model.dtypes import canonical_dtype, dtype_bytes

# Grouped-query attention and a gated MLP (or gated experts), which is all that the arithmetic below describes.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "mixtral", "phimoe")
_QK_NORM = ("qwen3", "qwen3_moe")
_QKV_BIAS_ONLY = ("qwen2", "qwen2_moe")  # bias on q, k and v whatever the config has, none on o
_NORM_BIAS = ("phimoe",)  # nn.LayerNorm instead of RMSNorm


@dataclass(frozen=True)
class ModelSpec:
    """A dense or mixture-of-experts decoder; field names are those of a Hugging Face `config.json`.

    Sliding windows are not modelled: attention always sees the whole context.

    Attributes:
        name: Hugging Face id or the name of the file it came from.
        model_type: one of `MODEL_TYPES`.
        dtype: data type of weights and activations.
        quantization: data type in which the matrix products of the layers keep their weights and read their inputs (attention projections,
            MLP, experts), None for `dtype`. What they write, keys and values, embedding and output head stay in `dtype`.
        num_experts: routed experts of a mixture-of-experts layer, 0 in a dense model.
        num_moe_layers: layers whose MLP is a mixture of experts; the others have a dense MLP of `intermediate_size`.
        shared_expert_intermediate_size: width of the always-active expert, 0 when there is none.
        qkv_bias, o_bias, norm_bias, lm_head_bias, qk_norm: whether these small parameters exist.
        shared_expert_gate: whether a gate of `hidden_size` weights scales the shared expert.
    """

    name: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    dtype: str = "bfloat16"
    quantization: str | None = None
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    num_moe_layers: int = 0
    shared_expert_intermediate_size: int = 0
    shared_expert_gate: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    norm_bias: bool = False
    lm_head_bias: bool = False
    qk_norm: bool = False

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight or activation."""
        return dtype_bytes(self.dtype)

    @property
    def matrix_bytes(self) -> int:
        """Bytes of one weight of the layers' matrix products."""
        return self.dtype_bytes if self.quantization is None else dtype_bytes(self.quantization)

    @property
    def is_moe(self) -> bool:
        """Whether any layer is a mixture of experts."""
        return self.num_moe_layers > 0

    @property
    def num_dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.num_hidden_layers - self.num_moe_layers


def from_hf_config(config: Mapping[str, Any], name: str = "", where: str = "config.json") -> ModelSpec:
    """Read a Hugging Face `config.json` that is already parsed.

    Args:
        config: the file's mapping; unknown keys are ignored.
        name: the model's name; defaults to `_name_or_path` of the file.
        where: the file's name, for error messages.

    Raises:
        SimjaxError: a field is missing or not a positive whole number, or the architecture is one that is not described here.
    """
    model_type = str(config.get("model_type", "missing"))
    if model_type not in MODEL_TYPES:
        hint = closest(model_type, list(MODEL_TYPES))
        raise SimjaxError(f"{where}: model_type '{model_type}' is not supported; {hint} (set one of these if the blocks are alike)")
    if config.get("quantization_config"):
        raise SimjaxError(f"{where}: quantization_config is not supported yet; use the unquantised model's config")

    def whole(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SimjaxError(f"{where}: {key} must be a positive whole number, got {value!r}")
        return value

    heads, layers, hidden = whole("num_attention_heads"), whole("num_hidden_layers"), whole("hidden_size")
    bias = bool(config.get("attention_bias", False))
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
        dtype=canonical_dtype(config.get("torch_dtype") or config.get("dtype") or "bfloat16"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=bias or model_type in _QKV_BIAS_ONLY,
        o_bias=bias and model_type not in _QKV_BIAS_ONLY,
        norm_bias=model_type in _NORM_BIAS,
        lm_head_bias=bool(config.get("lm_head_bias", False)),
        qk_norm=model_type in _QK_NORM,
        **_experts(config, layers, where),
    )


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
