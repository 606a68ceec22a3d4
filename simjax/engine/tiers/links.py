"""Copies between device and tier: when they begin and end, and which a step has to wait for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.control.cond_any import cond_any
from simjax.engine.params import TierParams
from simjax.engine.rank import NEVER
from simjax.engine.tiers.table import BEGIN, NUMBER, REQUEST, SENT, STORES, UNTIL, TierTable
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

STORE_LINK, LOAD_LINK = 0, 1


def flushed(
    tiers: TierTable,
    i: Array | int,
    watched: Int32[Array, "Q 3"],
    count: Int32[Array, ""],
    victims: Int32[Array, " A"],
    closes: Bool[Array, ""],
) -> Bool[Array, " K"]:
    """Pieces of stores that a step waits for: those of preempted requests (int32[A], -1 for none), and those whose blocks it takes.

    Args:
        tiers: of all ranks.
        i: the rank.
        watched: blocks that the step has taken, with the request that has left them.
        count: number of these.
        victims: requests that were preempted.
        closes: whether the step is formed.
    """
    stores = tiers.busy(i) & (tiers.pieces[i, :, STORES] > 0)

    def work(pieces: Array, stores: Array, watched: Array, count: Array, victims: Array) -> Array:
        of, begin, end = watched[None, :, 0], watched[None, :, 1], watched[None, :, 2]
        valid = jnp.arange(watched.shape[0], dtype=jnp.int32)[None, :] < count
        taken = valid & (pieces[:, None, REQUEST] == of) & (pieces[:, None, BEGIN] < end) & (pieces[:, None, UNTIL] > begin)
        preempted = pieces[:, None, REQUEST] == victims[None, :]
        direct = stores & (jnp.any(taken, axis=1) | jnp.any(preempted, axis=1))
        same = pieces[:, None, NUMBER] == pieces[None, :, NUMBER]
        return stores & jnp.any(same & direct[None, :], axis=1)

    needed = closes & jnp.any(stores) & ((count > 0) | jnp.any(victims >= 0))
    return cond_any(needed, work, lambda pieces, stores, *_: jnp.zeros_like(stores), tiers.pieces[i], stores, watched, count, victims)


def sent(tiers: TierTable, params: TierParams, i: Array | int, which: Bool[Array, " K"], from_s: Array, link: int) -> TierTable:
    """The tiers once some pieces were handed to a link of the rank at a time, in the order of their copies."""
    rate = (params.store_bytes_per_s if link == STORE_LINK else params.load_bytes_per_s)[i]
    each_s = params.per_block_s[i] + params.block_bytes[i] / rate
    blocks, earlier, own = _in_order(tiers.pieces[i], which)
    seconds = lambda blocks, copies: product(blocks.astype(jnp.float64), each_s) + product(copies.astype(jnp.float64), params.setup_s[i])
    start_s = jnp.maximum(tiers.link_s[i, link], from_s) + seconds(blocks, earlier)
    landed_s = start_s + seconds(own, which)
    free_s = jnp.max(jnp.where(which, landed_s, -NEVER))
    tiers = dataclasses.replace(
        tiers,
        landed_s=tiers.landed_s.at[i].set(jnp.where(which, landed_s, tiers.landed_s[i])),
        link_s=tiers.link_s.at[i, link].max(free_s),
        pieces=tiers.pieces.at[i, :, SENT].set(jnp.where(which, 1, tiers.pieces[i, :, SENT])),
    )
    if link == STORE_LINK:
        return tiers
    request = jnp.where(which, tiers.pieces[i, :, REQUEST], tiers.requests.shape[0])
    between_s = jnp.stack([start_s, landed_s], axis=1)
    old = tiers.load_s.at[request].get(mode="fill", fill_value=0.0)
    return dataclasses.replace(tiers, load_s=tiers.load_s.at[request].set(jnp.where(jnp.isfinite(old), old, between_s), mode="drop"))


def _in_order(pieces: Int32[Array, "K 6"], which: Bool[Array, " K"]) -> tuple[Array, Array, Array]:
    """For each piece the blocks and the number of the copies before its own, of those that some pieces belong to; and its copy's blocks."""

    def work(pieces: Array, which: Array) -> tuple[Array, Array, Array]:
        number, begin = pieces[:, NUMBER], pieces[:, BEGIN]
        blocks = jnp.where(which, pieces[:, UNTIL] - begin, 0)
        same = which[None, :] & (number[None, :] == number[:, None])
        first = which & ~jnp.any(same & (begin[None, :] < begin[:, None]), axis=1)
        before = number[None, :] < number[:, None]
        total = lambda mask, values: jnp.sum(jnp.where(mask, values[None, :], 0), axis=1, dtype=jnp.int32)
        return total(before, blocks), total(before, first.astype(jnp.int32)), total(same, blocks)

    def nothing(pieces: Array, which: Array) -> tuple[Array, Array, Array]:
        none = jnp.zeros(which.shape, jnp.int32)
        return none, none, none

    return cond_any(jnp.any(which), work, nothing, pieces, which)


def renewed(tiers: TierTable, i: Array | int, closes: Bool[Array, ""]) -> TierTable:
    """The tiers when a formation ends: what it has offered may be sent from the next one on."""
    state = tiers.pieces[i, :, SENT]
    return dataclasses.replace(tiers, pieces=tiers.pieces.at[i, :, SENT].set(jnp.where(closes & (state < 0), 0, state)))
