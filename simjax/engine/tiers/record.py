"""KV tiers as the stages of a rank's turn see them, with and without any."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.kv.block_pool import Reading
from simjax.engine.kv.blocks import blocks_of
from simjax.engine.shape import EngineShape
from simjax.engine.tiers.passes import TierPasses
from simjax.engine.tiers.table import BEGIN, BOOKS, HIT_TOKENS, REQUEST, STORED, STORES, UNTIL, TierTable

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoTiers:
    """Ranks without a tier behind their KV caches."""

    def loading(self, turn: Turn) -> bool:
        """Slots of the rank whose request waits for its load or for a seat."""
        return False

    def blocks(self, turn: Turn) -> int:
        """KV blocks that these hold without sharing them."""
        return 0

    def reading(self, i: Array | int, request: Int32[Array, ""], full: Int32[Array, ""]) -> None:
        """Copies that read blocks which a request with `full` blocks of prompt frees."""
        return None

    def short(self) -> bool:
        """Whether a table was too small."""
        return False

    def outcome(self, request: Int32[Array, ""]) -> dict[str, Array]:
        """Columns of `RequestLog` of one request."""
        return {}

    def instance_columns(self) -> dict[str, Array]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tiers:
    """A tier behind the KV cache of each rank; methods as those of `NoTiers`.

    Attributes:
        table: what they hold, and copies under way.
    """

    table: TierTable

    def loading(self, turn: Turn) -> Bool[Array, " A"]:
        """Slots of the rank whose request waits for its load or for a seat: the last ones in use."""
        rank = turn.rank
        end = rank.num_running + rank.num_preempted
        position = rank.slots.position
        return (position >= end - passes_of(turn).loading) & (position < end)

    def blocks(self, turn: Turn) -> Int32[Array, ""]:
        """KV blocks that these hold without sharing them."""
        slots = turn.rank.slots
        own = blocks_of(slots.num_computed_tokens, turn.limits.block_size) - slots.held.hashed
        return jnp.sum(jnp.where(self.loading(turn), own, 0), dtype=jnp.int32)

    def reading(self, i: Array | int, request: Int32[Array, ""], full: Int32[Array, ""]) -> Reading:
        """Copies of rank i that read blocks which a request with `full` blocks of prompt frees, or will do so with its last offer."""
        table = self.table
        pieces, leaving = table.pieces[i], table.leaving[i]
        of = jnp.where(table.busy(i) & (pieces[:, STORES] > 0), pieces[:, REQUEST], -1)
        some = jnp.arange(leaving.shape[0], dtype=jnp.int32) < table.book(i, "leaving")
        stored = table.requests[request, STORED]
        return Reading(request, stored, full, of, pieces[:, BEGIN], pieces[:, UNTIL], jnp.where(some, leaving, -1))

    def short(self) -> Bool[Array, ""]:
        """Whether a table was too small."""
        return jnp.any(self.table.books[:, BOOKS.index("short")] > 0)

    def outcome(self, request: Int32[Array, ""]) -> dict[str, Array]:
        """Columns of `RequestLog` of one request."""
        start_s, end_s = self.table.load_s[request]
        return {"tier_hit_tokens": self.table.requests[request, HIT_TOKENS], "tier_load_start_s": start_s, "tier_load_end_s": end_s}

    def instance_columns(self) -> dict[str, Array]:
        """Columns of `InstanceLog`, with a leading axis N."""
        names = {
            "tier_evictions": "evicted",
            "tier_loaded_blocks": "loaded",
            "tier_stored_blocks": "stored",
            "tier_failed_stores": "failed",
        }
        books = {name: self.table.books[:, BOOKS.index(book)] for name, book in names.items()}
        return {**books, "tier_flush_s": self.table.waited_s}


def initial_tiers(shape: EngineShape) -> Tiers | NoTiers:
    """Tiers that hold nothing."""
    return Tiers(TierTable.empty(shape)) if shape.kv_tiers else NoTiers()


def tiers_of(turn: Turn) -> TierTable:
    """The tiers of a cluster that has some."""
    assert isinstance(turn.state.tiers, Tiers)
    return turn.state.tiers.table


def passes_of(turn: Turn) -> TierPasses:
    """The passes of a rank with a tier."""
    assert isinstance(turn.rank.passes, TierPasses)
    return turn.rank.passes


def with_tiers(turn: Turn, table: TierTable) -> Turn:
    """The turn with other tiers."""
    return turn.with_state(tiers=Tiers(table))
