"""Work of a plan on the devices, from which its energy follows: device time, bytes and FLOPs of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import entry, together
from simjax.engine.params import PowerParams
from simjax.engine.rank import PlannedWork, Slots
from simjax.latency.attention.coefficients import TILE, DecodeBatch
from simjax.latency.rounding import product
from simjax.latency.step_time import StepParts, StepTimeRow, decode_attention, device_s

if TYPE_CHECKING:
    from simjax.engine.scheduler.leap import Decoding


def verified_pairs(slots: Slots) -> Array:
    """Pairs of a query and a key in the attention of requests that decode, each of whose drafts is a query too: f64[]."""
    new, verifying = slots.num_new_tokens, slots.drafts.decoding
    assert verifying is not None
    decoding = verifying | (new == 1)
    return jnp.sum(jnp.where(decoding, new.astype(jnp.int64) * slots.num_computed_tokens.astype(jnp.int64), 0)).astype(jnp.float64)


def planned_work(
    power: PowerParams, i: Array | int, step_time: StepTimeRow, parts: StepParts, decoding: Decoding, verified: Array
) -> PlannedWork:
    """The work of the step that was formed, and of the decode steps that may follow it.

    Args:
        power: of all ranks.
        i: the rank.
        step_time: its step times.
        parts: of the step.
        decoding: requests that will continue to decode.
        verified: pairs of queries and keys of the decodes, f64[]; without drafts each has one query.
    """
    mine: PowerParams = entry(power, i)
    chunks, decodes = parts.of_chunks, parts.of_decodes
    first = _batch(mine, step_time, parts.tokens, parts.sequences, parts.attention_s)
    # Chunks read the keys before them once; kernels compute whole tiles of queries.
    keys = decodes.kv_sum + product(chunks.history / jnp.maximum(chunks.queries, 1.0), chunks.count)
    pairs = verified + product(float(TILE), chunks.tile_keys)
    n = jnp.maximum(decoding.num_running, 1)
    batch = DecodeBatch(*(x.astype(jnp.float64) for x in (n, decoding.kv_sum, decoding.kv_max)))
    attention_s, slope_s, _ = decode_attention(step_time, batch)
    later = _batch(mine, step_time, n, n, attention_s)
    work = PlannedWork(
        busy_s=first[0],
        next_busy_s=later[0],
        busy_slope_s=slope_s,
        memory_s=first[1] + product(mine.kv_s, keys),
        next_memory_s=later[1] + product(mine.kv_s, batch.kv_sum),
        memory_slope_s=product(mine.kv_s, batch.n),
        compute_s=first[2] + product(mine.pair_compute_s, pairs),
        next_compute_s=later[2] + product(mine.pair_compute_s, batch.kv_sum),
        compute_slope_s=product(mine.pair_compute_s, batch.n),
    )
    return together(work)


def _batch(mine: PowerParams, step_time: StepTimeRow, tokens: Array, sequences: Array, attention_s: Array) -> tuple[Array, Array, Array]:
    """Device time, and times of bytes and FLOPs but for those of attention, of a step of so many tokens and sequences."""
    t, s = tokens.astype(jnp.float64), sequences.astype(jnp.float64)
    busy_s = jnp.maximum(device_s(step_time, tokens, sequences, attention_s) - product(mine.sequence_host_s, s), 0.0)
    hit = 1.0 - jnp.exp(product(t, jnp.log1p(-mine.expert_share)))
    moved = mine.weights_s + product(mine.token_s + mine.kv_s, t) + product(mine.sequence_s, s) + product(mine.experts_s, hit)
    computed = product(mine.token_compute_s, t) + product(mine.sequence_compute_s, s)
    return busy_s, moved, computed
