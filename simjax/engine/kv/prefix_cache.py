"""The KV cache of the ranks as the stages see it, with prefix caching. Its methods are those of `NoPrefixCache`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.control.select import select
from simjax.engine.handover.rows import freed_rows, row_mask, table_of
from simjax.engine.kv.block_pool import BOOKS, BlockPool
from simjax.engine.kv.blocks import full_blocks, nameable
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.kv.holding import name
from simjax.engine.kv.lookup import Contents, look_up
from simjax.engine.kv.no_prefix_cache import Hits, NoPrefixCache
from simjax.engine.kv.prefix_tree import RankTree
from simjax.engine.kv.touch import touch
from simjax.engine.kv.victims import Asking, Scanned, Victim, free_request, free_scanned, free_victims
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.pipeline.flight import Flight
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import Drafts
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.scheduler.waiting import Waiting
    from simjax.engine.turn import Turn


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
        return HeldBlocks(*(jnp.zeros((shape.ranks, shape.seats), jnp.int32) for _ in dataclasses.fields(HeldBlocks)))

    def num_held(self, i: Array | int) -> Int32[Array, ""]:
        """Blocks of rank i that requests share."""
        return self.pool.book(i, "num_held")

    def num_cached(self, i: Array | int) -> Int32[Array, ""]:
        """`Plan.cached_blocks` of rank i."""
        return self.pool.book(i, "num_free")

    def contents(self) -> Contents:
        """What a router sees of the caches."""
        return Contents(self.pool.runs, self.pool.nodes)

    def short(self) -> Bool[Array, ""]:
        """Whether a table was too small."""
        return jnp.any(self.pool.books[:, BOOKS.index("short")] > 0)

    def missed_score(
        self,
        shape: EngineShape,
        params: ClusterParams,
        router: RouterParams,
        contents: Contents | None,
        request: Int32[Array, ""],
        wanted: Bool[Array, ""],
    ) -> Float64[Array, " N"]:
        """Part of a router's score for the tokens of a request that are not in `contents` of each rank, if that is wanted."""
        return product(router.prefix_weight, self.missed_share(shape, params, contents, request, wanted & (router.prefix_weight != 0)))

    def missed_share(
        self, shape: EngineShape, params: ClusterParams, contents: Contents | None, request: Int32[Array, ""], wanted: Bool[Array, ""]
    ) -> Float64[Array, " N"]:
        """Share of a request's prompt that is not in `contents` of each rank; 1 if it is not wanted.

        Contents are as after the last event of each rank: what requests have decoded since is not seen.
        """
        prompt, tree = params.request("prompt_tokens", request), params.requests.prefix
        assert tree is not None and contents is not None

        def found(i: Array, block_size: Array, enabled: Array, names_ahead: Array | None) -> Array:
            most = full_blocks(prompt - 1, block_size)
            blocks, _ = look_up(RankTree(tree, params.served, i, block_size, enabled, names_ahead), contents, request, most, wanted)
            return block_size * blocks

        ranks, limits = jnp.arange(shape.ranks, dtype=jnp.int32), params.ranks
        found_tokens = jax.vmap(found)(ranks, limits.block_size, limits.enable_prefix_caching, limits.names_ahead)
        return 1.0 - found_tokens.astype(jnp.float64) / prompt.astype(jnp.float64)

    def name_computed(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the blocks that requests have filled have their names, as far as their tokens are known at the turn's horizon.

        The latest token of a request may be in flight. A decode that followed one that was in flight has then named all before that; of
        other steps the formation knew all tokens. The blocks that the plan has taken are not free any more.

        Between pp stages computed tokens count from the call that schedules them on, and so may be ahead of the known ones. What a batch
        has taken was taken by that call.
        """
        rank, slots, plan = turn.rank, turn.rank.slots, turn.rank.plan
        held = slots.held
        assert isinstance(held, HeldBlocks)
        seated = (slots.position < rank.num_running) & turn.due
        in_flight = jnp.isfinite(slots.token_s) & (slots.token_s > plan.horizon_s)
        computed = slots.num_computed_tokens
        staged = isinstance(slots.flight, Flight)
        if staged:
            known = jnp.minimum(computed, slots.num_tokens - 1)
        else:
            known = jnp.where(in_flight, jnp.where(plan.steps > 1, computed - 1, 0), computed)
        held = dataclasses.replace(held, named_tokens=jnp.where(seated, jnp.maximum(held.named_tokens, known), held.named_tokens))
        if staged:
            return self._named(turn, params, held, seated, ahead=jnp.zeros_like(computed))
        after = self._named(turn, params, held, seated, ahead=computed)  # who has more tokens has named equal blocks in an earlier step
        ran = turn.due & (plan.steps > 0)
        room = jnp.where(ran, turn.limits.num_blocks - turn.emitted.blocks_last, INT32_MAX)
        return after.with_kv(PrefixCache(_cache_of(after).pool.evict(turn.kv_row, room)))

    def free(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the departed request has freed its blocks; the step waits for further departures, which are one a tick."""
        departed, tree = turn.departed, RankTree.of(params, turn.limits, turn.kv_row)
        assert isinstance(departed.held, HeldBlocks)
        wanted, computed = departed.some & turn.due & ~departed.kept, departed.num_computed_tokens
        reading = turn.state.tiers.reading(turn.i, departed.request, tree.full(_prompt(params, departed.request)))
        pool = free_request(tree, self.pool, turn.limits, departed.request, departed.blocks, computed, departed.held, wanted, reading)
        return turn.with_kv(PrefixCache(pool), waits=turn.waits | departed.more | ~turn.due)

    def free_read(self, shape: EngineShape, params: ClusterParams, turn: Turn, read: Bool[Array, " K"]) -> Turn:
        """The turn once the prefill rank has freed the blocks of some rows of hand-overs: of one a tick, the step waits for the others."""
        table, tree = table_of(turn.state), RankTree.of(params, turn.limits, turn.kv_row)
        row = jnp.argmin(jnp.where(read, table.request, INT32_MAX)).astype(jnp.int32)
        some = read[row]
        held = jax.tree.map(lambda x: x[row], table.prefill_held)
        computed, blocks = table.computed_tokens[row], table.prefill_blocks[row] + held.hashed
        pool = free_request(tree, self.pool, turn.limits, table.request[row], blocks, computed, held, some)
        table = freed_rows(table, row_mask(shape, row, some))
        more = jnp.sum(read, dtype=jnp.int32) > 1
        return turn.with_state(handovers=table).with_kv(PrefixCache(pool), waits=turn.waits | more)

    def touch_hits(
        self, shape: EngineShape, params: ClusterParams, turn: Turn, request: Array, row: Array, found: Array, wanted: Array
    ) -> Turn:
        """The turn once a request that loads its KV cache, in a row of hand-overs, holds what it found; there is room for the rest."""
        table, tree = table_of(turn.state), RankTree.of(params, turn.limits, turn.kv_row)
        old = jax.tree.map(lambda x: x[row], table.decode_held)
        pool, held = touch(tree, self.pool, request, jnp.where(wanted, found, 0))
        held = dataclasses.replace(held, cached_tokens=old.cached_tokens)
        mine = row_mask(shape, row, wanted)
        table = dataclasses.replace(table, decode_held=jax.tree.map(lambda x, new: jnp.where(mine, new, x), table.decode_held, held))
        room = jnp.where(turn.waits, INT32_MAX, turn.limits.num_blocks - turn.formation.blocks)
        return turn.with_state(handovers=table).with_kv(PrefixCache(pool.evict(turn.kv_row, room)))

    def after_loading(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, joins: Bool[Array, ""]) -> Turn:
        """The turn once a loaded request, if one has joined, holds its blocks in the cache; there is room for the running ones."""
        mine = (turn.rank.slots.position == before.rank.num_running) & joins
        return _evicting(self._with_names(turn, params, mine), turn.waits)

    def without_victims(self, shape: EngineShape, params: ClusterParams, turn: Turn, needed: Array) -> tuple[Turn, tuple[Array, Array]]:
        """The turn once the victims have freed what they shared; the end of the slots that stay, and blocks that no slot has by itself."""
        tree, rank, demand = RankTree.of(params, turn.limits, turn.kv_row), turn.rank, turn.demand
        others = turn.formation.blocks - self.num_held(turn.kv_row) - jnp.sum(demand.blocks, dtype=jnp.int32)
        asking = Asking(rank.slots, demand.seated, demand.blocks, demand.had, others)
        pool, stay = free_victims(tree, self.pool, turn.limits, asking, rank.num_running, needed)
        return turn.with_kv(PrefixCache(pool)), (stay, others + pool.book(turn.kv_row, "num_held"))

    def scanned(self, params: ClusterParams, turn: Turn) -> Scanned:
        """What `without_victim` needs to know."""
        return Scanned(RankTree.of(params, turn.limits, turn.kv_row), turn.limits, turn.rank.slots, _known_tokens(turn))

    def without_victim(
        self, scanned: Scanned | None, held: HeldBlocks | NoHeldBlocks, victim: Victim
    ) -> tuple[PrefixCache, HeldBlocks | NoHeldBlocks]:
        """The caches and holds once a victim of a scan by priority has freed its blocks, after what those before have taken and named."""
        assert scanned is not None and isinstance(held, HeldBlocks)
        pool, held = free_scanned(self.pool, scanned, held, victim)
        return PrefixCache(pool), held

    def after_preemption(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the running requests hold the blocks that they will fill, and there is room for all that they have."""
        rank = turn.rank
        left = rank.slots.position >= rank.num_running
        if shape.kv_tiers:
            left &= ~turn.state.tiers.loading(turn)
        held = rank.slots.held
        assert isinstance(held, HeldBlocks)
        computed = jnp.where(left, 0, rank.slots.num_computed_tokens)
        slots = dataclasses.replace(rank.slots, num_computed_tokens=computed, held=select(left, held.emptied(), held))
        turn = dataclasses.replace(turn, rank=dataclasses.replace(rank, slots=slots))
        # One that has ended unseen has no new tokens, but for drafts that will be verified in vain.
        scheduled = turn.demand.seated & (slots.num_new_tokens > 0) & ~left & ~turn.waits
        return _evicting(self._with_names(turn, params, scheduled), turn.waits)

    def get_computed_blocks(self, shape: EngineShape, params: ClusterParams, turn: Turn, waiting: Waiting) -> Hits:
        """Blocks that the first waiting request would find; at least one of its tokens has to be computed."""
        tree, wanted = RankTree.of(params, turn.limits, turn.kv_row), waiting.exists[0] & ~waiting.passed[0] & ~turn.waits
        most = tree.full(waiting.num_tokens[0] - 1)
        found, free = look_up(tree, self.contents(), waiting.request[0], most, wanted)
        if shape.speculation:  # the walk that may end one block earlier
            most = found - (params.speculation.drops(turn.i) & (found > 0)).astype(jnp.int32)
            found, free = look_up(tree, self.contents(), waiting.request[0], most, wanted)
        return Hits(found, found - free)

    def after_admission(self, shape: EngineShape, params: ClusterParams, turn: Turn, before: Turn, hits: Hits, loads: Array) -> Turn:
        """The turn once the admitted request, if there is one and it does not load its KV cache, holds what it found and will fill."""
        tree, slots, at = RankTree.of(params, turn.limits, turn.kv_row), turn.rank.slots, before.rank.num_running
        admitted = turn.formation.seats > before.formation.seats
        pool, held = touch(tree, self.pool, slots.request[at], jnp.where(admitted, jnp.asarray(hits.found), 0))
        mine = (slots.position == at) & admitted
        assert isinstance(slots.held, HeldBlocks)
        held = dataclasses.replace(held, cached_tokens=slots.held.cached_tokens)
        slots = dataclasses.replace(slots, held=select(mine, held, slots.held))
        turn = turn.with_kv(PrefixCache(pool), rank=dataclasses.replace(turn.rank, slots=slots))
        # One that loads makes room once it has touched what it found (`touch_hits`).
        return _evicting(_cache_of(turn)._with_names(turn, params, mine), turn.waits | loads)

    def name_verified(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once requests have named the blocks that the step before has filled, which the formation did not know of."""
        rank, slots = turn.rank, turn.rank.slots
        held = slots.held
        assert isinstance(held, HeldBlocks)
        formed = turn.due & ~turn.formation.continues
        some = (slots.position < rank.num_running) & jnp.isfinite(slots.token_s) & (slots.token_s > turn.horizon_s) & formed
        named = jnp.where(some, jnp.maximum(held.named_tokens, slots.num_computed_tokens), held.named_tokens)
        return self._named(turn, params, dataclasses.replace(held, named_tokens=named), some, ahead=jnp.zeros_like(named))

    def after_tiered(self, params: ClusterParams, turn: Turn, mine: Bool[Array, " A"]) -> Turn:
        """The turn once the request that admission has looked at holds its blocks in the cache; there is room for all."""
        return _evicting(self._with_names(turn, params, mine), turn.waits)

    def _with_names(self, turn: Turn, params: ClusterParams, scheduled: Bool[Array, " A"]) -> Turn:
        """The turn once the blocks that scheduled requests will have filled have names, as far as their tokens are known."""
        slots = turn.rank.slots
        held = slots.held
        assert isinstance(held, HeldBlocks)
        known = jnp.minimum(slots.num_computed_tokens + slots.num_new_tokens, _known_tokens(turn))
        named = jnp.where(scheduled, jnp.maximum(held.named_tokens, known), held.named_tokens)
        at_once = jnp.zeros_like(known)
        return self._named(turn, params, dataclasses.replace(held, named_tokens=named), scheduled, ahead=at_once)

    def _named(self, turn: Turn, params: ClusterParams, held: HeldBlocks, some: Bool[Array, " A"], ahead: Int32[Array, " A"]) -> Turn:
        """The turn once some requests have named the blocks that are full and that others may want."""
        tree, slots = RankTree.of(params, turn.limits, turn.kv_row), turn.rank.slots
        full = jnp.where(some, tree.full(held.named_tokens), 0)
        pool, held = name(tree, self.pool, slots, held, full, ahead)
        slots = dataclasses.replace(slots, held=held)
        return turn.with_kv(PrefixCache(pool), rank=dataclasses.replace(turn.rank, slots=slots))

    def log_columns(self, plan_cached: Array | None) -> dict[str, Array]:
        """Columns of `LeapLog`."""
        return {"cached_blocks": jnp.asarray(plan_cached)}

    def instance_columns(self) -> dict[str, Array]:
        """Columns of `InstanceLog`, with a leading axis N."""
        return {"evicted_blocks": self.pool.books[:, BOOKS.index("num_evicted")]}


def _prompt(params: ClusterParams, request: Int32[Array, ""]) -> Int32[Array, ""]:
    """Prompt tokens of a request; of the last one where there is no such request."""
    return params.request("prompt_tokens", jnp.minimum(request, params.requests.prompt_tokens.shape[1] - 1))


def _known_tokens(turn: Turn) -> Int32[Array, " A"]:
    """Tokens of each request up to which its blocks may get their names: the formation does not know of those that are in flight."""
    slots = turn.rank.slots
    in_flight = jnp.isfinite(slots.token_s) & (slots.token_s > turn.horizon_s)
    drafts = slots.drafts
    in_flight = jnp.where(in_flight, drafts.emitted, 0) if isinstance(drafts, Drafts) else in_flight.astype(jnp.int32)
    return nameable(slots.num_tokens - in_flight, turn.limits.names_ahead)


def _cache_of(turn: Turn) -> PrefixCache:
    """The caches of a cluster that has some."""
    assert isinstance(turn.kv, PrefixCache)
    return turn.kv


def _evicting(turn: Turn, waits: Array) -> Turn:
    """The turn once there is room for the blocks of the step being formed, unless it waits."""
    room = jnp.where(waits, INT32_MAX, turn.limits.num_blocks - turn.formation.blocks)
    return turn.with_kv(PrefixCache(_cache_of(turn).pool.evict(turn.kv_row, room)))


def initial_kv(shape: EngineShape) -> PrefixCache | NoPrefixCache:
    """The KV caches of an empty cluster."""
    return PrefixCache(BlockPool.empty(shape)) if shape.prefix_nodes else NoPrefixCache()
