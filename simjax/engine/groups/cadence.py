"""The cadence of prefills (vLLM's `prefill_schedule_interval`): forwards in between are left to those that decode."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.turn import Turn


def holds_prompts(turn: Turn, seated: Array) -> Array:
    """Whether prompts wait in this step: it is between two releases, and one of those with a seat (bool[A]) decodes; bool[]."""
    decoding = turn.rank.slots.decoding
    assert decoding is not None
    return turn.throttled & jnp.any(seated & decoding)


def waits_for_release(turn: Turn) -> Array:
    """Running requests that wait where prompts do, bool[A]; what this very formation has admitted, in an earlier tick, does not."""
    slots = turn.rank.slots
    assert slots.decoding is not None
    admitted = (turn.before.plan.steps == 0) & (slots.num_new_tokens > 0)
    return ~slots.decoding & ~admitted


def shared_out(need: Array, short: Array, last: Array, budget: Array) -> Array:
    """Tokens of the running requests, int32[A], of which so many are `short`: the last one gets less, or all in their order what is left.

    A prompt that waited may be followed by requests with a prompt of one token, which had not to wait.
    """
    position = jnp.arange(need.shape[0], dtype=jnp.int32)
    few = short > jnp.max(jnp.where(position == last, need, 0))
    return cond_any(few, _in_order, _last_short, need, short, last, budget)


def _last_short(need: Array, short: Array, last: Array, budget: Array) -> Array:
    return need - jnp.where(jnp.arange(need.shape[0], dtype=jnp.int32) == last, short, 0)


def _in_order(need: Array, short: Array, last: Array, budget: Array) -> Array:
    return jnp.clip(budget - (jnp.cumsum(need) - need), 0, need).astype(need.dtype)
