"""The architecture of a decoder-only language model, as far as its size and its arithmetic depend on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from simjax.errors import SimjaxError, closest
from simjax.model.dtypes import canonical_dtype, dtype_bytes
from simjax.model.mixers import Attention, Mixer
from simjax.model.precision import WHAT_IF, Format, format_named


@dataclass(frozen=True)
class ModelSpec:
    """A dense or mixture-of-experts decoder; field names are those of a Hugging Face `config.json`.

    Attributes:
        name: Hugging Face id or the name of the file it came from.
        model_type: a family of `simjax.model.families`.
        dtype: data type of weights and activations.
        quantization: format (`simjax.model.precision`) in which the matrix products of the layers keep their weights and, unless only these
            are quantised, read their inputs, None for `dtype`. What they write, keys and values, embedding and output head stay in `dtype`.
        unquantized: names of matrices that a quantised checkpoint keeps in `dtype`: products of the mixers, or those that
            `simjax.model.precision` names.
        kv_cache_dtype: data type of the KV cache that the checkpoint asks for, None for `dtype`.
        sliding_window: tokens that attention sees in layers that have a window, None where none has.
        mixers: how each layer mixes tokens, where that is not grouped-query attention in all of them alike, on the whole context; empty
            where it is, as the fields above say.
        norms_per_layer: norms of the hidden state in a layer.
        router_bias, expert_bias: whether the router has a bias for each expert, and the experts' matrices have one.
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
    unquantized: tuple[str, ...] = ()
    kv_cache_dtype: str | None = None
    sliding_window: int | None = None
    mixers: tuple[Mixer, ...] = ()
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
    norms_per_layer: int = 2
    router_bias: bool = False
    expert_bias: bool = False
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one weight or activation."""
        return dtype_bytes(self.dtype)

    def format_of(self, matrix: str) -> Format | None:
        """Format in which matrices of that name are kept, None for `dtype`."""
        return None if self.quantization is None or matrix in self.unquantized else format_named(self.quantization)

    def matrix_bytes(self, matrix: str) -> float:
        """Bytes of a weight in matrices of that name."""
        found = self.format_of(matrix)
        return self.dtype_bytes if found is None else float(found.bytes)

    @property
    def computed_in(self) -> str | None:
        """Data type of quantised matrix products, None where there are none, or only weights are quantised."""
        return None if self.quantization is None else format_named(self.quantization).compute

    @property
    def shortest_window(self) -> int:
        """Tokens up to which no window of attention cuts anything off, 0 where none has a window."""
        return min((mixer.window for mixer in self.mixers if isinstance(mixer, Attention) and mixer.window), default=0)

    @property
    def rotary_dim(self) -> int:
        """Elements of the rotary table for a position."""
        return max(mixer.rotary_dim for mixer, _ in self.groups)

    @property
    def groups(self) -> tuple[tuple[Mixer, int], ...]:
        """The different mixers in order of their first layer, each with the number of its layers."""
        if not self.mixers:
            biases = {"qkv_bias": self.qkv_bias, "o_bias": self.o_bias, "qk_norm": "head" if self.qk_norm else ""}
            plain = Attention(self.num_attention_heads, self.num_key_value_heads, self.head_dim, **biases)
            return ((plain, self.num_hidden_layers),)
        return tuple((mixer, self.mixers.count(mixer)) for mixer in dict.fromkeys(self.mixers))

    def layers(self, start: int, end: int) -> ModelSpec:
        """The model with the layers from `start` up to `end` only; in a mixture of experts dense layers come first."""
        experts = end - start - max(min(end, self.num_dense_layers) - start, 0)
        return replace(self, num_hidden_layers=end - start, num_moe_layers=experts if self.is_moe else 0, mixers=self.mixers[start:end])

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


@lru_cache(maxsize=256)
def quantized_as(model: ModelSpec, quantization: str) -> ModelSpec:
    """The model with the matrices of all its layers in a format; the same object each time.

    Raises:
        SimjaxError: there is no such format, or the checkpoint has another one.
    """
    if quantization not in WHAT_IF:
        raise SimjaxError(f"scheduler.quantization={quantization}: not one of the formats; {closest(quantization, ['auto', *WHAT_IF])}")
    if model.quantization in (quantization, f"{quantization}_block"):
        return model
    if model.quantization is not None:
        own = f"{model.name} is a checkpoint in {model.quantization}"
        raise SimjaxError(f"scheduler.quantization={quantization}: {own}; it is for checkpoints that are not quantised")
    return replace(model, quantization=quantization)


@lru_cache(maxsize=256)
def without_windows(model: ModelSpec) -> ModelSpec:
    """The model as it serves requests that no window cuts short; the same object each time."""
    if not any(mixer.window for mixer in model.mixers):
        return model
    whole = tuple(replace(x, window=None, chunked=False) if isinstance(x, Attention) else x for x in model.mixers)
    first = whole[0]
    plain = isinstance(first, Attention) and set(whole) == {first} and replace(model, mixers=()).groups[0][0] == first
    return replace(model, mixers=() if plain else whole)


FLOAT32 = "torch_dtype float32"
"""Beginning of the note of a model that is served in another data type than the one of its file."""
