"""Attention time of a step from a handful of coefficients.

A step runs one of two kernels. A decode-only step runs split-KV decoding: a floor, a time per sequence and a time per KV token read. A step
with any prefill chunk runs the prefill kernel for all its requests: its grid is one block of threads per (tile of `TILE` queries, sequence,
head), and each block walks all keys of its sequence alone. So a decode takes as long per key as a whole tile of queries; short batches last
as long as their longest sequence, large ones as long as the work spread over the device; and keys that several heads share come from memory
once per head when they outgrow the cache. That is what vLLM 0.19 shows on RTX 4090 and RTX PRO 6000 (seven profiles; `fit.py` states the
errors). Other kernels may split or pack the decodes of mixed steps: decodes and chunks have their own coefficients, so that a fit can
follow either.

Functions take `xp` so that the host fits coefficients and fills tables with numpy through the very formulas that the device runs.
"""

from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from simjax.latency.rounding import product, rounded

TILE = 64  # queries of one block of the prefill kernel at head size 128
TAIL = 0.65  # share of the longest block added to the evenly spread work: 1/2 if blocks start in random order, 1 if the longest starts last
SHARING_POWER = 4  # how sharply heads stop sharing key reads as sequences fill the device
ENDLESS = 2**30  # valid steps of a time that is affine without bound
DIMENSIONLESS = ("decode_skew", "spill_tokens", "spill_sequences")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionCoefficients:
    """Attention of all layers; every leaf f64[C] (f64[] once a row is picked), non-negative, differentiable.

    Decode-only steps:
    decode_floor_s: seconds per step; decode_sequence_s: per sequence; decode_kv_s: per KV token.
    decode_skew: share (0..1) of the way from the mean context to the longest one at which an unequal batch behaves.

    Steps with a chunk ("mixed"):
    mixed_floor_s: per step; mixed_sequence_s: per decode; mixed_kv_s: per KV token of the decodes.
    chunk_tile_s: per tile of `TILE` queries; chunk_kv_s: per (tile, key) pair that tile walks.
    empty_tile_s: per empty block: every sequence is launched with as many tiles as the longest chunk has.
    longest_s: per key of the longest sequence, which one block walks alone.
    spill_s: extra per KV token of the decodes beyond spill_tokens (tokens whose keys fit the cache), in full when many more than
    spill_sequences decodes (from which the heads of one KV group no longer run side by side) are in the step.
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
    """Coefficients times `factor` (one layer to all layers, microseconds to seconds); counts and shares stay."""
    return replace(a, **{f.name: getattr(a, f.name) * factor for f in fields(a) if f.name not in DIMENSIONLESS})


class DecodeBatch(NamedTuple):
    """The decodes of a step: their number, and the sum and the largest of their contexts; f64 of one shape (all 0 without decodes)."""

    n: Any
    kv_sum: Any
    kv_max: Any


class ChunkBatch(NamedTuple):
    """Sums over the prefill chunks of a step (q queries on k earlier tokens); f64 of one shape.

    count: chunks; queries: sum q; history: sum q k (so history / queries is the mean k, weighted by queries); tiles: sum of ceil(q / TILE);
    tile_keys: keys walked by all tiles (tile i, from 1, of a causal chunk walks k + i * TILE); longest: largest k + q;
    most_tiles: tiles of the longest chunk.
    """

    count: Any
    queries: Any
    history: Any
    tiles: Any
    tile_keys: Any
    longest: Any
    most_tiles: Any


def step_batch(new: Any, computed: Any, xp: ModuleType = jnp) -> tuple[ChunkBatch, DecodeBatch]:
    """The chunks and decodes of a step in which slot i computes new[i] tokens (0: not in the step, 1: decode, more: a chunk) on top of
    computed[i].

    new, computed: i32[..., S], reduced over the last axis. Sums are integers: exact in any order.
    """
    decode, chunk = new == 1, new > 1
    kv, q, k = xp.where(decode, computed, 0), xp.where(chunk, new, 0), xp.where(chunk, computed, 0)
    tiles = (q + (TILE - 1)) // TILE if xp is np else jax.lax.div(q + (TILE - 1), jnp.asarray(TILE, q.dtype))
    wide, history = tiles.astype(xp.int64), k.astype(xp.int64)
    tile_keys = wide * history + (TILE // 2) * wide * (wide + 1)
    sums, largest = _reduced(
        [chunk, q, q.astype(xp.int64) * history, tiles, tile_keys, decode, kv.astype(xp.int64)], [q + k, tiles, kv], xp
    )
    count, queries, history, tiles, tile_keys, n, kv_sum = sums
    longest, most_tiles, kv_max = largest
    return ChunkBatch(count, queries, history, tiles, tile_keys, longest, most_tiles), DecodeBatch(n, kv_sum, kv_max)


def _reduced(to_sum: list[Any], to_max: list[Any], xp: ModuleType) -> tuple[list[Any], list[Any]]:
    """Sums and maxima (of non-negative numbers) over the last axis as f64.

    On the device all of them are one reduction, a single loop: a tenth of the time of ten reductions of 128 slots on a CPU.
    """
    operands = tuple(x.astype(xp.int32) if x.dtype == bool else x for x in (*to_sum, *to_max))
    sums = len(to_sum)
    if xp is np:
        found = [np.sum(x, axis=-1) for x in operands[:sums]] + [np.max(x, axis=-1) for x in operands[sums:]]
    else:

        def combine(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
            pairs = list(zip(a, b, strict=True))
            return tuple([x + y for x, y in pairs[:sums]] + [jnp.maximum(x, y) for x, y in pairs[sums:]])

        zeros = tuple(jnp.zeros((), x.dtype) for x in operands)
        found = jax.lax.reduce(operands, zeros, combine, (operands[0].ndim - 1,))
    numbers = [x.astype(xp.float64) for x in found]
    return numbers[:sums], numbers[sums:]


def merged(c: ChunkBatch, xp: ModuleType = jnp) -> ChunkBatch:
    """The single chunk with all the queries on their mean history, which is how measured tables see several chunks."""
    history = c.history / xp.maximum(c.queries, 1.0)
    tiles = xp.ceil(c.queries / TILE)
    keys = product(tiles, history, xp) + product((TILE // 2) * tiles, tiles + 1.0, xp)
    return ChunkBatch(xp.minimum(c.count, 1.0), c.queries, c.history, tiles, keys, c.queries + history, tiles)


def equal_contexts(d: DecodeBatch, xp: ModuleType = jnp) -> DecodeBatch:
    """The same number of decodes, all at the mean context."""
    mean = d.kv_sum / xp.maximum(d.n, 1.0)
    return DecodeBatch(d.n, d.kv_sum, mean)


def effective_context(decode_skew: Any, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Context (tokens) of the equal decode batch that takes as long as this one.

    While all contexts grow by one a step it grows by exactly one too, as max - mean does not change: a time affine in it is affine over
    a leap.
    """
    mean = d.kv_sum / xp.maximum(d.n, 1.0)
    return mean + product(decode_skew, d.kv_max - mean, xp)


