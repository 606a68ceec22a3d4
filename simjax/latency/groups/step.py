"""The time of a step that ranks take together, from a record of fixed size into which the ranks are merged one after the other.

Ranks of a mixture of experts wait for each other in every layer. By vLLM's rules (`v1/worker/gpu/dp_utils.py`) they agree on the least of
their CUDA graphs; where they have any, all compute as many rows as the one with the most tokens, up to the next captured size. Then

    step = dense(rows) + longest attention + experts and exchanges of D * rows + head + host;

without graphs nobody pads, and step = max over ranks(dense(tokens) + attention) + experts and exchanges of all tokens + head + host. The
head is that of the rank with the most sequences. With dual-batch overlap a step that is large enough on every rank goes in two halves.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import ENDLESS, DecodeBatch
from simjax.latency.experts.dual_batch import layer_s
from simjax.latency.groups.times import NONE, GroupTimes, union_s
from simjax.latency.step_time import StepTimeRow, decode_attention, index_of, longer_s, mixed_parts, no_shorter
from simjax.network.stages import CAPTURE_SIZES

MOST_CAPTURED = CAPTURE_SIZES[-1]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Steps:
    """Consecutive steps of `first_s + slope_s * j` for j < valid, scalars."""

    first_s: jax.Array
    slope_s: jax.Array
    valid: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupStep:
    """A step of one rank, or of several that take it together; scalars.

    Attributes:
        tokens: scheduled tokens of all of them.
        largest, smallest: of the rank with the most, and the fewest.
        sequences: of the rank with the most.
        more_sequences: most sequences of a rank in excess of its tokens (0 or less), for LLMServingSim's padding.
        graph: least of their CUDA graphs.
        decodes: whether all of them only decode.
        attention: the longest.
        own: the longest dense part and attention of a rank, without padding.
        least_s: time that the longest takes to launch, or to send its KV cache.
    """

    tokens: jax.Array
    largest: jax.Array
    smallest: jax.Array
    sequences: jax.Array
    more_sequences: jax.Array
    graph: jax.Array
    decodes: jax.Array
    attention: Steps
    own: Steps
    least_s: jax.Array


def rank_step(
    model: StepTimeRow,
    new: jax.Array,
    computed: jax.Array,
    decoding: jax.Array | None = None,
    scheduled: jax.Array | int = 0,
    most_captured: jax.Array | int = MOST_CAPTURED,
) -> GroupStep:
    """The step of one rank: arguments as of `mixed_step_s`, and the most tokens for which a CUDA graph was captured.

    A rank with nothing scheduled takes part with a dummy of one token.
    """
    parts = mixed_parts(model, new, computed, decoding, scheduled)
    line = Steps(parts.attention_s, jnp.zeros_like(parts.attention_s), jnp.ones((), jnp.int32))
    tokens, sequences = jnp.maximum(parts.tokens, 1), jnp.maximum(parts.sequences, 1)
    return _of_rank(model, tokens, sequences, ~parts.chunks, line, most_captured)


def rank_decodes(
    model: StepTimeRow, n: jax.Array, kv_sum: jax.Array, kv_max: jax.Array, most_captured: jax.Array | int = MOST_CAPTURED
) -> GroupStep:
    """Consecutive decode-only steps of one rank, arguments as of `decode_steps`."""
    batch = DecodeBatch(*(jnp.asarray(x, jnp.float64) for x in (n, kv_sum, kv_max)))
    line = Steps(*decode_attention(model, batch))
    sequences = jnp.asarray(n, jnp.int32)
    return _of_rank(model, sequences, sequences, jnp.ones((), bool), line, most_captured)


def dummy_step(model: StepTimeRow, tokens: jax.Array | int = 1, most_captured: jax.Array | int = MOST_CAPTURED) -> GroupStep:
    """What a rank without work does while others step: a decode of a token, or of 1 + K of them with drafts, without contexts."""
    tokens = jnp.asarray(tokens, jnp.int32)
    nothing = jnp.zeros((), jnp.float64)
    line = Steps(nothing, nothing, jnp.asarray(ENDLESS, jnp.int32))
    return _of_rank(model, tokens, jnp.ones((), jnp.int32), jnp.ones((), bool), line, most_captured)


def merged(one: GroupStep, other: GroupStep) -> GroupStep:
    """The step of the ranks of both; of any order, up to how many steps are known to be `valid`."""
    most = lambda name: jnp.maximum(getattr(one, name), getattr(other, name))
    return GroupStep(
        tokens=one.tokens + other.tokens,
        largest=most("largest"),
        smallest=jnp.minimum(one.smallest, other.smallest),
        sequences=most("sequences"),
        more_sequences=most("more_sequences"),
        graph=jnp.minimum(one.graph, other.graph),
        decodes=one.decodes & other.decodes,
        attention=_longest(one.attention, other.attention),
        own=_longest(one.own, other.own),
        least_s=most("least_s"),
    )


def group_steps(model: StepTimeRow, step: GroupStep) -> Steps:
    """Steps that all ranks of a group take together, from the merged record of all of them, idle ones included."""
    times, c = model.times, index_of(model)
    group = times.group
    assert group is not None
    padded, rows = _padding(group, c, step)
    total = jnp.where(padded, group.ranks[c] * rows, step.tokens)
    alone = Steps(times.tokens_s[c, rows] + step.attention.first_s, step.attention.slope_s, step.attention.valid)
    own = jax.tree.map(lambda x, y: jnp.where(padded, x, y), alone, step.own)
    experts_s, exchange_s = union_s(group, c, total, rows)
    halved, halves_s = _halved(times.tokens_s[c], group, c, step)
    layers_s = jnp.where(halved, halves_s, own.first_s + experts_s + exchange_s)
    head = jnp.where(group.simplified[c], step.more_sequences + step.largest, step.sequences)
    first_s = layers_s + times.sequences_s[c, head] + times.host_s[c]
    slope_s, valid = jnp.where(halved, 0.0, own.slope_s), jnp.where(halved, 1, own.valid)
    if times.launch_s is None and times.stream_s is None:
        return Steps(first_s, slope_s, valid)
    decodes = no_shorter(first_s, slope_s, valid, step.least_s)
    others = longer_s(first_s, step.least_s), slope_s, valid
    return Steps(*(jnp.where(step.decodes, x, y) for x, y in zip(decodes, others, strict=True)))


def _of_rank(
    model: StepTimeRow,
    tokens: jax.Array,
    sequences: jax.Array,
    decodes: jax.Array,
    attention: Steps,
    most_captured: jax.Array | int,
) -> GroupStep:
    times, c = model.times, index_of(model)
    assert times.group is not None
    least_s = jnp.zeros((), jnp.float64)
    if times.launch_s is not None:
        least_s = jnp.where(decodes, times.launch_s[c, 0], times.launch_s[c, 1])
    if times.stream_s is not None:
        least_s = jnp.maximum(least_s, times.stream_s[c, tokens])
    graph = jnp.where(decodes, times.group.graphs[c, 0], times.group.graphs[c, 1])
    own = Steps(times.tokens_s[c, tokens] + attention.first_s, attention.slope_s, attention.valid)
    graph = jnp.where(tokens <= most_captured, graph, NONE)
    return GroupStep(tokens, tokens, tokens, sequences, sequences - tokens, graph, decodes, attention, own, least_s)


def _longest(one: Steps, other: Steps) -> Steps:
    """The longer of two lines at the first step, for as many steps as it surely stays so."""
    first = (one.first_s > other.first_s) | ((one.first_s == other.first_s) & (one.slope_s >= other.slope_s))
    long = jax.tree.map(lambda x, y: jnp.where(first, x, y), one, other)
    short = jax.tree.map(lambda x, y: jnp.where(first, y, x), one, other)
    faster = short.slope_s > long.slope_s
    until = jnp.floor((long.first_s - short.first_s) / jnp.where(faster, short.slope_s - long.slope_s, 1.0)) + 1.0
    alike = jnp.where(faster, jnp.clip(until, 1.0, ENDLESS), ENDLESS).astype(jnp.int32)
    return Steps(long.first_s, long.slope_s, jnp.minimum(jnp.minimum(one.valid, other.valid), alike))


def _padding(group: GroupTimes, c: jax.Array | int, step: GroupStep) -> tuple[jax.Array, jax.Array]:
    """Whether all ranks compute as many rows, and the rows of the rank with the most."""
    graphs, simplified = step.graph > NONE, group.simplified[c]
    return graphs | simplified, jnp.where(graphs & ~simplified, captured(step.largest), step.largest)


def captured(tokens: jax.Array) -> jax.Array:
    """The captured size of a step of so many tokens, as many or more (`CAPTURE_SIZES`)."""
    small = jnp.where(tokens > 2, 4, tokens)
    large = jnp.where(tokens <= 248, -(-tokens // 8) * 8, -(-tokens // 16) * 16)
    return jnp.where(tokens <= 4, small, large)


def _halved(dense_s: jax.Array, group: GroupTimes, c: jax.Array | int, step: GroupStep) -> tuple[jax.Array, jax.Array]:
    """Whether a step is taken in two halves that overlap, and the seconds of its layers then: all ranks have the rows of the largest."""
    rows = jnp.where(step.graph > NONE, captured(step.largest), step.largest)
    half = -(-rows // 2)
    halved = (step.smallest >= jnp.where(step.decodes, group.halves[c, 0], group.halves[c, 1])) & (step.smallest > rows // 2)
    experts_s, exchange_s = union_s(group, c, group.ranks[c] * half, half)
    return halved, layer_s(dense_s[half] + 0.5 * step.attention.first_s, 0.5 * exchange_s, experts_s, 0.5 * exchange_s, jnp)
