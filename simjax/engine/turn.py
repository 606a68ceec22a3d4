"""The record that the stages of a tick hand on: the cluster, and the rank whose turn it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.arrivals.arrivals import next_arrival_s
from simjax.engine.control.select import select
from simjax.engine.control.together import entry
from simjax.engine.params import ClusterParams, RankParams
from simjax.engine.rank import NEVER, Rank
from simjax.engine.routing.balancer import before_snapshot
from simjax.engine.shape import EngineShape
from simjax.engine.state import ClusterState

if TYPE_CHECKING:
    from jaxtyping import Bool

    from simjax.engine.accounting.leap_log import LeapRows, NoLog
    from simjax.engine.groups.lockstep import Offers, Wave
    from simjax.engine.kv.no_prefix_cache import NoPrefixCache
    from simjax.engine.kv.prefix_cache import PrefixCache
    from simjax.engine.power.energy import NoSpent, Spent
    from simjax.engine.scheduler.commit import Emitted
    from simjax.engine.scheduler.departure import Departed
    from simjax.engine.scheduler.formation import Demand, Formation
    from simjax.engine.tiers.admission import Beginning


FEW_RANKS = 4  # so many ranks are written all sooner than one of them by a scatter


class _Later:
    """Placeholder of a field that a later stage sets."""


LATER: Any = _Later()


@dataclasses.dataclass(frozen=True)
class Turn:
    """A tick in progress: every stage takes one and returns it with what the stage has found or changed.

    Attributes:
        state: the cluster; its record of the rank whose turn it is keeps the old values until `end_turn`.
        log: leaps recorded since the host last looked.
        i: rank whose turn it is.
        due: whether its plan ends before the next arrival; if not, the turn changes nothing.
        limits: limits of the rank.
        before: the rank as its plan ended.
        rank: the rank as the stages have left it.
        waits: finished requests must depart, or be answered, one a tick before the next step can be formed.
        emitted: tokens that the plan has given.
        spent: energy that it has taken.
        departed: finished request that has left the slots.
        formation: step being formed.
        demand: tokens and blocks that the running requests ask of it.
        wave, offers: of the group whose turn it is; all but these, `due` and the two above `i` have an entry for each of its members then.
        throttled: prompts wait in this step if anything decodes.
        kv_of_all: KV caches of all ranks while the state has those of the members of a group.
        beginning: load from a KV tier that begins.
    """

    state: ClusterState
    log: LeapRows | NoLog
    i: Array | int = LATER
    due: Bool[Array, ""] = LATER
    limits: RankParams = LATER
    before: Rank = LATER
    rank: Rank = LATER
    waits: Bool[Array, ""] = LATER
    emitted: Emitted = LATER
    spent: Spent | NoSpent = LATER
    departed: Departed = LATER
    formation: Formation = LATER
    demand: Demand = LATER
    wave: Wave = LATER
    offers: Offers = LATER
    throttled: Bool[Array, ""] = LATER
    kv_of_all: PrefixCache | NoPrefixCache = LATER
    beginning: Beginning = LATER

    @property
    def now_s(self) -> Array:
        """Time of the turn: the end of the rank's plan, float64[]."""
        return self.before.plan.end_s

    @property
    def horizon_s(self) -> Array:
        """The formation sees arrivals and finishes up to this time, float64[]."""
        return self.before.plan.horizon_s

    @property
    def kv_row(self) -> Array | int:
        """Row of the rank in the tables of the KV caches, of which a member of a group has its own alone."""
        return self.i if self.kv_of_all is LATER else 0

    @property
    def kv(self) -> PrefixCache | NoPrefixCache:
        """KV caches of the ranks."""
        return self.state.kv

    def with_state(self, **changes: Any) -> Turn:
        """The turn with changed fields of the cluster's state."""
        return dataclasses.replace(self, state=dataclasses.replace(self.state, **changes))

    def with_kv(self, kv: PrefixCache, **changes: Any) -> Turn:
        """The turn with other KV caches, and changed fields of its own."""
        return dataclasses.replace(self.with_state(kv=kv), **changes)


def begin_turn(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Choose the rank whose plan ends first; it is due if that is before the next arrival."""
    ranks = turn.state.ranks
    due_s = ranks.due_s()
    i = jnp.argmin(due_s).astype(jnp.int32) if shape.ranks > 1 else 0
    due = due_s[i] < next_arrival_s(params, turn.state) if shape.live_routing else jnp.ones((), bool)
    due = turn.state.handovers.after(due, due_s[i])
    due = before_snapshot(shape, params, turn.state, due, due_s[i])
    if shape.kv_tiers:  # copies may end after the last request has, and a batch goes on after that, or where nothing happens any more
        due &= (turn.state.num_finished < params.request_count) & (due_s[i] < NEVER)
    limits: RankParams = entry(params.ranks, i)
    arrays = {"slots": ranks.slots, "pipeline": ranks.pipeline}  # of a rank; the other fields are scalars
    rank: Rank = entry(dataclasses.replace(ranks, slots=None, pipeline=None), i)
    rank = dataclasses.replace(rank, **jax.tree.map(lambda x: x[i], arrays))
    return dataclasses.replace(turn, i=i, due=due, limits=limits, before=rank, rank=rank, waits=jnp.zeros((), bool))


def end_turn(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Put the rank back among the others, and the departed request into the table of outcomes."""
    state, due, departed = turn.state, turn.due, turn.departed
    rank, at = turn.rank, turn.i
    may_be_early = shape.live_routing or shape.kv_tiers
    if may_be_early and shape.ranks > 1:
        at = jnp.where(due, at, shape.ranks)  # out of bounds: dropped
    elif may_be_early:
        rank = select(due, rank, turn.before)
    left = due & departed.some & ~departed.kept
    return turn.with_state(
        ranks=_with_rank(shape, state.ranks, rank, at),
        outcome=state.outcome.at[jnp.where(left, departed.request, shape.requests)].set(departed.outcome),
        num_finished=state.num_finished + left.astype(jnp.int32),
        books=state.books.left(params, state.handovers, turn.i, departed.request, due & departed.some),
        balancers=state.balancers.left(params, turn.i, departed.request, due & departed.some),
    )


def _with_rank(shape: EngineShape, ranks: Rank, rank: Rank, at: Array | int) -> Rank:
    """The ranks with one of them put at `at`, or as they are if that is out of bounds.

    Of a batch XLA makes a scatter, on a CPU a loop over the designs for every array; a choice among a few ranks takes less.
    """
    if not (shape.side_by_side and 1 < shape.ranks <= FEW_RANKS):
        return jax.tree.map(lambda x, new: x.at[at].set(new, mode="drop"), ranks, rank)
    here = jnp.arange(shape.ranks, dtype=jnp.int32) == at
    return jax.tree.map(lambda x, new: jnp.where(here.reshape(-1, *(1,) * (x.ndim - 1)), new, x), ranks, rank)
