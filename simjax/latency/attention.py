"""Attention time of a step from a handful of coefficients.

Two kernels serve a step. A decode-only step runs split-KV decoding: a floor, a cost per sequence and a cost per KV token read. A step with any prefill
chunk runs the prefill kernel for everybody: the grid is one block of threads per (tile of `TILE` queries, sequence, head) and each block walks all
keys of its sequence alone. So a decode costs as much per key as a whole tile of queries, short batches last as long as their longest sequence, large
ones as long as the work spread over the device, and key-value data read by several heads come from memory again once they outgrow the cache.
Measured on FlashAttention 2 (RTX 4090, RTX PRO 6000; seven profiles of 8,643 to 19,364 points): see `attention_fit` for the errors.

Functions take `xp` so that the host fits and fills tables with numpy through the very formulas that the device runs.
"""

from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TILE = 64  # queries of one block of the prefill kernel at head size 128
TAIL = 0.65  # of the longest row is idle time at the end, beyond the evenly spread work: 1/2 for random order, 1 when the longest comes last
SHARING_POWER = 4  # how sharply heads stop sharing key reads as sequences fill the device
ENDLESS = 2**30  # valid steps of a cost that is affine without bound
DIMENSIONLESS = ("decode_skew", "spill_tokens", "spill_sequences")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionCoefficients:
    """Attention of the whole stack of layers; every leaf f64[C] (f64[] once a row is picked), non-negative, differentiable.

    Decode-only steps:
    decode_floor_s: seconds per step; decode_sequence_s: per sequence; decode_kv_s: per KV token.
    decode_skew: share (0..1) of the way from the mean context to the longest one at which an unequal batch behaves.

    Steps with a chunk ("mixed"):
    mixed_floor_s: per step; mixed_sequence_s: per decode; mixed_kv_s: per KV token of the decodes.
    chunk_tile_s: per tile of `TILE` queries; chunk_kv_s: per (tile, key) pair that tile walks.
    empty_tile_s: per empty block: every sequence is launched with as many tiles as the longest chunk has.
    longest_s: per key of the longest sequence, which one block walks alone.
    spill_s: extra per KV token of the decodes beyond spill_tokens (tokens whose keys fit the cache), in full when many more than
    spill_sequences decodes (so many that the heads of one KV group no longer run side by side) are in the step.
    """

    decode_floor_s: Any
    decode_sequence_s: Any
    decode_kv_s: Any
    decode_skew: Any
    mixed_floor_s: Any
    mixed_sequence_s: Any
    mixed_kv_s: Any
    chunk_tile_s: Any
    chunk_kv_s: Any
    empty_tile_s: Any
    longest_s: Any
    spill_s: Any
    spill_tokens: Any
    spill_sequences: Any


def scaled(a: AttentionCoefficients, factor: float) -> AttentionCoefficients:
    """Coefficients times `factor` (one layer to a stack, microseconds to seconds); counts and shares stay."""
    return replace(a, **{f.name: getattr(a, f.name) * factor for f in fields(a) if f.name not in DIMENSIONLESS})


class DecodeBatch(NamedTuple):
    """The decodes of a step: how many, and sum, least and largest of their contexts; f64 of one shape (all 0 without decodes)."""

    n: Any
    kv_sum: Any
    kv_min: Any
    kv_max: Any


class ChunkBatch(NamedTuple):
    """Sums over the prefill chunks of a step (q queries on k earlier tokens); f64 of one shape.

    count: chunks; queries: sum q; history: sum q k (so history / queries is the mean k, weighted by queries); tiles: sum of ceil(q / TILE);
    tile_keys: keys walked by all tiles; longest: largest k + q; most_tiles: tiles of the longest chunk.
    """

    count: Any
    queries: Any
    history: Any
    tiles: Any
    tile_keys: Any
    longest: Any
    most_tiles: Any


