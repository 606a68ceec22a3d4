"""Steps whose decode attention is on memory that computes: what is left to the device, and steps that go in two halves.

In a step of two halves the device computes both, one after the other, and each waits for its own attention: one half's is in memory while
the device computes the other one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import DecodeBatch, step_batch
from simjax.latency.lines import largest
from simjax.latency.pim.times import PimTimes, half_of, pim_steps


class PimParts(NamedTuple):
    """Attention of a step's decodes in memory, and the decodes that are left to the device.

    Attributes:
        whole_s: f64[], seconds of all decodes; 0 where the model has its attention on the device.
        half_s: f64[], seconds of the larger half of them.
        left: the decodes of the device, which are all or none.
    """

    whole_s: jax.Array
    half_s: jax.Array
    left: DecodeBatch


def pim_parts(pim: PimTimes, c: jax.Array | int, new: jax.Array, decodes: DecodeBatch, prompts: jax.Array | None) -> PimParts:
    """The parts of a step with these decodes; `new` and `prompts` as of `simjax.latency.step_time.mixed_step_s`."""
    contexts = decodes
    if pim.prompts_only is not None and prompts is not None:
        of_prompts = step_batch(jnp.minimum(new, 1) * (new == 1), prompts)[1]
        contexts = _where(pim.prompts_only[c], of_prompts, decodes)
    whole_s, half_s = (jnp.where(pim.on[c], pim_steps(pim, c, x)[0], 0.0) for x in (contexts, half_of(contexts)))
    return PimParts(whole_s, half_s, DecodeBatch(*(jnp.where(pim.on[c], 0.0, x) for x in decodes)))


def attention_on_pim(
    pim: PimTimes, c: jax.Array | int, decodes: DecodeBatch, prompts: DecodeBatch | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention of consecutive decode-only steps: seconds of the first, what each later one takes longer, steps for which that holds."""
    if pim.prompts_only is None or prompts is None:
        return pim_steps(pim, c, decodes)
    held = pim.prompts_only[c]
    return pim_steps(pim, c, _where(held, prompts, decodes), jnp.where(held, 0.0, 1.0))


def halves_s(
    pim: PimTimes,
    c: jax.Array | int,
    tokens_s: jax.Array,
    tokens: jax.Array,
    chunks: jax.Array,
    attention_s: jax.Array,
    parts: PimParts,
) -> jax.Array:
    """Seconds of a step in two halves, without its host time and its sampler, f64[]. A chunk keeps all decodes together.

    Args:
        pim: of C models.
        c: the model.
        tokens_s: f64[C, T+1], of `StepTime`.
        tokens: scheduled tokens, an integer scalar.
        chunks: bool[], whether some are a chunk.
        attention_s: f64[], of chunks on the device and of decodes in memory.
        parts: of the step's decodes.
    """
    one_s, other_s = _computed(tokens_s, c, tokens)
    waiting_s = jnp.where(chunks, other_s + parts.whole_s, one_s + parts.half_s)
    return jnp.maximum(one_s + other_s + (attention_s - parts.whole_s), waiting_s)


def halved_decodes(
    pim: PimTimes, c: jax.Array | int, tokens_s: jax.Array, batch: DecodeBatch, prompts: DecodeBatch | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Consecutive decode-only steps in two halves, as lines, without host time and sampler: the larger half waits for its attention."""
    one_s, other_s = _computed(tokens_s, c, batch.n.astype(jnp.int32))
    half_s, slope_s, valid = attention_on_pim(pim, c, half_of(batch), None if prompts is None else half_of(prompts))
    return largest(jnp.stack([one_s + other_s, one_s + half_s]), jnp.stack([jnp.zeros_like(slope_s), slope_s]), valid)


def _computed(tokens_s: jax.Array, c: jax.Array | int, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Seconds that the device computes for each half of the tokens, the larger one first."""
    more = (tokens + 1) // 2
    return tokens_s[c, more], tokens_s[c, tokens - more]


def _where(held: jax.Array, one: DecodeBatch, other: DecodeBatch) -> DecodeBatch:
    return DecodeBatch(*(jnp.where(held, x, y) for x, y in zip(one, other, strict=True)))
