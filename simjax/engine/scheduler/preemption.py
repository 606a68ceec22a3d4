"""Preemption: running requests that the KV cache cannot hold leave from the tail, to be computed again."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.control.reduce import reduce_slots
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

_SLOTS = ("num_computed_tokens", "num_new_tokens", "preemptions")
_RANK = ("num_running", "num_preempted")
_FORMATION = ("token_budget", "seats", "blocks", "preempted")


def preempt(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Preempt from the tail what the KV cache cannot hold.

    A victim frees only blocks that nothing before it in the slots holds, so the survivors are the longest prefix that fits. A request that
    finished unseen can be a victim like any other: its blocks are free for good, and the formation admits no request, as after any
    preemption.
    """
    demand, capacity = turn.demand, turn.limits.num_blocks
    needed = (turn.formation.blocks > capacity) & ~turn.waits
    turn, rest = turn.kv.without_victims(shape, params, turn, needed)
    seated = demand.seated if rest is not None else demand.blocks > 0
    operands = (rest, capacity, seated, demand.blocks, demand.running, _changeable(turn))
    changed = cond_any(needed, partial(_without_victims, shape), _unchanged, *operands)
    return turn.kv.after_preemption(shape, params, _with_changes(turn, changed))


def _changeable(turn: Turn) -> dict[str, Array]:
    """The arrays that a preemption changes."""
    records = ((turn.rank.slots, _SLOTS), (turn.rank, _RANK), (turn.formation, _FORMATION))
    return {name: getattr(record, name) for record, names in records for name in names}


def _with_changes(turn: Turn, changed: dict[str, Array]) -> Turn:
    slots = dataclasses.replace(turn.rank.slots, **{name: changed[name] for name in _SLOTS})
    rank = dataclasses.replace(turn.rank, slots=slots, **{name: changed[name] for name in _RANK})
    formation = dataclasses.replace(turn.formation, **{name: changed[name] for name in _FORMATION})
    return dataclasses.replace(turn, rank=rank, formation=formation)


def _unchanged(
    rest: tuple[Array, Array] | None, capacity: Array, seated: Array, blocks: Array, running: Array, now: dict[str, Array]
) -> dict[str, Array]:
    return now


def _without_victims(
    shape: EngineShape,
    rest: tuple[Array, Array] | None,
    capacity: Array,
    seated: Array,
    blocks: Array,
    running: Array,
    now: dict[str, Array],
) -> dict[str, Array]:
    """The arrays once those in the tail have left that do not fit.

    Args:
        shape: of the cluster.
        rest: with a prefix cache, the end of the slots that stay and the blocks that no slot has by itself, int32[]; None without.
        capacity: blocks of the rank, int32[].
        seated: requests that have blocks, bool[A].
        blocks: those of each, with a prefix cache without those that it holds through it, int32[A].
        running: requests that run, bool[A].
        now: arrays of `_changeable`.
    """
    position = jnp.arange(blocks.shape[0], dtype=jnp.int32)
    if rest is not None:
        stay, others = rest
    else:
        # Blocks that no seated request would free: those of requests on their way between ranks.
        others = now["blocks"] - jnp.sum(blocks, dtype=jnp.int32) if shape.handovers else 0
        too_many = seated & (jnp.cumsum(blocks) > capacity - others)
        _, _, (stay,) = reduce_slots(minima=[jnp.where(too_many, position, now["num_running"])])
    out = seated & (position >= stay)
    victim = running & out
    new = now["num_new_tokens"]
    (num_out, unspent, kept), _, _ = reduce_slots([out, jnp.where(victim, new, 0), jnp.where(out, 0, blocks)])
    return {
        "num_computed_tokens": jnp.where(victim, 0, now["num_computed_tokens"]),
        "num_new_tokens": jnp.where(victim, 0, new),
        "preemptions": now["preemptions"] + out.astype(jnp.int32),
        "num_running": stay,
        "num_preempted": now["num_preempted"] + now["num_running"] - stay,
        "token_budget": now["token_budget"] + unspent,
        "seats": now["seats"] - num_out,
        "blocks": kept + others,
        "preempted": num_out,
    }
