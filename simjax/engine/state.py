"""The state of a cluster: one fixed-shape pytree, stepped by `simjax.engine.tick`.

Legend: R requests, S slots (A = S+W array entries), N ranks, W window, C clients of a closed loop or seats of a cap, E entries of a prefix
cache.
A subsystem that a program does not have is a record without leaves whose methods do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.accounting.activity import Activity, NoActivity, initial_activity
from simjax.engine.arrivals.arrivals import Arrivals, initial_arrivals
from simjax.engine.columns import recorded
from simjax.engine.groups.lockstep import Groups, NoGroups, initial_groups
from simjax.engine.handover.passes import initial_passes
from simjax.engine.handover.table import Handovers, NoHandovers, initial_handovers
from simjax.engine.host.result import RequestLog
from simjax.engine.kv.no_prefix_cache import NoPrefixCache
from simjax.engine.kv.prefix_cache import PrefixCache, initial_kv
from simjax.engine.params import ClusterParams
from simjax.engine.pipeline.flight import initial_flight
from simjax.engine.pipeline.line import initial_line
from simjax.engine.power.energy import Energy, NoEnergy, initial_energy
from simjax.engine.priority.progress import NoProgress, Progress, initial_progress
from simjax.engine.rank import NEVER, Plan, PlannedWork, Rank, Slots
from simjax.engine.routing.balancer import Balancers, NoBalancers, initial_balancers
from simjax.engine.routing.books import NoBooks, RouterBooks, initial_books
from simjax.engine.routing.view import FreshView, RouterView
from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import DraftTotals, NoDraftTotals, initial_drafts, initial_totals
from simjax.engine.tiers.passes import initial_tier_passes
from simjax.engine.tiers.record import NoTiers, Tiers, initial_tiers

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32, Int64


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClusterState:
    """The whole cluster.

    Attributes:
        ranks: leaves with a leading N axis.
        routes: requests routed to each rank in order; [N, 0] where `EngineShape.has_routes` is off: the list is 0, 1, 2, ...
        arrivals: times of requests, known or made by the run.
        kv: contents of the KV caches.
        handovers: requests on their way from prefill to decode ranks.
        view: ranks as the router saw them.
        books: what the router knows of the requests that it has routed.
        balancers: what the API servers of instances know of their ranks.
        activity: totals of the ranks' work so far.
        energy: energy of the ranks' devices so far.
        drafts: totals of speculative decoding.
        groups: ranks that step together.
        progress: what preempted requests keep that wait in the queue.
        tiers: tiers behind the KV caches.
        num_sent: requests that have arrived.
        num_finished: requests written to `outcome`.
        outcome: engine's columns of `RequestLog` for every request that has departed; row R takes what is not read.
        ticks: ticks so far.
        steps: engine steps of all ranks.
        peak_blocks: most KV blocks allocated at once, per rank.
        overflow: bits of `Overflow`: buffers that were too small, so that no number of the run is true.
    """

    ranks: Rank
    routes: Int32[Array, "N L"]
    arrivals: Arrivals
    kv: PrefixCache | NoPrefixCache
    handovers: Handovers | NoHandovers
    view: RouterView | FreshView
    books: RouterBooks | NoBooks
    balancers: Balancers | NoBalancers
    activity: Activity | NoActivity
    energy: Energy | NoEnergy
    drafts: DraftTotals | NoDraftTotals
    groups: Groups | NoGroups
    progress: Progress | NoProgress
    tiers: Tiers | NoTiers
    num_sent: Int32[Array, ""]
    num_finished: Int32[Array, ""]
    outcome: Float64[Array, "R+1 F"]
    ticks: Int32[Array, ""]
    steps: Int64[Array, ""]
    peak_blocks: Int32[Array, " N"]
    overflow: Int32[Array, ""]

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog` that the engine records, with a leading axis N."""
        recorded = [x.instance_columns() for x in (self.kv, self.activity, self.energy, self.drafts, self.groups, self.tiers)]
        return {"peak_blocks": self.peak_blocks, **{name: values for columns in recorded for name, values in columns.items()}}


def initial_state(shape: EngineShape, params: ClusterParams) -> ClusterState:
    """An empty cluster at time 0."""
    N, R, kv = shape.ranks, shape.requests, initial_kv(shape)
    zero = jnp.zeros((), jnp.int32)
    return ClusterState(
        ranks=_initial_ranks(shape, kv),
        routes=jnp.zeros((N, R + shape.window if shape.has_routes else 0), jnp.int32),
        arrivals=initial_arrivals(shape, params),
        kv=kv,
        handovers=initial_handovers(shape, params, kv.no_holds(shape)),
        view=RouterView.none_yet(shape, kv.contents()) if shape.stale_view else FreshView(),
        books=initial_books(shape),
        balancers=initial_balancers(shape),
        activity=initial_activity(shape),
        energy=initial_energy(shape),
        drafts=initial_totals(shape),
        groups=initial_groups(shape),
        progress=initial_progress(shape),
        tiers=initial_tiers(shape),
        num_sent=zero,
        num_finished=zero,
        outcome=jnp.full((R + 1, len(recorded(RequestLog, shape))), NEVER, jnp.float64),
        ticks=zero,
        steps=jnp.zeros((), jnp.int64),
        peak_blocks=jnp.zeros((N,), jnp.int32),
        overflow=zero,
    )


def _initial_ranks(shape: EngineShape, kv: PrefixCache | NoPrefixCache) -> Rank:
    """Ranks without requests, which sleep until one comes."""
    N, A = shape.ranks, shape.seats
    slots_i32, slots_never = jnp.zeros((N, A), jnp.int32), jnp.full((N, A), NEVER, jnp.float64)
    i32, i64, f64 = (jnp.zeros((N,), dtype) for dtype in (jnp.int32, jnp.int64, jnp.float64))
    slots = Slots(
        request=jnp.full((N, A), shape.requests, jnp.int32),
        num_computed_tokens=slots_i32,
        num_tokens=slots_i32,
        final_tokens=slots_i32,
        num_new_tokens=slots_i32,
        preemptions=slots_i32,
        scheduled_s=slots_never,
        first_token_s=slots_never,
        token_s=slots_never,
        held=kv.no_holds(shape),
        flight=initial_flight(shape),
        drafts=initial_drafts(shape),
        last_tokens=slots_i32 if shape.handovers else None,
        answered=jnp.zeros((N, A), bool) if shape.fanout else None,
        decoding=jnp.zeros((N, A), bool) if shape.groups else None,
    )
    plan = Plan(
        start_s=f64,
        end_s=jnp.full((N,), NEVER, jnp.float64),
        horizon_s=jnp.full((N,), NEVER, jnp.float64),
        first_s=f64,
        next_s=f64,
        slope_s=f64,
        steps=i32,
        open=jnp.ones((N,), bool),
        tokens=i32,
        running=i32,
        preempted=i32,
        blocks=i32,
        kv_tokens=i64,
        preempted_tokens=i64,
        cached_blocks=jax.tree.map(lambda _: i32, kv.num_cached(0)),
        work=PlannedWork(*[f64] * len(fields(PlannedWork))) if shape.power else None,
    )
    return Rank(
        slots,
        plan,
        num_running=i32,
        num_preempted=i32,
        head=i32,
        tail=i32,
        queued_tokens=i64,
        passes=initial_tier_passes(shape) if shape.kv_tiers else initial_passes(shape),
        pipeline=initial_line(shape),
        requeued=i32 if shape.priorities else None,
    )
