"""A request's way through the radix tree of contents (`simjax.workload.contents.prefixes`), in blocks of a rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.kv.blocks import full_blocks, nameable
from simjax.engine.params import ClusterParams, PrefixParams, RankParams

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32


class Path(NamedTuple):
    """The path of a request: a slice of `PrefixParams.nodes` from `offset` on; its first `shared` nodes are those of other requests too.

    What comes after these counts as one prefix node, the first of those that only this request has.
    """

    offset: Array
    shared: Array
    length: Array


class Place(NamedTuple):
    """A prefix node on a path: its number on the path, the node, and the block of the content at which it ends; int32[]."""

    depth: Array
    node: Array
    end: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RankTree:
    """The tree of contents as one rank cuts it into blocks.

    Attributes:
        tree, served: tables of the workloads, and row of the one that the cluster serves.
        rank: row of the rank in the tables of the KV caches.
        block_size, enabled: tokens of a block of the rank, and whether it caches prefixes.
        names_ahead: tokens after a block that its name covers too; None where drafts are not, and names cover none.
    """

    tree: PrefixParams
    served: Array | int
    rank: Array | int
    block_size: Int32[Array, ""]
    enabled: Bool[Array, ""]
    names_ahead: Int32[Array, ""] | None = None

    @staticmethod
    def of(params: ClusterParams, limits: RankParams, rank: Array | int) -> RankTree:
        """The tree for a rank with these limits."""
        tree = params.requests.prefix
        assert tree is not None
        return RankTree(tree, params.served, rank, limits.block_size, limits.enable_prefix_caching, limits.names_ahead)

    def path(self, request: Int32[Array, ""]) -> Path:
        """The path of a request; of the last one where there is no such request."""
        known = jnp.minimum(request, self.tree.offset.shape[1] - 1)
        return Path(*(x[self.served, known] for x in (self.tree.offset, self.tree.shared, self.tree.length)))

    def place(self, path: Path, depth: Array | int) -> Place:
        """A prefix node of a path, counted from the root; beyond its end the empty last node of the tree."""
        depth = jnp.asarray(depth, jnp.int32)
        node = self.tree.nodes[self.served, path.offset + jnp.minimum(depth, path.length - 1)]
        node = jnp.where(depth < path.length, node, self.tree.end_tokens.shape[1] - 1)
        return Place(depth, node, jnp.where(depth < path.shared, self._end(node), INT32_MAX))

    def reach(self, path: Path) -> Int32[Array, ""]:
        """Number of leading blocks of a content that are others' as well."""
        last = self.tree.nodes[self.served, path.offset + jnp.maximum(path.shared - 1, 0)]
        return jnp.where(self.enabled & (path.shared > 0), self._end(last), 0)

    def _end(self, node: Array) -> Array:
        tokens = self.tree.end_tokens[self.served, node]
        return full_blocks(nameable(tokens, self.names_ahead), self.block_size)

    def full(self, tokens: Array) -> Array:
        """Number of blocks with a name once the given tokens are computed and known, int32."""
        return jnp.where(self.enabled, full_blocks(tokens, self.block_size), 0)
