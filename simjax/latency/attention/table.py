"""Attention time of a step from measured kernels: four-axis interpolation, corrected where the axes cannot describe the step.

The table knows one chunk (its queries, its earlier tokens) together with equal decodes (their number, their context). Real steps hold
several chunks and unequal decodes: the coefficients, which know both, give the ratio of the real chunks to the single chunk of the table
and the time that the unequal decodes add. With one chunk and equal decodes the table's number comes back unchanged.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import (
    ENDLESS,
    AttentionCoefficients,
    ChunkBatch,
    DecodeBatch,
    effective_context,
    equal_contexts,
    merged,
    mixed_attention_s,
)
from simjax.latency.rounding import product


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttentionTable:
    """Measured attention of all layers for C step-time models; axes are strictly increasing and at least two long.

    chunk: f64[C, P] queries of the chunk; history: f64[C, K] tokens before it; decodes: f64[C, N] number of decodes;
    context: f64[C, D] context of each decode.
    mixed_s: f64[C, P, K, N, D] seconds of steps with a chunk; decode_s: f64[C, N, D] seconds of decode-only steps.
    Between entries the time is linear along each axis; below an axis it is held, above it the last cell is extended.
    """

    chunk: Any
    history: Any
    decodes: Any
    context: Any
    mixed_s: Any
    decode_s: Any


def table_decode_s(table: AttentionTable, c: Any, decode_skew: Any, d: DecodeBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(seconds, seconds added by each further step, steps for which that holds exactly) of a decode-only step of model c."""
    context = effective_context(decode_skew, d)
    n, n_weight, _ = _bracket(table.decodes[c], d.n)
    k, k_weight, until = _bracket(table.context[c], context)
    corners = jax.lax.dynamic_slice(table.decode_s, (jnp.int32(c), n, k), (1, 2, 2))[0]
    low, high = _blend(corners[0], corners[1], n_weight)
    width = jnp.take(table.context[c], k + 1) - jnp.take(table.context[c], k)
    # below the axis the time is held, so nothing is added until the first entry is reached
    slope_s = jnp.where(context < table.context[c][0], 0.0, (high - low) / width)
    steps = jnp.minimum(jnp.floor(until - context) + 1.0, ENDLESS)
    return low + product(k_weight, high - low), slope_s, jnp.maximum(steps, 1.0).astype(jnp.int32)


def table_mixed_s(table: AttentionTable, c: Any, a: AttentionCoefficients, chunks: ChunkBatch, d: DecodeBatch) -> jax.Array:
    """Seconds of a step with at least one chunk of model c, whose coefficients are a."""
    equal, single = equal_contexts(d), merged(chunks)
    measured_s = _interpolate(table, c, single.queries, single.history / jnp.maximum(single.queries, 1.0), d.n, equal.kv_max)
    of_chunks_s = mixed_attention_s(a, chunks, equal)
    unequal_s = mixed_attention_s(a, chunks, d) - of_chunks_s
    of_single_s = jnp.where(chunks.count > 0, mixed_attention_s(a, single, equal), 1.0)  # no 0/0, not even in an unused branch's gradient
    return product(measured_s, of_chunks_s / of_single_s) + unequal_s


def _interpolate(table: AttentionTable, c: Any, queries: jax.Array, history: jax.Array, n: jax.Array, context: jax.Array) -> jax.Array:
    axes = (table.chunk[c], table.history[c], table.decodes[c], table.context[c])
    brackets = [_bracket(axis, x) for axis, x in zip(axes, (queries, history, n, context), strict=True)]
    corners = jax.lax.dynamic_slice(table.mixed_s, (jnp.int32(c), *(i for i, _, _ in brackets)), (1, 2, 2, 2, 2))[0]
    for _, weight, _ in brackets:
        corners = corners[0] + product(weight, corners[1] - corners[0])
    return corners


def _bracket(axis: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(cell, weight of its upper end, largest x for which the same line holds) of x; axes are so short that comparing all is cheapest."""
    cell = jnp.clip(jnp.sum(axis <= x) - 1, 0, axis.shape[0] - 2).astype(jnp.int32)
    low, high = axis[cell], axis[cell + 1]
    weight = jnp.maximum((x - low) / (high - low), 0.0)
    last = cell == axis.shape[0] - 2
    return cell, weight, jnp.where(x < axis[0], axis[0], jnp.where(last, jnp.inf, high))


def _blend(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    return a + product(weight, b - a)