def decode_batch(decoding: Any, computed: Any, xp: ModuleType = jnp) -> DecodeBatch:
    """decoding: bool[..., S], computed: i32[..., S], reduced over the last axis."""
    kv = xp.where(decoding, computed, 0)
    kv_max = xp.max(kv, axis=-1)
    kv_min = kv_max - xp.max(xp.where(decoding, kv_max[..., None] - computed, 0), axis=-1)
    f64 = xp.float64
    return DecodeBatch(xp.sum(decoding, axis=-1).astype(f64), xp.sum(kv.astype(f64), axis=-1), kv_min.astype(f64), kv_max.astype(f64))


def chunk_batch(new: Any, computed: Any, xp: ModuleType = jnp) -> ChunkBatch:
    """new, computed: i32[..., S], reduced over the last axis; slots with new > 1 are chunks."""
    chunk = new > 1
    q = xp.where(chunk, new, 0).astype(xp.float64)
    k = xp.where(chunk, computed, 0).astype(xp.float64)
    tiles = xp.ceil(q / TILE)
    total = lambda x: xp.sum(x, axis=-1)
    return ChunkBatch(
        count=total(chunk).astype(xp.float64),
        queries=total(q),
        history=total(q * k),
        tiles=total(tiles),
        tile_keys=total(_tile_keys(tiles, k)),
        longest=xp.max(q + k, axis=-1),
        most_tiles=xp.max(tiles, axis=-1),
    )


def merged(c: ChunkBatch, xp: ModuleType = jnp) -> ChunkBatch:
    """The single chunk with all the queries on their mean history, which is how measured tables see several chunks."""
    history = c.history / xp.maximum(c.queries, 1.0)
    tiles = xp.ceil(c.queries / TILE)
    return ChunkBatch(xp.minimum(c.count, 1.0), c.queries, c.history, tiles, _tile_keys(tiles, history), c.queries + history, tiles)


def equal_contexts(d: DecodeBatch, xp: ModuleType = jnp) -> DecodeBatch:
    """The same number of decodes, all at the mean context."""
    mean = d.kv_sum / xp.maximum(d.n, 1.0)
    return DecodeBatch(d.n, d.kv_sum, mean, mean)


def effective_context(decode_skew: Any, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Context (tokens) of the equal decode batch that takes as long as this one.

    While all contexts grow by one a step, it grows by exactly one too: the skew is a share of max - mean, which does not change. So a cost that
    is affine in it stays affine over a leap.
    """
    mean = d.kv_sum / xp.maximum(d.n, 1.0)
    return mean + decode_skew * (d.kv_max - mean)


def decode_attention_s(a: AttentionCoefficients, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a decode-only step; each step in which all contexts grow by one adds `decode_kv_s * n`."""
    return a.decode_floor_s + d.n * (a.decode_sequence_s + a.decode_kv_s * effective_context(a.decode_skew, d, xp))


def mixed_attention_s(a: AttentionCoefficients, c: ChunkBatch, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a step with at least one chunk."""
    # written so that n = 0 has no division and no NaN gradient
    sharing = xp.where(d.n > 0, 1.0 / (1.0 + (a.spill_sequences / xp.maximum(d.n, 1.0)) ** SHARING_POWER), 0.0)
    decodes = a.mixed_sequence_s * d.n + a.mixed_kv_s * d.kv_sum + a.spill_s * sharing * xp.maximum(d.kv_sum - a.spill_tokens, 0.0)
    empty = (d.n + c.count) * c.most_tiles - c.tiles
    work = decodes + a.chunk_tile_s * c.tiles + a.chunk_kv_s * c.tile_keys + a.empty_tile_s * empty
    longest = a.longest_s * xp.maximum(c.longest, d.kv_max)
    return a.mixed_floor_s + xp.maximum(longest, work + TAIL * longest)


def _tile_keys(tiles: Any, k: Any) -> Any:
    """Keys walked by the tiles of a causal chunk on k earlier tokens: tile i (from 1) walks k + i * TILE."""
    return tiles * k + (0.5 * TILE) * tiles * (tiles + 1.0)
