"""A rank's looks at transfers: at the launch of every step, and in passes that run nothing.

vLLM's engine asks its connector for finished transfers when it launches a step, and its scheduler is told with the output of that step.
Without a step to run, an engine that has requests sleeps `empty_pass_s` and tries again: then it looks, and sees arrivals, only at these
passes. One without requests does not look at all, even if blocks of finished prompts wait to be read.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan
from simjax.engine.scheduler.plan import CUT, cut_short, end_after, first_step_reaching
from simjax.engine.shape import EngineShape
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64

ROUNDING = 1e-6  # of a pass: times that are whole numbers of passes apart are seldom so in floats


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoPasses:
    """Looks where there is nothing to look for: an idle rank sleeps until a request comes."""

    @property
    def shut(self) -> Bool[Array, ""]:
        """Whether no request may join in the rank's turn."""
        return jnp.zeros((), bool)

    @staticmethod
    def seen_s(plan: Plan, async_scheduling: Bool[Array, ""]) -> Float64[Array, ""]:
        """The formation after the plan sees requests to which replies lead, if they are queued up to this time."""
        return plan.horizon_s

    @staticmethod
    def due_s(plan: Plan) -> Float64[Array, "*N"]:
        """Time of the rank's next turn: the end of its plan."""
        return plan.due_s()

    @staticmethod
    def joined(params: ClusterParams, plan: Plan, queued_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
        """The plan after a request joined the rank's queue at queued_s."""
        return cut_short(plan, queued_s, async_scheduling)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Passes:
    """The looks of a rank in addition to its `Plan`; scalars (a leading N axis in `ClusterState`).

    Attributes:
        formed_s: formation, and so launch, of the plan's first step; of an idle plan the last formation that found nothing to run.
        polls: an idle rank has requests, so it looks again in every pass.
        late: an empty batch is in the queue of an asynchronous rank, so that it is told of a look one pass later.
        paused: the rank formed nothing while its last step ran, and sleeps before it tries again.
        drained: the plan's one step ends all requests of the rank, so that what an asynchronous rank forms while it runs is known to be
            nothing: the next turn is at its end.
        chained: the formation after the plan's first step, or after the wait for the end of a step, comes with no time for others after
            the output of another batch. Not so that of a rank which was idle: it forms two in a row, each when it can.
        looks: whether a rank that steps with others looks at its transfers: it has requests; while its formation goes on, whether
            one has left. None, as the next, where ranks step by themselves.
        stopping: the last forward of a wave is under way, and what was known as it began is dealt with.
    """

    formed_s: Float64[Array, "*N"]
    polls: Bool[Array, "*N"]
    late: Bool[Array, "*N"]
    paused: Bool[Array, "*N"]
    drained: Bool[Array, "*N"]
    chained: Bool[Array, "*N"]
    looks: Bool[Array, "*N"] | None = None
    stopping: Bool[Array, "*N"] | None = None

    def after_step(self, plan: Plan, async_scheduling: Bool[Array, ""]) -> tuple[Passes, Plan]:
        """The looks and the plan before a turn; after a step that drained the rank as if it had formed nothing while that ran."""
        no = jnp.zeros((), bool)
        formed = Passes(plan.start_s, no, async_scheduling, no, no, self.chained)
        ended = dataclasses.replace(plan, steps=jnp.zeros((), jnp.int32), start_s=plan.end_s)
        return select(self.drained, (formed, ended), (self, plan))

    @property
    def shut(self) -> Bool[Array, "*N"]:
        """Whether no request may join in the rank's turn: it sleeps first."""
        return self.paused

    def seen_s(self, plan: Plan, async_scheduling: Bool[Array, ""]) -> Float64[Array, ""]:
        """The formation after the plan sees requests to which replies lead, if they are queued up to this time.

        An asynchronous rank forms a step as soon as it has sent the tokens of another one. A request to which one of these leads at once
        comes just after that. (Another one that is queued at that very time comes before, but then only by chance.)
        """
        later_step = (plan.horizon_s > plan.start_s) & (plan.horizon_s < plan.end_s)
        after_step = self.chained | later_step
        return jnp.where(async_scheduling & after_step, jnp.nextafter(plan.horizon_s, -NEVER), plan.horizon_s)

    def if_it_looks(self, t_s: Float64[Array, "*K"]) -> Float64[Array, "*K"]:
        """Times of what the rank finds by a look; infinity if it takes none."""
        return t_s if self.looks is None else jnp.where(self.looks, t_s, NEVER)

    @staticmethod
    def due_s(plan: Plan) -> Float64[Array, "*N"]:
        """Time of the rank's next turn: vLLM forms a step, and launches what belongs to it, when the step before starts (asynchronous)."""
        return jnp.where((plan.steps == 0) & ~plan.open, -NEVER, plan.horizon_s)

    def joined(self, params: ClusterParams, plan: Plan, queued_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
        """The plan after a request joined the rank's queue at queued_s; an idle rank that polls sees it at its next pass."""
        assert params.handover is not None
        at_s = pass_at(plan, queued_s, params.handover.empty_pass_s)
        return cut_short(plan, jnp.where((plan.steps == 0) & self.polls, at_s, queued_s), async_scheduling)


def initial_passes(shape: EngineShape) -> Passes | NoPasses:
    """Looks of ranks that sleep."""
    if not shape.handovers:
        return NoPasses()
    off = jnp.zeros((shape.ranks,), bool)
    together = (off, off) if shape.groups else (None, None)
    return Passes(jnp.zeros((shape.ranks,), jnp.float64), off, off, off, off, off, *together)


def told_s(
    plan: Plan, passes: Passes, landed_s: Float64[Array, ""], empty_pass_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]
) -> Float64[Array, ""]:
    """Time from which a formation knows of a transfer that landed at landed_s; infinity if that is after the plan.

    It never falls with landed_s: of several transfers the first to land is the first that is known.
    """
    step = first_step_reaching(plan, landed_s) + 1 + async_scheduling.astype(jnp.int32)
    step = jnp.where(landed_s <= passes.formed_s, 1, step)
    busy_s = passes.if_it_looks(jnp.where(step <= plan.steps, end_after(plan, step), NEVER))
    idle_s = _idle_told_s(plan, passes, landed_s, empty_pass_s)
    return jnp.where(jnp.isfinite(landed_s), jnp.where(plan.steps > 0, busy_s, idle_s), NEVER)


def told(
    plan: Plan, passes: Passes, landed_s: Float64[Array, " K"], empty_pass_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]
) -> tuple[Bool[Array, " K"], Bool[Array, " K"]]:
    """Which transfers the formation after the plan knows of, and which others are known at the plan's end, after that formation.

    `told_s` for many at once, as comparisons: a transfer that ended by the end of a step is known of when the step after the next has
    ended. Of an idle plan's looks only those up to its horizon count: the next plan may make a later one the launch of a step.
    """
    later = async_scheduling.astype(jnp.int32)

    def by_step(step: Array) -> Array:
        """Landings up to this time are known once the step has ended."""
        seen_s = jnp.where(step >= 1, passes.formed_s, -NEVER)
        return jnp.maximum(seen_s, jnp.where(step > later, end_after(plan, step - 1 - later), -NEVER))

    busy = plan.steps > 0
    by_s = by_step(plan.steps - later), by_step(plan.steps)
    formation_s, end_s = together(by_s)  # once, not for every transfer
    idle = _idle_told_s(plan, passes, landed_s, empty_pass_s) <= plan.horizon_s
    landed = jnp.isfinite(passes.if_it_looks(landed_s))
    return landed & jnp.where(busy, landed_s <= formation_s, idle), landed & busy & (landed_s > formation_s) & (landed_s <= end_s)


