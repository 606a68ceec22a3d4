"""Copies between device and tier: when they begin and end, and which a step has to wait for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.params import TierParams
from simjax.engine.rank import NEVER
from simjax.engine.tiers.table import BEGIN, NUMBER, REQUEST, SENT, STORES, UNTIL, TierTable
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

STORE_LINK, LOAD_LINK = 0, 1


def flushed(
    tiers: TierTable, i: Array | int, watched: Int32[Array, "Q 3"], count: Int32[Array, ""], victims: Int32[Array, " A"]
) -> Bool[Array, " K"]:
    """Pieces of stores that a step waits for: those of preempted requests (int32[A], R for none), and those whose blocks it takes.

    Args:
        tiers: of all ranks.
        i: the rank.
        watched: blocks that the step has taken, with the request that has left them.
        count: number of these.
        victims: requests that were preempted.
    """
    pieces = tiers.pieces[i]
    stores = tiers.busy(i) & (pieces[:, STORES] > 0)
    of, begin, end = watched[None, :, 0], watched[None, :, 1], watched[None, :, 2]
    valid = jnp.arange(watched.shape[0], dtype=jnp.int32)[None, :] < count
    taken = valid & (pieces[:, None, REQUEST] == of) & (pieces[:, None, BEGIN] < end) & (pieces[:, None, UNTIL] > begin)
    preempted = pieces[:, None, REQUEST] == victims[None, :]
    direct = stores & (jnp.any(taken, axis=1) | jnp.any(preempted, axis=1))
    same = pieces[:, None, NUMBER] == pieces[None, :, NUMBER]
    return stores & jnp.any(same & direct[None, :], axis=1)


def sent(tiers: TierTable, params: TierParams, i: Array | int, which: Bool[Array, " K"], from_s: Array, link: int) -> TierTable:
    """The tiers once some pieces were handed to a link of the rank at a time, in the order of their copies."""
    pieces = tiers.pieces[i]
    number = pieces[:, NUMBER]
    blocks = (pieces[:, UNTIL] - pieces[:, BEGIN]).astype(jnp.float64)
    rate = (params.store_bytes_per_s if link == STORE_LINK else params.load_bytes_per_s)[i]
    each_s = params.per_block_s[i] + params.block_bytes[i] / rate
    same = which[None, :] & (number[None, :] == number[:, None])
    first = ~jnp.any(same & (pieces[None, :, BEGIN] < pieces[:, None, BEGIN]), axis=1)
    takes_s = jnp.where(which, product(blocks, each_s) + jnp.where(first, params.setup_s[i], 0.0), 0.0)
    earlier = number[None, :] < number[:, None]
    before_s = jnp.sum(jnp.where(earlier, takes_s[None, :], 0.0), axis=1)
    own_s = jnp.sum(jnp.where(same, takes_s[None, :], 0.0), axis=1)
    start_s = jnp.maximum(tiers.link_s[i, link], from_s)
    landed_s = start_s + before_s + own_s
    free_s = jnp.max(jnp.where(which, landed_s, -NEVER))
    tiers = dataclasses.replace(
        tiers,
        landed_s=tiers.landed_s.at[i].set(jnp.where(which, landed_s, tiers.landed_s[i])),
        link_s=tiers.link_s.at[i, link].max(free_s),
        pieces=tiers.pieces.at[i, :, SENT].set(jnp.where(which, 1, pieces[:, SENT])),
    )
    if link == STORE_LINK:
        return tiers
    request = jnp.where(which, pieces[:, REQUEST], tiers.requests.shape[0])
    times = jnp.stack([start_s + before_s, landed_s], axis=1)
    old = tiers.load_s.at[request].get(mode="fill", fill_value=0.0)
    return dataclasses.replace(tiers, load_s=tiers.load_s.at[request].set(jnp.where(jnp.isfinite(old), old, times), mode="drop"))


def renewed(tiers: TierTable, i: Array | int, closes: Bool[Array, ""]) -> TierTable:
    """The tiers when a formation ends: what it has offered may be sent from the next one on."""
    state = tiers.pieces[i, :, SENT]
    return dataclasses.replace(tiers, pieces=tiers.pieces.at[i, :, SENT].set(jnp.where(closes & (state < 0), 0, state)))
