"""Decode attention on memory that computes, as arrays.

Each request is cut by KV heads into pieces, one a channel. Pieces of all requests are placed on channels, longest context first, each on
the one with the fewest tokens, and channels work side by side. So with n requests the fullest channel has r = ceil(n pieces / channels) of
them, and attention takes r (constant + tokens of a mean context), or as long as the longest request alone. That is exact where all contexts
are equal and where every piece has a channel of its own, and it approaches an even spread as requests get many.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from simjax.latency.attention.coefficients import DecodeBatch
from simjax.latency.lines import largest
from simjax.latency.rounding import product


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PimTimes:
    """Decode attention of C step-time models; leading axis C.

    Attributes:
        on: bool[C], whether decode attention is on this memory.
        pieces: f64[C], pieces of a request.
        channels: f64[C], channels of a rank.
        token_s: f64[C], seconds of a piece in all layers for each token of context.
        sequence_s: f64[C], seconds of a piece in all layers, whatever the context.
        send_s: f64[C], seconds in which queries, keys, values and results of a request pass the link, all layers.
        interleaved: bool[C], whether steps go in two halves.
        prompts_only: bool[C], whether contexts are taken as long as their prompts; None where they are in no model.
    """

    on: jax.Array
    pieces: jax.Array
    channels: jax.Array
    token_s: jax.Array
    sequence_s: jax.Array
    send_s: jax.Array
    interleaved: jax.Array
    prompts_only: jax.Array | None = None


def pim_steps(
    times: PimTimes, c: jax.Array | int, d: DecodeBatch, grows: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Attention of consecutive decode-only steps: seconds of the first, what each later one takes longer, steps for which that holds.

    Args:
        times: of C models.
        c: the model.
        d: the decodes of the first step.
        grows: tokens by which each context grows in a step.
    """
    deep = jnp.ceil(d.n * times.pieces[c] / times.channels[c])
    each_s, token_s = times.sequence_s[c], times.token_s[c]
    mean = d.kv_sum / jnp.maximum(d.n, 1.0)
    alone_s, stacked_s = each_s + product(token_s, d.kv_max), product(deep, each_s + product(token_s, mean))
    slopes_s = jnp.stack([token_s, product(deep, token_s)]) * grows
    valid = jnp.asarray(2**30, jnp.int32)
    first_s, slope_s, valid = largest(jnp.stack([alone_s, stacked_s]), slopes_s, valid)
    some = d.n > 0
    return jnp.where(some, first_s + product(times.send_s[c], d.n), 0.0), jnp.where(some, slope_s, 0.0), valid


def half_of(d: DecodeBatch) -> DecodeBatch:
    """The larger half of the decodes of a step, with contexts like those of all."""
    n = jnp.ceil(d.n / 2.0)
    return DecodeBatch(n, d.kv_sum * (n / jnp.maximum(d.n, 1.0)), d.kv_max)