def _idle_told_s(plan: Plan, passes: Passes, landed_s: Float64[Array, "*K"], empty_pass_s: Float64[Array, ""]) -> Float64[Array, "*K"]:
    """Time from which an idle rank knows of transfers that landed at landed_s; infinity if it does not look."""
    late = passes.late.astype(jnp.float64)
    look = jnp.maximum(jnp.floor(_passes_until(plan, landed_s, empty_pass_s) + ROUNDING) + 1.0, 0.0)
    look = jnp.where(landed_s <= passes.formed_s, -late, look)
    idle_s = jnp.where(empty_pass_s > 0, plan.start_s + product(look + 1.0 + late, empty_pass_s), jnp.maximum(plan.start_s, landed_s))
    return jnp.where(passes.polls, idle_s, NEVER)


def pass_at(plan: Plan, t_s: Float64[Array, ""], empty_pass_s: Float64[Array, ""]) -> Float64[Array, ""]:
    """The first pass of an idle rank at or after t_s, of those that are still to come: the one at the start of its plan is over."""
    number = jnp.maximum(jnp.ceil(_passes_until(plan, t_s, empty_pass_s) - ROUNDING), 1.0)
    at_s = jnp.where(empty_pass_s > 0, plan.start_s + product(number, empty_pass_s), jnp.maximum(plan.start_s, t_s))
    return jnp.where(jnp.isfinite(t_s), at_s, NEVER)


def _passes_until(plan: Plan, t_s: Array, empty_pass_s: Array) -> Array:
    """Number of passes from the first one to t_s, as a real number; 0 for a time that never comes."""
    span_s = jnp.where(jnp.isfinite(t_s), t_s - plan.start_s, 0.0)
    return jax.lax.stop_gradient(span_s / jnp.where(empty_pass_s > 0, empty_pass_s, 1.0))


def news_at(plan: Plan, heard_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
    """The plan after it is known that the rank is told of a transfer at heard_s (infinity: not in this plan).

    It ends then, even if no arrival could join it: blocks come free, or a loaded request may run.
    """
    cut = cut_short(dataclasses.replace(plan, open=jnp.ones_like(plan.open)), heard_s, async_scheduling)
    changed = together({name: jnp.where(jnp.isfinite(heard_s), getattr(cut, name), getattr(plan, name)) for name in CUT})
    return dataclasses.replace(plan, **changed)
