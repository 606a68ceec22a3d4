"""How the layers of a model mix tokens: grouped-query attention, latent attention (MLA), recurrences; each with its sizes and its work.

A mixer is described whole; methods take the tensor-parallel degree `tp` and give what one rank has. `element` is the bytes of a number of
the KV cache, of a state that of the model's data type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

INDEX_SCALE_BYTES = 4
"""Bytes of the scale that vLLM keeps beside an index key of sparse attention, whose elements are one byte each."""
SPARSE_FP8_BYTES = 656
"""Bytes of a token's latent in vLLM's `fp8_ds_mla`: 512 of fp8, 4 scales in float32, 64 rotary elements in 16 bits."""


class Product(NamedTuple):
    """A matrix product (T, k) @ (k, n) of one rank. `quantizable`: whether a quantised checkpoint may keep its weights quantised."""

    name: str
    k: int
    n: int
    bias: bool = False
    quantizable: bool = True


class Reading(NamedTuple):
    """What attention reads of its past: of at most `window` tokens (None: of all), `bytes` of each, and FLOPs for each pair of a query and
    a key, in a prompt and in a decode.
    """

    window: int | None
    bytes: int
    prefill_flops: float
    decode_flops: float


@dataclass(frozen=True)
class Attention:
    """Grouped-query or multi-head attention.

    Attributes:
        heads, kv_heads, head_dim: as in a `config.json`.
        value_dim: width of a value where it is not that of a key, else None.
        window: tokens that a query sees, None for all.
        chunked: whether it sees its chunk of `window` tokens instead (Llama 4).
        qkv_bias, o_bias: whether the projections have a bias.
        qk_norm: norms of queries and keys: "head" for one of a head's width each, "layer" for one over all heads, "" for none.
        gated: whether the projection gives a gate for each query as well.
        sinks: whether each head has a learnt sink.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int | None = None
    window: int | None = None
    chunked: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str = ""
    gated: bool = False
    sinks: bool = False

    @property
    def rotary_dim(self) -> int:
        """Elements of the rotary table for a position."""
        return self.head_dim

    def kv_heads_of(self, tp: int) -> int:
        """KV heads of a rank; they are replicated where there are fewer of them than ranks."""
        return max(self.kv_heads // tp, 1)

    @property
    def values(self) -> int:
        """Width of a value."""
        return self.head_dim if self.value_dim is None else self.value_dim

    def products(self, hidden: int, tp: int) -> tuple[Product, ...]:
        """Matrix products, in order."""
        heads, kv = self.heads // tp, self.kv_heads_of(tp)
        qkv = (heads * (2 if self.gated else 1) + kv) * self.head_dim + kv * self.values
        return Product("qkv_proj", hidden, qkv, self.qkv_bias), Product("o_proj", heads * self.values, hidden, self.o_bias)

    def other_parameters(self, tp: int) -> int:
        """Parameters outside the matrix products."""
        heads, kv = self.heads // tp, self.kv_heads_of(tp)
        norms = {"": 0, "head": 2 * self.head_dim, "layer": (heads + kv) * self.head_dim}[self.qk_norm]
        return norms + heads * self.sinks

    def cache_bytes(self, tp: int, element: int) -> int:
        """Bytes of a token in the KV cache of a layer."""
        return self.kv_heads_of(tp) * (self.head_dim + self.values) * element

    def readings(self, tp: int, element: int) -> tuple[Reading, ...]:
        """What a layer reads of the past."""
        flops = 2.0 * (self.heads // tp) * (self.head_dim + self.values)
        return (Reading(self.window, self.cache_bytes(tp, element), flops, 0.0),)


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (MLA) under DeepSeek's names; with `index_topk` sparse (DeepSeek V3.2).

    The cache holds one latent and one rotary key for all heads, which every rank needs: it is not divided by tensor parallelism. Prompts
    expand the latent to keys and values of each head; decodes work on the latent itself (absorbed), for which vLLM keeps copies of
    `kv_b_proj` in the model's type.
    """

    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    index_topk: int | None = None
    index_n_heads: int = 0
    index_head_dim: int = 0

    window = None

    @property
    def rotary_dim(self) -> int:
        """Elements of the rotary table for a position."""
        return self.qk_rope_head_dim

    def products(self, hidden: int, tp: int) -> tuple[Product, ...]:
        """Matrix products, in order; those to the latents and of the indexer are whole on every rank."""
        heads, latent = self.heads // tp, self.kv_lora_rank + self.qk_rope_head_dim
        query = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if self.q_lora_rank is None:
            first = (Product("q_proj", hidden, query), Product("kv_a_proj", hidden, latent))
        else:
            first = (Product("fused_qkv_a_proj", hidden, self.q_lora_rank + latent), Product("q_b_proj", self.q_lora_rank, query))
        if self.index_topk is not None:
            first += (
                Product("indexer_wq_b", self.q_lora_rank or hidden, self.index_n_heads * self.index_head_dim),
                Product("indexer_wk", hidden, self.index_head_dim, quantizable=False),
                Product("indexer_weights_proj", hidden, self.index_n_heads, quantizable=False),
            )
        return *first, self._expansion(tp), Product("o_proj", heads * self.v_head_dim, hidden)

    def _expansion(self, tp: int) -> Product:
        return Product("kv_b_proj", self.kv_lora_rank, self.heads // tp * (self.qk_nope_head_dim + self.v_head_dim))

    def copied_elements(self, tp: int) -> int:
        """Elements of the copies of `kv_b_proj` in the model's type, for decodes."""
        expansion = self._expansion(tp)
        return expansion.k * expansion.n

    def other_parameters(self, tp: int) -> int:
        """Parameters outside the matrix products: norms of the latents, and weight and bias of the norm of index keys."""
        return (self.q_lora_rank or 0) + self.kv_lora_rank + 2 * (self.index_head_dim if self.index_topk is not None else 0)

    @property
    def _index_bytes(self) -> int:
        return 0 if self.index_topk is None else self.index_head_dim + INDEX_SCALE_BYTES

    def _latent_bytes(self, element: int) -> int:
        if self.index_topk is not None and element == 1:
            return SPARSE_FP8_BYTES
        return (self.kv_lora_rank + self.qk_rope_head_dim) * element

    def cache_bytes(self, tp: int, element: int) -> int:
        """Bytes of a token in the KV cache of a layer, the same on every rank."""
        return self._latent_bytes(element) + self._index_bytes

    def readings(self, tp: int, element: int) -> tuple[Reading, ...]:
        """What a layer reads of the past; sparse attention reads an index key of every token and the latents of the best."""
        heads = self.heads // tp
        absorbed = 2.0 * heads * (2 * self.kv_lora_rank + self.qk_rope_head_dim)
        expanded = 2.0 * heads * (self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim)
        if self.index_topk is None:
            return (Reading(None, self._latent_bytes(element), expanded, absorbed),)
        index = 2.0 * self.index_n_heads * self.index_head_dim
        return (
            Reading(None, self._index_bytes, index, index),
            Reading(self.index_topk, self._latent_bytes(element), absorbed, absorbed),
        )


@dataclass(frozen=True)
class Recurrent:
    """Linear attention or a state-space layer: a state of fixed size for each sequence in place of keys and values.

    Attributes:
        heads: heads that ranks divide among them.
        in_width, aside_width: columns of the input projection, and of the small one that no checkpoint quantises.
        conv_width, conv_kernel: channels of the short convolution, and its taps.
        out_width: rows of the output projection.
        state_elements: numbers of the state of a sequence, in `state_bytes_each` bytes each.
        others: parameters besides.
    """

    heads: int
    in_width: int
    aside_width: int
    conv_width: int
    conv_kernel: int
    out_width: int
    state_elements: int
    state_bytes_each: int
    others: int

    window = None
    rotary_dim = 0

    def products(self, hidden: int, tp: int) -> tuple[Product, ...]:
        """Matrix products, in order."""
        aside = (Product("in_proj_aside", hidden, self.aside_width // tp, quantizable=False),) if self.aside_width else ()
        return Product("in_proj", hidden, self.in_width // tp), *aside, Product("out_proj", self.out_width // tp, hidden)

    def other_parameters(self, tp: int) -> int:
        """Parameters outside the matrix products."""
        return self.conv_width // tp * self.conv_kernel + self.others

    def cache_bytes(self, tp: int, element: int) -> int:
        """Bytes of a token in the KV cache of a layer: none."""
        return 0

    def state_bytes(self, tp: int, element: int) -> int:
        """Bytes of the state of a sequence in a layer; the convolution's inputs are in the model's type, of `element` bytes."""
        return (self.conv_kernel - 1) * (self.conv_width // tp) * element + self.state_elements // tp * self.state_bytes_each

    def token_flops(self, tp: int) -> float:
        """FLOPs that a token's step of the recurrence takes: read by the key, update, read by the query."""
        return 6.0 * self.state_elements / tp

    def readings(self, tp: int, element: int) -> tuple[Reading, ...]:
        """What a layer reads of the past beside its state: nothing."""
        return ()


Mixer = Attention | Latent | Recurrent
