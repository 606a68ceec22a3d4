"""The KV cache of the ranks as the stages see it, without prefix caching.

`PrefixCache` has the same methods, in vLLM's words: `get_computed_blocks` looks up what a waiting request would find, `free` takes back
what one holds, `after_admission` lets it hold blocks. Without a prefix cache they do nothing, and their constants fold away.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import jax
from jax import Array

from simjax.engine.handover.rows import freed_rows, table_of
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.kv.lookup import Contents
from simjax.engine.params import ClusterParams, RouterParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool

    from simjax.engine.kv.victims import Scanned, Victim
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
        """What a router sees of the caches."""
        return None

    def short(self) -> bool:
        """Whether a table was too small."""
        return False

    def missed_score(
        self, shape: EngineShape, params: ClusterParams, router: RouterParams, contents: Contents | None, request: Array, wanted: Array
    ) -> float:
        """Part of a router's score for the tokens of a request that are not cached."""
        return 0.0

    def missed_share(self, shape: EngineShape, params: ClusterParams, contents: Contents | None, request: Array, wanted: Array) -> float:
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

    def name_computed(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the blocks that requests have filled have their names."""
        return turn

    def name_verified(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the blocks that the step before has filled, unseen by the formation, have their names."""
        return turn

    def without_victims(self, shape: EngineShape, params: ClusterParams, turn: Turn, needed: Array) -> tuple[Turn, None]:
        """The turn once the victims have freed what they shared, and what is left: it follows from the blocks of each."""
        return turn, None

    def scanned(self, params: ClusterParams, turn: Turn) -> None:
        """Nothing that `without_victim` needs to know."""
        return None

    def without_victim(
        self, scanned: Scanned | None, held: HeldBlocks | NoHeldBlocks, victim: Victim
    ) -> tuple[NoPrefixCache, HeldBlocks | NoHeldBlocks]:
        """The caches and holds once a victim of a scan by priority has left."""
        return self, held

    def after_preemption(self, shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
        """The turn once the running requests hold the blocks that they will fill."""
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
