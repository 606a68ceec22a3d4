"""Steps whose weights are streamed, as arrays: each way through copies and computations that may be the longest one is a line."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from simjax.latency.rounding import product


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeightTimes:
    """Least times of steps because of streamed weights, for C step-time models; leading axis C.

    Way k takes `copy_s[k] + layers[k] (time of all layers) + ends[k] (embedding, last norm, copies on demand)`, and after it the head; a
    step takes the longest way, or what it computes if that is longer. A row of zeros is that of a model which streams nothing.

    Attributes:
        copy_s: f64[C, K], seconds of copies on the way.
        layers: f64[C, K], share of the layers that are computed on it.
        ends: f64[C, K, 3], whether embedding, last norm and copies on demand are on it, 0 or 1.
        ends_s: f64[C, 3, T+1], seconds of these by number of scheduled tokens; all of them are a part of `StepTime.tokens_s` as well.
    """

    copy_s: jax.Array
    layers: jax.Array
    ends: jax.Array
    ends_s: jax.Array


def ways_s(times: WeightTimes, c: jax.Array | int, tokens: jax.Array, tokens_s: jax.Array, attention_s: jax.Array) -> jax.Array:
    """Seconds of all ways through a step up to its head, f64[K].

    Args:
        times: of C models.
        c: the model.
        tokens: scheduled tokens, an integer scalar.
        tokens_s: f64[], what the step computes for them.
        attention_s: f64[], of all layers.
    """
    ends_s = times.ends_s[c, :, tokens]
    layers_s = tokens_s - ends_s[0] - ends_s[1] + attention_s
    way = times.ends[c]
    return times.copy_s[c] + product(times.layers[c], layers_s) + sum(product(way[:, k], ends_s[k]) for k in range(3))
