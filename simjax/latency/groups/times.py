"""What the ranks of a data-parallel mixture of experts do together in a step, as arrays: experts on the union of tokens, and exchanges."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

NONE, PIECEWISE, FULL = 0, 1, 2
"""CUDA graphs of a step: none, of all but attention, of all; ranks that step together have the least of theirs."""

NEVER = 2**30  # tokens that no step has


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GroupTimes:
    """Parts of a step that depend on the tokens of all ranks of a group, for C step-time models; leading axis C.

    Attributes:
        ranks: i32[C], data-parallel ranks of the group, D; 1 for a model that steps alone.
        fine_tokens: i32[C], tokens F up to which `experts_s` has an entry for each; beyond, one for every D-th.
        experts_s: f64[C, K+1], experts of all layers on the fullest rank, by tokens of the union; entry 0 is 0.
        exchange_s: f64[C, T+1], dispatch and combine of all layers, by tokens of the rank with the most; entry 0 is 0.
        token_s: f64[C], what each token of the union adds to that.
        round_tokens: i32[C], tokens of a rank that a layer dispatches, computes and combines in one round.
        graphs: i32[C, 2], CUDA graphs of a decode-only step and of another one, of a rank by itself.
        halves: i32[C, 2], tokens of the smallest rank from which decode-only steps and others are halved (dual-batch overlap).
        simplified: bool[C], whether ranks step together as LLMServingSim lets them: padded always, in all that counts rows.
    """

    ranks: jax.Array
    fine_tokens: jax.Array
    experts_s: jax.Array
    exchange_s: jax.Array
    token_s: jax.Array
    round_tokens: jax.Array
    graphs: jax.Array
    halves: jax.Array
    simplified: jax.Array


def union_s(times: GroupTimes, c: jax.Array | int, total: jax.Array, largest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Seconds of experts and of exchanges, f64[] both.

    Args:
        times: of C models.
        c: the model.
        total: tokens of the union, an integer scalar.
        largest: tokens of the rank with the most, an integer scalar.
    """
    rounds = -(-largest // times.round_tokens[c])
    rounds_s = rounds.astype(jnp.float64)
    total = total.astype(jnp.float64)
    experts_s = rounds_s * _experts_s(times, c, total / rounds_s)
    return experts_s, rounds_s * times.exchange_s[c, -(-largest // rounds)] + total * times.token_s[c]


def _experts_s(times: GroupTimes, c: jax.Array | int, total: jax.Array) -> jax.Array:
    """Seconds of the experts on so many tokens, any real number: linear between entries."""
    fine = times.fine_tokens[c].astype(jnp.float64)
    position = jnp.where(total <= fine, total, fine + (total - fine) / times.ranks[c].astype(jnp.float64))
    low = jnp.floor(position).astype(jnp.int32)
    weight, last = position - low.astype(jnp.float64), times.experts_s.shape[1] - 1
    return (1.0 - weight) * times.experts_s[c, low] + weight * times.experts_s[c, jnp.minimum(low + 1, last)]
