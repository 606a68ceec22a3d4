"""The architecture of a decoder-only language model, as far as its size and its arithmetic depend on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from simjax.model.dtypes import canonical_dtype, dtype_bytes

# Grouped-query attention and a gated MLP (or gated experts), which is all that the arithmetic describes.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "mixtral", "phimoe")


@dataclass(frozen=True)
class ModelSpec:
    """A dense or mixture-of-experts decoder; field names are those of a Hugging Face `config.json`.

    Attention sees the whole context; a model with a sliding window is simulated only where no request exceeds the window.

    Attributes:
        name: Hugging Face id or the name of the file it came from.
        model_type: one of `MODEL_TYPES`.
        dtype: data type of weights and activations.
        quantization: data type in which the matrix products of the layers keep their weights and read their inputs (attention projections,
            MLP, experts), None for `dtype`. What they write, keys and values, embedding and output head stay in `dtype`.
        kv_cache_dtype: data type of the KV cache that the checkpoint asks for, None for `dtype`.
        sliding_window: tokens that attention sees in layers that have a window, None where none has.
        num_experts: routed experts of a mixture-of-experts layer, 0 in a dense model.
        num_moe_layers: layers whose MLP is a mixture of experts; the others have a dense MLP of `intermediate_size`.
        shared_expert_intermediate_size: width of the always-active expert, 0 when there is none.
        qkv_bias, o_bias, norm_bias, lm_head_bias, qk_norm: whether these small parameters exist.
        shared_expert_gate: whether a gate of `hidden_size` weights scales the shared expert.
        notes: what of the file is not simulated or was changed, one line each; no part of a comparison.
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
    kv_cache_dtype: str | None = None
    sliding_window: int | None = None
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
    notes: tuple[str, ...] = field(default=(), compare=False)

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


@lru_cache(maxsize=256)
def served_as(model: ModelSpec, dtype: str) -> ModelSpec:
    """The model with weights and activations in `dtype`; the same object each time, by which clusters recognise it.

    Raises:
        SimjaxError: there is no such data type.
    """
    return replace(model, dtype=canonical_dtype(dtype), notes=tuple(note for note in model.notes if not note.startswith(FLOAT32)))


FLOAT32 = "torch_dtype float32"
"""Beginning of the note of a model that is served in another data type than the one of its file."""
