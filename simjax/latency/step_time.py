"""The time of one step, in a few array operations: the only part of the latency model that the engine sees.

A step takes `host + tokens_s[T] + sequences_s[n] + attention`, or the time that the host needs to launch it if that is longer. Everything
that depends on the number of scheduled tokens or of sequences alone is looked up in a table with one entry per integer, compiled on the
host. Attention depends on every request's context: coefficients (`attention`), and where kernels were measured a table that the
coefficients correct (`table`).
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import (
    ENDLESS,
    AttentionCoefficients,
    ChunkBatch,
    DecodeBatch,
    decode_attention_s,
    mixed_attention_s,
    step_batch,
)
from simjax.latency.attention.table import AttentionTable, table_decode_s, table_mixed_s
from simjax.latency.attention.windows import WindowedAttention, windowed_decodes, windowed_mixed_s
from simjax.latency.groups.times import GroupTimes
from simjax.latency.lines import largest
from simjax.latency.offload.times import WeightTimes, ways_s
from simjax.latency.pim.step import PimParts, attention_on_pim, halved_decodes, halves_s, pim_parts
from simjax.latency.pim.times import PimTimes
from simjax.latency.rounding import product

_Coefficients = TypeVar("_Coefficients", AttentionCoefficients, WindowedAttention)
LEAST_S = 1e-12  # least divisor, so that a step of no time divides nothing by zero


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepTime:
    """C step-time models, one for each distinct deployment in the cluster. All leaves are traced and differentiable.

    tokens_s: f64[C, T+1], seconds of all work that depends on the number of scheduled tokens only; entry 0 is 0. T must reach the largest
        `max_num_batched_tokens` that uses it: larger indices read the last entry.
    sequences_s: f64[C, S+1], seconds of the work per scheduled sequence (lm_head and sampler), by number of sequences; entry 0 is 0.
    host_s: f64[C], seconds of host time per step that the device's work does not hide.
    attention: coefficients of the attention of all layers, leaves f64[C].
    table: measured attention, or None (its absence is part of the tree structure, so nothing is computed for it).
    launch_s: f64[C, 2], least seconds of a decode-only step and of a step with a chunk, because the host launches their kernels one by
        one; 0 where it does not. None, like the table, where no model has such steps.
    stream_s: f64[C, T+1], least seconds of a step by number of scheduled tokens, because it sends their KV cache before it ends
        (`simjax.latency.terms.stream_s`); 0 where it does not, None where no model does.
    send_s: f64[C, T+1], for a pp stage, seconds in which the hidden states of so many scheduled tokens reach the next stage
        (`simjax.network.stages.boundary_s`); they are no part of the step's time. None where there are no pp stages.
    group: what data-parallel ranks of a mixture of experts do together, which is then no part of `tokens_s`
        (`simjax.latency.groups.step`); None where all models step alone.
    windows: attention of layers that see a part of the context, on top of `attention`, leaves f64[C]; None where all layers see all.
    weights: weights that are streamed from memory outside the devices; None where no model has such.
    pim: decode attention on memory that computes; None where no model has it there.
    """

    tokens_s: jax.Array
    sequences_s: jax.Array
    host_s: jax.Array
    attention: AttentionCoefficients
    table: AttentionTable | None = None
    launch_s: jax.Array | None = None
    stream_s: jax.Array | None = None
    send_s: jax.Array | None = None
    group: GroupTimes | None = None
    windows: WindowedAttention | None = None
    weights: WeightTimes | None = None
    pim: PimTimes | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepTimeRow:
    """One of the C models of a `StepTime`: a view, so that nothing is copied until a number is looked up."""

    times: StepTime
    index: jax.Array | int


def row(step_time: StepTime, index: jax.Array | int) -> StepTimeRow:
    """The model that `mixed_step_s` and `decode_steps` should use; index is an integer scalar in [0, C), traced or not."""
    return StepTimeRow(step_time, index)


class StepParts(NamedTuple):
    """What the time of a step is looked up by: scheduled tokens and sequences, whether some are a chunk, and seconds of attention; and the
    batches that these are of. With memory that computes, what of the attention is there.
    """

    tokens: jax.Array
    sequences: jax.Array
    chunks: jax.Array
    attention_s: jax.Array
    of_chunks: ChunkBatch
    of_decodes: DecodeBatch
    of_pim: PimParts | None = None


def mixed_step_s(
    model: StepTimeRow,
    new: jax.Array,
    computed: jax.Array,
    decoding: jax.Array | None = None,
    scheduled: jax.Array | int = 0,
    prompts: jax.Array | None = None,
) -> jax.Array:
    """Seconds of a step in which slot i computes new[i] tokens on top of computed[i] tokens already in the KV cache.

    A slot that verifies drafts (`decoding`) has the attention of a decode whatever its new tokens are: their queries share one reading of
    its keys, which is what a decode takes its time for (1 + K queries of a group of heads stay far below the roofline's ridge). All its
    tokens are rows of everything else.

    new, computed: i32[S]; new 0 = slot not in the step, 1 = decode, more = a prefill chunk. decoding: bool[S], or None where no slot has
    drafts; with it, scheduled: sum of new. prompts: i32[S], lengths of the prompts, only where `PimTimes.prompts_only` asks for them.
    Returns f64[]; 0 when nothing is scheduled.
    """
    return step_s(model, mixed_parts(model, new, computed, decoding, scheduled, prompts))


def step_s(model: StepTimeRow, parts: StepParts) -> jax.Array:
    """Seconds of a step from its parts, f64[]."""
    seconds = _shared_s(model, parts.tokens, parts.sequences) + parts.attention_s
    if (pim := model.times.pim) is not None:
        assert parts.of_pim is not None
        halves = halves_s(pim, index_of(model), model.times.tokens_s, parts.tokens, parts.chunks, parts.attention_s, parts.of_pim)
        go = pim.interleaved[index_of(model)] & (parts.sequences > 1)
        seconds = jnp.where(go, _after(model, halves, parts.sequences), seconds)
    if model.times.weights is not None:
        seconds = jnp.maximum(seconds, jnp.max(_streamed_s(model, parts.tokens, parts.sequences, parts.attention_s)))
    if model.times.launch_s is not None:
        alone_s, chunk_s = model.times.launch_s[index_of(model), 0], model.times.launch_s[index_of(model), 1]
        seconds = jnp.where(parts.chunks, longer_s(seconds, chunk_s), jnp.maximum(seconds, alone_s))
    if model.times.stream_s is not None:
        seconds = jnp.maximum(seconds, model.times.stream_s[index_of(model), parts.tokens])
    return jnp.where(parts.tokens > 0, seconds, 0.0)


def mixed_parts(
    model: StepTimeRow,
    new: jax.Array,
    computed: jax.Array,
    decoding: jax.Array | None = None,
    scheduled: jax.Array | int = 0,
    prompts: jax.Array | None = None,
) -> StepParts:
    """The parts of a step, arguments as of `mixed_step_s`."""
    chunks, decodes = step_batch(new if decoding is None else jnp.where(decoding, jnp.minimum(new, 1), new), computed)
    tokens, sequences = (x.astype(jnp.int32) for x in (chunks.queries + decodes.n, chunks.count + decodes.n))
    if decoding is not None:
        tokens = jnp.asarray(scheduled, jnp.int32)
    if (pim := model.times.pim) is None:
        attention_s = jnp.where(chunks.count > 0, _mixed_s(model, chunks, decodes), decode_attention(model, decodes)[0])
        return StepParts(tokens, sequences, chunks.count > 0, attention_s, chunks, decodes)
    there = pim_parts(pim, index_of(model), new, decodes, prompts)
    alone_s = jnp.where(pim.on[index_of(model)], 0.0, _decode_attention(model, decodes)[0])
    attention_s = jnp.where(chunks.count > 0, _mixed_s(model, chunks, there.left), alone_s) + there.whole_s
    return StepParts(tokens, sequences, chunks.count > 0, attention_s, chunks, decodes, there)


def decode_steps(
    model: StepTimeRow, n: jax.Array, kv_sum: jax.Array, kv_max: jax.Array, prompts: DecodeBatch | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Consecutive decode-only steps of the same n >= 1 sequences: step j takes exactly `first_s + slope_s * j` for j < valid_steps.

    n, kv_max: integer scalars, sequences and longest context; kv_sum: sum of the n contexts before the first step (int64 or f64); prompts:
    their prompts, only where `PimTimes.prompts_only` asks for them.
    Returns (first_s f64[], slope_s f64[], valid_steps i32[] >= 1); first_s equals `mixed_step_s` of the same batch.
    """
    batch = DecodeBatch(*(jnp.asarray(x, jnp.float64) for x in (n, kv_sum, kv_max)))
    attention_s, slope_s, valid_steps = decode_attention(model, batch, prompts)
    first_s = _shared_s(model, n, n) + attention_s
    steps = first_s, slope_s, valid_steps
    if (pim := model.times.pim) is not None:
        both_s, *rest = halved_decodes(pim, index_of(model), model.times.tokens_s, batch, prompts)
        go = pim.interleaved[index_of(model)] & (n > 1)
        first_s, slope_s, valid_steps = (jnp.where(go, x, y) for x, y in zip((_after(model, both_s, n), *rest), steps, strict=True))
        steps = first_s, slope_s, valid_steps
    if (weights := model.times.weights) is not None:
        lines_s = _streamed_s(model, n, n, attention_s)
        slopes_s = product(weights.layers[index_of(model)], slope_s)
        steps = largest(jnp.append(lines_s, first_s), jnp.append(slopes_s, slope_s), valid_steps)
    if model.times.launch_s is not None:
        steps = no_shorter(*steps, model.times.launch_s[index_of(model), 0])
    if model.times.stream_s is not None:
        steps = no_shorter(*steps, model.times.stream_s[index_of(model), n])
    return steps


def device_s(model: StepTimeRow, tokens: jax.Array, sequences: jax.Array, attention_s: jax.Array) -> jax.Array:
    """Seconds of a step in which the device works, collectives included: no time of the host, launching included, is part of it.

    tokens, sequences: integer scalars; attention_s: f64[]. The host's time of each sequence is left in.
    """
    c = index_of(model)
    return model.times.tokens_s[c, tokens] + model.times.sequences_s[c, sequences] + attention_s


def send_s(model: StepTimeRow, tokens: jax.Array) -> jax.Array:
    """Seconds in which the hidden states of the scheduled tokens (an integer scalar) reach the next pp stage, f64[]."""
    assert model.times.send_s is not None
    return model.times.send_s[index_of(model), tokens]


def longer_s(device_s: jax.Array, launch_s: jax.Array) -> jax.Array:
    """The longer of two times, smoothly: where they are nearly equal, some layers wait for the host and others do not.

    Decode-only steps take the plain maximum, for they must be affine over a leap.
    """
    longer, shorter = jnp.maximum(jnp.maximum(device_s, launch_s), LEAST_S), jnp.minimum(device_s, launch_s)
    square = product(shorter / longer, shorter / longer)
    both = product(product(square, square), square)
    return product(longer, jnp.exp(jnp.log1p(both) / 6.0))


def no_shorter(
    first_s: jax.Array, slope_s: jax.Array, valid_steps: jax.Array, least_s: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The steps, none of which is shorter than `least_s`: while they would be, all are alike."""
    bound, grows = first_s < least_s, slope_s > 0.0
    until = jnp.floor((least_s - first_s) / jnp.where(grows, slope_s, 1.0)) + 1.0
    alike = jnp.minimum(valid_steps, jnp.where(grows, jnp.clip(until, 1.0, ENDLESS), ENDLESS).astype(jnp.int32))
    return jnp.maximum(first_s, least_s), jnp.where(bound, 0.0, slope_s), jnp.where(bound, alike, valid_steps)


def _shared_s(model: StepTimeRow, tokens: jax.Array, sequences: jax.Array) -> jax.Array:
    return _after(model, model.times.tokens_s[index_of(model), tokens], sequences)


def _after(model: StepTimeRow, layers_s: jax.Array, sequences: jax.Array) -> jax.Array:
    """Seconds with what follows the layers: the sampler of so many sequences, and the host."""
    c = index_of(model)
    return layers_s + model.times.sequences_s[c, sequences] + model.times.host_s[c]


def _streamed_s(model: StepTimeRow, tokens: jax.Array, sequences: jax.Array, attention_s: jax.Array) -> jax.Array:
    """Seconds of a step by each way through the copies of its weights, f64[K]."""
    times, c = model.times, index_of(model)
    assert times.weights is not None
    ways = ways_s(times.weights, c, tokens, times.tokens_s[c, tokens], attention_s)
    return _after(model, ways, sequences)


def decode_attention(
    model: StepTimeRow, decodes: DecodeBatch, prompts: DecodeBatch | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention of consecutive decode-only steps: seconds of the first, what each later one takes longer, steps for which that holds."""
    steps = _decode_attention(model, decodes)
    if (pim := model.times.pim) is None:
        return steps
    there = attention_on_pim(pim, index_of(model), decodes, prompts)
    first_s, slope_s, valid = (jnp.where(pim.on[index_of(model)], x, y) for x, y in zip(there, steps, strict=True))
    return first_s, slope_s, valid


def _decode_attention(model: StepTimeRow, decodes: DecodeBatch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`decode_attention` on the device."""
    a, c, table = _coefficients(model), index_of(model), model.times.table
    if table is not None:
        steps = table_decode_s(table, c, a.decode_skew, decodes)
    else:
        steps = decode_attention_s(a, decodes), a.decode_kv_s * decodes.n, jnp.asarray(ENDLESS, jnp.int32)
    if model.times.windows is None:
        return steps
    windowed = windowed_decodes(_row(model, model.times.windows), a.decode_skew, decodes)
    return steps[0] + windowed[0], steps[1] + windowed[1], jnp.minimum(steps[2], windowed[2])


def _mixed_s(model: StepTimeRow, chunks: ChunkBatch, decodes: DecodeBatch) -> jax.Array:
    a, c, table = _coefficients(model), index_of(model), model.times.table
    mixed_s = mixed_attention_s(a, chunks, decodes) if table is None else table_mixed_s(table, c, a, chunks, decodes)
    if model.times.windows is None:
        return mixed_s
    return mixed_s + windowed_mixed_s(_row(model, model.times.windows), chunks, decodes)


def _coefficients(model: StepTimeRow) -> AttentionCoefficients:
    return _row(model, model.times.attention)


def _row(model: StepTimeRow, coefficients: _Coefficients) -> _Coefficients:
    c = index_of(model)
    return jax.tree.map(lambda leaf: leaf[c], coefficients)


def index_of(model: StepTimeRow) -> jax.Array | int:
    """The row of the model; a cluster with a single model needs no gather."""
    return 0 if model.times.host_s.shape[0] == 1 else model.index
