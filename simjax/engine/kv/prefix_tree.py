"""A request's way through the radix tree of contents (`simjax.workload.contents.prefixes`), in blocks of a rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import reduce_slots
from simjax.engine.kv.blocks import blocks_of, full_blocks
from simjax.engine.params import ClusterParams, PrefixParams, RankParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixPath:
    """The path of a request through the tree, root first; empty prefix nodes past its end.

    Attributes:
        node: its prefix nodes.
        begin, size: place of the first block of each in the content, and number of blocks.
    """

    node: Int32[Array, " P"]
    begin: Int32[Array, " P"]
    size: Int32[Array, " P"]

    def within(self, blocks: Int32[Array, ""]) -> Int32[Array, " P"]:
        """Number of the leading blocks of the content that lie in each prefix node."""
        return jnp.clip(blocks - self.begin, 0, self.size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankTree:
    """The tree of contents as one rank cuts it into blocks.

    Attributes:
        tree, served: tables of the workloads, and row of the one that the cluster serves.
        rank: number of the rank.
        block_size, enabled: tokens of a block of the rank, and whether it caches prefixes.
    """

    tree: PrefixParams
    served: Array | int
    rank: Array | int
    block_size: Int32[Array, ""]
    enabled: Bool[Array, ""]

    @staticmethod
    def of(params: ClusterParams, limits: RankParams, rank: Array | int) -> RankTree:
        """The tree for a rank with these limits."""
        tree = params.requests.prefix
        assert tree is not None
        return RankTree(tree, params.served, rank, limits.block_size, limits.enable_prefix_caching)

    def path(self, shape: EngineShape, request: Int32[Array, ""], wanted: Array | bool = True) -> PrefixPath:
        """The path of a request; an empty one where it is not wanted, and in a rank that does not cache."""
        tree, served = self.tree, jnp.asarray(self.served, jnp.int32)
        known = jnp.minimum(request, shape.requests - 1)
        node = jax.lax.dynamic_slice(tree.nodes, (served, tree.offset[served, known]), (1, shape.prefix_path))[0]
        inside = (jnp.arange(shape.prefix_path, dtype=jnp.int32) < tree.length[served, known]) & (self.enabled & wanted)
        node = jnp.where(inside, node, shape.prefix_nodes - 1)
        begin = full_blocks(tree.start_tokens[served, node], self.block_size)
        return PrefixPath(node, begin, full_blocks(tree.end_tokens[served, node], self.block_size) - begin)

    def full(self, tokens: Array) -> Array:
        """Number of blocks with a hash once the given tokens are computed, int32."""
        return jnp.where(self.enabled, full_blocks(tokens, self.block_size), 0)

    def unfinished(self, tokens: Array) -> Array:
        """Number of blocks without one, 0 or 1, int32."""
        return jnp.where(self.enabled, blocks_of(tokens, self.block_size) - full_blocks(tokens, self.block_size), 0)


def longest_hit(cached: Int32[Array, " P"], path: PrefixPath, most: Int32[Array, ""]) -> Int32[Array, ""]:
    """Number of leading blocks of a content that are in a cache, at most `most`; `cached` are those of the path's prefix nodes."""
    P = path.size.shape[0]
    j = jnp.arange(P, dtype=jnp.int32)
    _, _, (last,) = reduce_slots(minima=[jnp.where(cached < path.size, j, P)])
    return jnp.minimum(jnp.sum(jnp.where(j <= last, cached, 0), dtype=jnp.int32), most)
