"""Compile a measured profile bundle and a model's depth into a `StepTime`.

Kernel times of one layer, measured at some sizes, become seconds of the whole stack at every size: linear between measurements, held below
the smallest, and beyond the largest continued with the mean slope of the last octave. (The slope of the last two points is noise: 16 tokens
apart, it is between -1.3 and +0.2 times the true one for the matrix multiplications of the shipped bundles.)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from simjax.errors import SimjaxError
from simjax.latency.attention.coefficients import AttentionCoefficients, scaled
from simjax.latency.attention.fit import fit_attention, fit_decode_skew
from simjax.latency.attention.grid import attention_table
from simjax.latency.attention.table import AttentionTable
from simjax.latency.bundle import Bundle, Curve, MoePoints, op_sequence
from simjax.latency.profile import ValidRange
from simjax.latency.step_time import StepTime

ALLREDUCES_PER_LAYER = 2  # after o_proj and after the MLP


@dataclass(frozen=True)
class Stack:
    """What the compiler must know of a model beyond its bundle.

    activation_bytes: of one element of the hidden state. experts, experts_per_token: of a mixture-of-experts layer (0 for dense models).
    """

    layers: int
    hidden_size: int
    activation_bytes: float = 2.0
    experts: int = 0
    experts_per_token: int = 0


def compile_bundle(
    bundle: Bundle,
    stack: Stack,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    allreduce_s: Callable[[np.ndarray], np.ndarray] | None = None,
    host_s: float = 0.0,
    measured_attention: bool = True,
) -> StepTime:
    """The `StepTime` (C = 1) of one instance whose kernels are those of `bundle`; call it inside `jax.enable_x64(True)`.

    allreduce_s: seconds of an all-reduce, by bytes (an array), among the bundle's tensor-parallel ranks; needed if there are several.
    measured_attention: keep the measured attention table; False prices attention by the coefficients fitted to it.
    Raises SimjaxError when all-reduce cost or the number of experts is missing, or the bundle lacks an operator.
    """
    ops = op_sequence(bundle)
    if bundle.tensor_parallel_size > 1 and allreduce_s is None:
        raise SimjaxError(f"{bundle.path}: tensor_parallel_size {bundle.tensor_parallel_size} needs the cost of an all-reduce")
    if bundle.moe is not None and not 0 < stack.experts_per_token <= stack.experts:
        raise SimjaxError(f"{bundle.path}: a mixture-of-experts profile needs the model's number of experts and experts per token")
    tokens = np.arange(max_num_batched_tokens + 1)
    once_s = sum(at_sizes(bundle.dense[op], tokens) for op in ops.prologue + ops.head)
    layer_s = sum(_layer_op_s(bundle, op, stack, tokens) for op in ops.layer if op != "attention")
    if bundle.tensor_parallel_size > 1 and allreduce_s is not None:
        message_bytes = tokens * (stack.hidden_size * stack.activation_bytes)
        layer_s = layer_s + ALLREDUCES_PER_LAYER * allreduce_s(message_bytes)
    sequences = np.arange(max_num_seqs + 1)
    sequences_s = sum(at_sizes(bundle.per_sequence[op], sequences) for op in ops.per_sequence)
    coefficients, table = _stack_attention(bundle, stack.layers)
    arrays = {f: jnp.asarray([getattr(coefficients, f)], jnp.float64) for f in coefficients.__dataclass_fields__}
    return StepTime(
        tokens_s=jnp.asarray(np.where(tokens > 0, once_s + stack.layers * layer_s, 0.0)[None]),
        sequences_s=jnp.asarray(np.where(sequences > 0, sequences_s, 0.0)[None]),
        host_s=jnp.asarray([host_s], jnp.float64),
        attention=AttentionCoefficients(**arrays),
        table=AttentionTable(*(jnp.asarray(getattr(table, f)) for f in table.__dataclass_fields__)) if measured_attention else None,
    )


def valid_range(bundle: Bundle) -> ValidRange:
    """Tokens and sequences of a step at which every operator was measured, and contexts of the measured decodes."""
    context = bundle.attention.decode_kv[bundle.attention.decodes > 0]
    return ValidRange(_common(bundle.dense), _common(bundle.per_sequence), (int(context.min()), int(context.max())))


def _common(curves: dict[str, Curve]) -> tuple[int, int]:
    return int(max(curve.size[0] for curve in curves.values())), int(min(curve.size[-1] for curve in curves.values()))


def at_sizes(curve: Curve, sizes: np.ndarray) -> np.ndarray:
    """Seconds of a kernel at any size: linear between points, held below, continued with the slope of the last octave above."""
    seconds = np.interp(sizes, curve.size, curve.seconds)
    last = curve.size[-1]
    octave_s = curve.seconds[-1] - np.interp(0.5 * last, curve.size, curve.seconds)
    return seconds + np.maximum(sizes - last, 0.0) * max(octave_s, 0.0) / (0.5 * last)


def moe_s(points: MoePoints, tokens: np.ndarray, activated: np.ndarray) -> np.ndarray:
    """Seconds of the expert kernel of one layer, for `tokens` on the rank that activate so many distinct experts (any real number).

    Linear in tokens along each measured row of equal activated experts, then linear across rows; held below the fewest and beyond the most.
    """
    rows = np.unique(points.activated)
    by_row = []
    for experts in rows:
        mine = points.activated == experts
        order = np.argsort(points.tokens[mine])
        by_row.append(at_sizes(Curve(points.tokens[mine][order], points.seconds[mine][order]), tokens))
    seconds, position = np.stack(by_row), np.interp(activated, rows, np.arange(len(rows)))
    low = np.minimum(position.astype(int), max(len(rows) - 2, 0))
    weight, each = position - low, np.arange(len(tokens))
    return (1.0 - weight) * seconds[low, each] + weight * seconds[np.minimum(low + 1, len(rows) - 1), each]


def distinct_experts(tokens: np.ndarray, experts: int, experts_per_token: int) -> np.ndarray:
    """Expected number of distinct experts that so many tokens activate when each draws `experts_per_token` of `experts` evenly."""
    return experts * (1.0 - (1.0 - experts_per_token / experts) ** tokens)


def _layer_op_s(bundle: Bundle, op: str, stack: Stack, tokens: np.ndarray) -> np.ndarray:
    if op != "moe" or bundle.moe is None:
        return at_sizes(bundle.dense[op], tokens)
    # measured without tensor parallelism; ranks share every expert's columns evenly, and reading weights or multiplying them shrinks alike
    activated = distinct_experts(tokens, stack.experts, stack.experts_per_token)
    return moe_s(bundle.moe, tokens.astype(float), activated) / bundle.tensor_parallel_size


def _stack_attention(bundle: Bundle, layers: int) -> tuple[AttentionCoefficients, AttentionTable]:
    """Coefficients and table of all layers; the skew of decode-only steps is fitted wherever skewed batches were measured.

    `skew_profile.enabled` of meta.yaml only says whether LLMServingSim uses its buckets: the RTX 4090's skewed decodes are 5 % slower than
    equal ones whether or not that switch is on, and one coefficient removes the bias.
    """
    a, _ = fit_attention(bundle.attention)
    if bundle.skew is not None:
        alone = bundle.skew.chunk == 0
        a = replace(a, decode_skew=fit_decode_skew(bundle.skew.mean_s[alone], bundle.skew.longest_s[alone], bundle.skew.skewed_s[alone]))
    a = scaled(a, layers)
    return a, attention_table(bundle.attention._replace(seconds=bundle.attention.seconds * layers), a)
