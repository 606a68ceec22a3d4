"""The slots of an engine and its prefix cache: what the requests in them hold, take and give back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.while_any import while_any
from simjax.engine.kv.blocks import blocks_of, full_blocks
from simjax.engine.kv.prefix_cache import Path, found_blocks, free_part, hold, path_of, release
from simjax.engine.params import ClusterParams, PrefixParams, RankParams
from simjax.engine.rank import NO_COPY, Holding, Slots
from simjax.engine.shape import EngineShape
from simjax.engine.state import PrefixCache

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Caching:
    """One engine among the caches.

    Attributes:
        tree, served: the tables of the workloads, and the row of the one that is served.
        i: the engine.
        block_size, enabled: of the engine.
    """

    tree: PrefixParams
    served: Array | int
    i: Array | int
    block_size: Int32[Array, ""]
    enabled: Bool[Array, ""]

    @staticmethod
    def of(params: ClusterParams, limits: RankParams, i: Array | int) -> Caching:
        assert params.requests.prefix is not None
        return Caching(params.requests.prefix, params.served, i, limits.block_size, limits.enable_prefix_caching)

    def path(self, shape: EngineShape, request: Array) -> Path:
        """The path of a request, int32[]; an engine that does not cache sees an empty one."""
        return path_of(shape, self.tree, self.served, request, self.block_size, self.enabled)

    def full(self, tokens: Array) -> Array:
        """Blocks with a name once the given tokens are computed, int32."""
        return jnp.where(self.enabled, full_blocks(tokens, self.block_size), 0)

    def unfinished(self, tokens: Array) -> Array:
        """Blocks without one, 0 or 1, int32."""
        return jnp.where(self.enabled, blocks_of(tokens, self.block_size) - full_blocks(tokens, self.block_size), 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hits:
    """What a waiting request would find: leading blocks of its content, and those among them that others hold already; int32[]."""

    found: Int32[Array, ""]
    shared: Int32[Array, ""]


def nothing(holding: Holding) -> Holding:
    """The same requests when they hold nothing."""
    zero = jnp.zeros_like(holding.named)
    return dataclasses.replace(holding, named=zero, copy_at=jnp.full_like(zero, NO_COPY), copy_blocks=zero)


def hits(shape: EngineShape, caching: Caching, cache: PrefixCache, request: Array, tokens: Array) -> Hits:
    """For a request (int32[]) with so many tokens; at least one of them has to be computed."""
    path = caching.path(shape, request)
    found = found_blocks(cache.blocks[caching.i, path.node], path, caching.full(tokens - 1))
    return Hits(found, found - free_part(cache, caching.i, path, found))


def grow(
    shape: EngineShape, caching: Caching, cache: PrefixCache, slots: Slots, at: Array, found: Array, wanted: Array
) -> tuple[PrefixCache, Slots]:
    """Name the blocks that the request in slot `at`, which found some (int32[]), will have filled by the end of the step being formed."""
    assert slots.holding is not None
    mine = jax.tree.map(lambda x: x[at], slots.holding)
    full = jnp.where(wanted, caching.full(slots.computed[at] + slots.new[at]), 0)
    cache, mine = hold(shape, cache, caching.i, caching.path(shape, slots.request[at]), mine, found, full)
    return cache, dataclasses.replace(slots, holding=jax.tree.map(lambda x, new: x.at[at].set(new), slots.holding, mine))


def give_back(
    shape: EngineShape, caching: Caching, cache: PrefixCache, request: Array, computed: Array, mine: Holding, wanted: Array
) -> PrefixCache:
    """Release all that a request holds after `computed` tokens, int32[]; nothing where it is not wanted, bool[]."""
    path = dataclasses.replace(caching, enabled=caching.enabled & wanted).path(shape, request)
    full, unfinished = (jnp.where(wanted, f(computed), 0) for f in (caching.full, caching.unfinished))
    mine = jax.tree.map(lambda x, none: jnp.where(wanted, x, none), mine, nothing(mine))
    return release(shape, cache, caching.i, path, mine, full, unfinished)


def paid_blocks(shape: EngineShape, caching: Caching, cache: PrefixCache, slots: Slots, counted: Array) -> Array:
    """Blocks that come free with each of the `counted` (bool[S+W]) when all after it have gone, once the step runs; int32[S+W].

    What several requests hold counts for the first of them.
    """
    holding = slots.holding
    assert holding is not None
    position = jnp.arange(counted.shape[0], dtype=jnp.int32)
    paths = jax.vmap(lambda request: caching.path(shape, request))(slots.request)
    held = jax.vmap(Path.within)(paths, holding.named + holding.copy_blocks) > 0
    held &= counted[:, None] & (jnp.arange(shape.prefix_path) != holding.copy_at[:, None])
    nobody = jnp.full((shape.prefix_nodes,), counted.shape[0], jnp.int32)
    first = nobody.at[paths.node].min(jnp.where(held, position[:, None], counted.shape[0]))
    pays = held & (first[paths.node] == position[:, None])
    shared = jnp.sum(jnp.where(pays, cache.blocks[caching.i, paths.node], 0), axis=1, dtype=jnp.int32)
    own = blocks_of(slots.computed + slots.new, caching.block_size) - holding.named
    return jnp.where(counted, own + shared, 0)


def give_back_victims(
    shape: EngineShape, caching: Caching, cache: PrefixCache, slots: Slots, counted: Array, stay: Array, n: Array
) -> PrefixCache:
    """Release what the `counted` requests (bool[S+W]) in slots [stay, n) hold, from the tail, as vLLM preempts them."""

    def needed(state: tuple[PrefixCache, Array], caching: Caching, slots: Slots, counted: Array, stay: Array) -> Array:
        return state[1] > stay

    def body(state: tuple[PrefixCache, Array], caching: Caching, slots: Slots, counted: Array, stay: Array) -> tuple[PrefixCache, Array]:
        cache, end = state  # the end of the slots that are left
        at = jnp.maximum(end - 1, 0)
        mine = jax.tree.map(lambda x: x[at], slots.holding)
        cache = give_back(shape, caching, cache, slots.request[at], slots.computed[at], mine, counted[at] & (end > stay))
        return cache, jnp.maximum(end - 1, stay)

    cache, _ = while_any(needed, body, (cache, jnp.maximum(n, stay)), caching, slots, counted, stay)
    return cache