def decode_attention_s(a: AttentionCoefficients, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a decode-only step; each step in which all contexts grow by one adds `decode_kv_s * n`."""
    each_s = a.decode_sequence_s + product(a.decode_kv_s, effective_context(a.decode_skew, d, xp), xp)
    return a.decode_floor_s + product(d.n, each_s, xp)


def mixed_attention_s(a: AttentionCoefficients, c: ChunkBatch, d: DecodeBatch, xp: ModuleType = jnp) -> Any:
    """Seconds of a step with at least one chunk."""
    # written so that n = 0 has no division and no NaN gradient
    crowded = rounded((a.spill_sequences / xp.maximum(d.n, 1.0)) ** SHARING_POWER, xp)
    sharing = xp.where(d.n > 0, 1.0 / (1.0 + crowded), 0.0)
    spilled = product(a.spill_s * sharing, xp.maximum(d.kv_sum - a.spill_tokens, 0.0), xp)
    decodes = product(a.mixed_sequence_s, d.n, xp) + product(a.mixed_kv_s, d.kv_sum, xp) + spilled
    empty = (d.n + c.count) * c.most_tiles - c.tiles  # integers: exact
    chunks = product(a.chunk_tile_s, c.tiles, xp) + product(a.chunk_kv_s, c.tile_keys, xp)
    work = decodes + chunks + product(a.empty_tile_s, empty, xp)
    longest = product(a.longest_s, xp.maximum(c.longest, d.kv_max), xp)
    return a.mixed_floor_s + xp.maximum(longest, work + product(TAIL, longest, xp))
