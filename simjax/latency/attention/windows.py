"""Attention of layers that see a part of the context only: a sliding window, a chunk, or the best tokens of sparse attention.

Such a layer reads no more than `window` tokens for a query. What it takes besides (floors, the start of tiles) is with all other layers in
`AttentionCoefficients`. Contexts count by their mean, as everywhere in decodes: of a batch whose contexts lie on both sides of the window
somewhat too much is read. A chunk of Llama 4 counts as a window of its size, of which queries see half in the mean. The tokens that sparse
attention picks count as a window as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import ENDLESS, TAIL, TILE, ChunkBatch, DecodeBatch, effective_context
from simjax.latency.rounding import product


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WindowedAttention:
    """Reading of the keys in all layers with a window; every leaf f64[C] (f64[] once a row is picked).

    window: tokens that a query sees. The others are as of `AttentionCoefficients`: decode_kv_s and mixed_kv_s per KV token of decodes,
    chunk_kv_s per pair of a tile and a key, longest_s per key that one block walks alone.
    """

    window: Any
    decode_kv_s: Any
    mixed_kv_s: Any
    chunk_kv_s: Any
    longest_s: Any


def windowed_decode_s(w: WindowedAttention, decode_skew: Any, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a decode-only step."""
    seen = xp.minimum(effective_context(decode_skew, d, xp), w.window)
    return product(d.n, product(w.decode_kv_s, seen, xp), xp)


def windowed_decodes(w: WindowedAttention, decode_skew: Any, d: DecodeBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Consecutive decode-only steps: seconds of the first, what each later one takes longer, steps for which that holds."""
    left = w.window - effective_context(decode_skew, d)
    grows = left > 0.0
    until = jnp.clip(jnp.floor(left) + 1.0, 1.0, ENDLESS)
    slope_s = jnp.where(grows, w.decode_kv_s * d.n, 0.0)
    return windowed_decode_s(w, decode_skew, d), slope_s, jnp.where(grows, until, ENDLESS).astype(jnp.int32)


def windowed_mixed_s(w: WindowedAttention, c: ChunkBatch, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a step with at least one chunk; a tile of queries walks the window before it and itself."""
    decodes = product(w.mixed_kv_s, xp.minimum(d.kv_sum, product(d.n, w.window, xp)), xp)
    work = decodes + product(w.chunk_kv_s, xp.minimum(c.tile_keys, product(c.tiles, w.window + TILE, xp)), xp)
    longest = product(w.longest_s, xp.minimum(xp.maximum(c.longest, d.kv_max), w.window), xp)
    return xp.maximum(longest, work + product(TAIL, longest, xp))
