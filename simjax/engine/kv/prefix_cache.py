"""The KV cache of the ranks as the stages see it: with prefix caching, and without.

Both classes have the same methods, in vLLM's words: `get_computed_blocks` looks up what a waiting request would find, `allocate` lets
requests hold blocks, `free` takes them back, `evict` makes room. Without a prefix cache they do nothing, and their constants fold away.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.select import select
from simjax.engine.handover.rows import freed_rows, row_mask, table_of
from simjax.engine.kv.block_pool import BlockPool
from simjax.engine.kv.blocks import full_blocks
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.kv.prefix_tree import RankTree, longest_hit
from simjax.engine.kv.victims import blocks_freed, free_request, free_victims
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.shape import EngineShape
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.scheduler.waiting import Waiting
    from simjax.engine.turn import Turn


class Hits(NamedTuple):
    """Blocks that a waiting request would find: leading blocks of its content, and those among them that others hold already; int32[]."""

    found: Array | int
    shared: Array | int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoPrefixCache:
    """No prefix caching: requests hold their own blocks only, which come free with them."""

    window_only_first: ClassVar[bool] = False

    @staticmethod
    def no_holds(shape: EngineShape) -> NoHeldBlocks:
        """Blocks that the requests of an empty cluster share."""
        return NoHeldBlocks()

    def num_held(self, i: Array | int) -> int:
        """Blocks of rank i that requests share."""
        return 0

    def num_cached(self, i: Array | int) -> None:
        """`Plan.cached_blocks` of rank i."""
        return None

    def contents(self) -> None:
        """Cached blocks of every prefix node, for a router's view."""
        return None

    def missed_score(
        self, shape: EngineShape, params: ClusterParams, router: RouterParams, contents: Array | None, request: Array
    ) -> float:
        """Part of a router's score for the tokens of a request that are not cached."""
        return 0.0

    def missed_share(self, shape: EngineShape, params: ClusterParams, contents: Array | None, request: Array) -> float:
        """Share of a request's prompt that is not cached."""
        return 1.0

    def free(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the departed request has freed the blocks that it shared."""
        return turn

    def free_read(self, shape: EngineShape, params: ClusterParams, turn: Turn, read: Bool[Array, " K"]) -> Turn:
        """The turn once the prefill rank has freed the blocks of some rows of hand-overs."""
        return turn.with_state(handovers=freed_rows(table_of(turn.state), read))

    def touch_hits(
        self, shape: EngineShape, params: ClusterParams, turn: Turn, request: Array, row: Array, found: Array, wanted: Array
    ) -> Turn:
        """The turn once a request that loads its KV cache holds what it found."""
        return turn

    def after_loading(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, joins: Bool[Array, ""]) -> Turn:
        """The turn once a loaded request, if one has joined, holds its blocks in the cache."""
        return turn

    def freed_by_victims(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Partial:
        """Function () -> (seated bool[A], blocks int32[A]): blocks that come free with each seated request when all after it have left."""
        return Partial(lambda blocks: (blocks > 0, blocks), turn.demand.blocks)

    def after_preemption(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn) -> Turn:
        """The turn once the victims have freed what they shared, and the last running request holds what it will fill."""
        return turn

    def get_computed_blocks(self, shape: EngineShape, params: ClusterParams, turn: Turn, waiting: Waiting) -> Hits:
        """Blocks that the first waiting request would find."""
        return Hits(0, 0)

    def after_admission(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, hits: Hits, loads: Array) -> Turn:
        """The turn once the admitted request, if it does not load its KV cache, holds what it found and will fill."""
        return turn

    def log_columns(self, plan_cached: Array | None) -> dict[str, Array]:
        """Columns of `LeapLog`."""
        return {}

    def instance_columns(self) -> dict[str, Array]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefixCache:
    """Prefix caching in some ranks at least.

    The tables are large: they are not chosen between old and new where a rank is not due, but left alone.

    Attributes:
        pool: blocks of all ranks.
    """

    window_only_first: ClassVar[bool] = True  # what the next request finds depends on what the first one takes

    pool: BlockPool

    @staticmethod
    def no_holds(shape: EngineShape) -> HeldBlocks:
        """Blocks that the requests of an empty cluster share."""
        zero = jnp.zeros((shape.ranks, shape.seats), jnp.int32)
        return HeldBlocks(zero, zero, zero, zero).emptied()

    def num_held(self, i: Array | int) -> Int32[Array, ""]:
        """Blocks of rank i that requests share."""
        return self.pool.num_held[i]

    def num_cached(self, i: Array | int) -> Int32[Array, ""]:
        """`Plan.cached_blocks` of rank i."""
        return self.pool.num_free[i]

    def contents(self) -> Int32[Array, "N E"]:
        """Cached blocks of every prefix node, for a router's view."""
        return self.pool.blocks

    def missed_score(
        self,
        shape: EngineShape,
        params: ClusterParams,
        router: RouterParams,
        contents: Int32[Array, "N E"] | None,
        request: Int32[Array, ""],
    ) -> Float64[Array, " N"]:
        """Part of a router's score for the tokens of a request that are not in `contents` of each rank."""
        return product(router.prefix_weight, self.missed_share(shape, params, contents, request))

    def missed_share(
        self, shape: EngineShape, params: ClusterParams, contents: Int32[Array, "N E"] | None, request: Int32[Array, ""]
    ) -> Float64[Array, " N"]:
        """Share of a request's prompt that is not in `contents` of each rank.

        Contents are as after the last event of each rank: what requests decode is not seen before they leave.
        """
        prompt, tree = params.request("prompt_tokens", request), params.requests.prefix
        assert tree is not None

        def found(contents: Array, block_size: Array, enabled: Array) -> Array:
            path = RankTree(tree, params.served, 0, block_size, enabled).path(shape, request)
            return block_size * longest_hit(contents[path.node], path, full_blocks(prompt - 1, block_size))

        found_tokens = jax.vmap(found)(jnp.asarray(contents), params.ranks.block_size, params.ranks.enable_prefix_caching)
        return 1.0 - found_tokens.astype(jnp.float64) / prompt.astype(jnp.float64)

    def free(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the departed request has freed its blocks; the step waits for further departures, which are one a tick."""
        departed, tree = turn.departed, RankTree.of(params, turn.limits, turn.kv_row)
        assert isinstance(departed.held, HeldBlocks)
        wanted = departed.some & turn.due & ~departed.kept
        pool = free_request(shape, tree, self.pool, departed.request, departed.num_computed_tokens, departed.held, wanted)
        return turn.with_kv(PrefixCache(pool), waits=turn.waits | departed.more | ~turn.due)

    def free_read(self, shape: EngineShape, params: ClusterParams, turn: Turn, read: Bool[Array, " K"]) -> Turn:
        """The turn once the prefill rank has freed the blocks of some rows of hand-overs: of one a tick, the step waits for the others."""
        table, tree = table_of(turn.state), RankTree.of(params, turn.limits, turn.kv_row)
        row = jnp.argmin(jnp.where(read, table.request, INT32_MAX)).astype(jnp.int32)
        some = read[row]
        held = jax.tree.map(lambda x: x[row], table.prefill_held)
        pool = free_request(shape, tree, self.pool, table.request[row], table.computed_tokens[row], held, some)
        table = freed_rows(table, row_mask(shape, row, some))
        more = jnp.sum(read, dtype=jnp.int32) > 1
        return turn.with_state(handovers=table).with_kv(PrefixCache(pool), waits=turn.waits | more)

    def touch_hits(
        self, shape: EngineShape, params: ClusterParams, turn: Turn, request: Array, row: Array, found: Array, wanted: Array
    ) -> Turn:
        """The turn once a request that loads its KV cache, in a row of hand-overs, holds what it found; there is room for the rest."""
        table, tree = table_of(turn.state), RankTree.of(params, turn.limits, turn.kv_row)
        old = jax.tree.map(lambda x: x[row], table.decode_held)
        path = tree.path(shape, request, wanted)
        pool, held = self.pool.allocate(turn.kv_row, path, old, found, jnp.where(wanted, found, 0))
        mine = row_mask(shape, row, wanted)
        table = dataclasses.replace(table, decode_held=jax.tree.map(lambda x, new: jnp.where(mine, new, x), table.decode_held, held))
        room = jnp.where(turn.waits, INT32_MAX, turn.limits.num_blocks - turn.formation.blocks)
        return turn.with_state(handovers=table).with_kv(PrefixCache(pool.evict(turn.kv_row, room)))

    def after_loading(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, joins: Bool[Array, ""]) -> Turn:
        """The turn once a loaded request, if one has joined, holds its blocks in the cache."""
        tree = RankTree.of(params, turn.limits, turn.kv_row)
        return self._allocate(shape, tree, turn, before.rank.num_running, jnp.zeros((), jnp.int32), joins)

    def freed_by_victims(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Partial:
        """Function () -> (seated bool[A], blocks int32[A]): blocks that come free with each seated request when all after it have left."""
        tree, demand = RankTree.of(params, turn.limits, turn.kv_row), turn.demand
        return Partial(
            lambda tree, pool, slots, seated, rows: (seated, blocks_freed(shape, tree, pool, slots, seated, rows)),
            *(tree, self.pool, turn.rank.slots, demand.seated, turn.state.handovers.held_in(turn.kv_row)),
        )

    def after_preemption(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn) -> Turn:
        """The turn once the victims have freed their blocks, and the last running request holds what it will fill."""
        tree, demand, rank = RankTree.of(params, turn.limits, turn.kv_row), turn.demand, turn.rank
        stay, held = rank.num_running, before.rank.slots.held
        assert isinstance(held, HeldBlocks)
        pool = free_victims(shape, tree, self.pool, before.rank.slots, demand.seated, stay, before.rank.num_running)
        left = rank.slots.position >= stay
        computed = jnp.where(left, 0, rank.slots.num_computed_tokens)
        slots = dataclasses.replace(rank.slots, num_computed_tokens=computed, held=select(left, held.emptied(), held))
        turn = dataclasses.replace(turn, rank=dataclasses.replace(rank, slots=slots))
        running = demand.running[demand.last] & ~turn.waits
        return PrefixCache(pool)._allocate(shape, tree, turn, demand.last, jnp.zeros((), jnp.int32), running)

    def get_computed_blocks(self, shape: EngineShape, params: ClusterParams, turn: Turn, waiting: Waiting) -> Hits:
        """Blocks that the first waiting request would find; at least one of its tokens has to be computed."""
        tree, wanted = RankTree.of(params, turn.limits, turn.kv_row), waiting.exists[0] & ~waiting.passed[0]
        tree = dataclasses.replace(tree, enabled=tree.enabled & wanted)
        path = tree.path(shape, waiting.request[0])
        found = longest_hit(self.pool.blocks[turn.kv_row, path.node], path, tree.full(waiting.num_tokens[0] - 1))
        return Hits(found, found - self.pool.free_among_hits(turn.kv_row, path, found))

    def after_admission(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, hits: Hits, loads: Array) -> Turn:
        """The turn once the admitted request, if there is one and it does not load its KV cache, holds what it found and will fill."""
        tree = RankTree.of(params, turn.limits, turn.kv_row)
        admitted = turn.formation.seats > before.formation.seats
        # One that loads makes room once it has touched what it found (`touch_hits`).
        evicting = dataclasses.replace(turn, waits=turn.waits | loads) if shape.handovers else turn
        after = self._allocate(shape, tree, evicting, before.rank.num_running, jnp.asarray(hits.found), admitted)
        return dataclasses.replace(after, waits=turn.waits)

    def _allocate(self, shape: EngineShape, tree: RankTree, turn: Turn, at: Array, found: Array, wanted: Array) -> Turn:
        """Hash the blocks that the request in slot `at`, which found some (int32[]), will have filled by the end of the step; make room.

        There is then room for the blocks of the step being formed: for the running requests, or for the one that was admitted.
        """
        slots = turn.rank.slots
        held = jax.tree.map(lambda x: x[at], slots.held)
        full = jnp.where(wanted, tree.full(slots.num_computed_tokens[at] + slots.num_new_tokens[at]), 0)
        pool, held = self.pool.allocate(turn.kv_row, tree.path(shape, slots.request[at]), held, found, full)
        slots = dataclasses.replace(slots, held=jax.tree.map(lambda x, new: x.at[at].set(new), slots.held, held))
        room = jnp.where(turn.waits, INT32_MAX, turn.limits.num_blocks - turn.formation.blocks)
        return turn.with_kv(PrefixCache(pool.evict(turn.kv_row, room)), rank=dataclasses.replace(turn.rank, slots=slots))

    def log_columns(self, plan_cached: Array | None) -> dict[str, Array]:
        """Columns of `LeapLog`."""
        return {"cached_blocks": jnp.asarray(plan_cached)}

    def instance_columns(self) -> dict[str, Array]:
        """Columns of `InstanceLog`, with a leading axis N."""
        return {"evicted_blocks": self.pool.num_evicted}


def initial_kv(shape: EngineShape) -> PrefixCache | NoPrefixCache:
    """The KV caches of an empty cluster."""
    return PrefixCache(BlockPool.empty(shape)) if shape.prefix_nodes else NoPrefixCache()
