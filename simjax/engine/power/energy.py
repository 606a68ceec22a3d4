"""Energy of the ranks' devices: of the steps by what it is spent on, and of raised clocks.

Accumulated in the state, so that runs without a leap log, such as those of a sweep, have it. What a device draws at all times, idle, is no
matter of the engine: it follows from the length of the run.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.together import entry
from simjax.engine.params import ClusterParams, PowerParams
from simjax.engine.power.leaps import growing, places, summed
from simjax.engine.power.physics import Parts, energy_j
from simjax.engine.rank import NEVER, Plan
from simjax.engine.shape import EngineShape
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Float64

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoSpent:
    """No energy is known of a plan."""

    def log_columns(self) -> dict[str, Array]:
        """Columns of `LeapLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spent:
    """Energy of a plan beyond standby, in joules: of its first step, and of its later ones.

    Attributes:
        footprint_j, memory_j, compute_j: of the first step.
        later_footprint_j, later_memory_j, later_compute_j: of the others together.
    """

    footprint_j: Float64[Array, ""]
    memory_j: Float64[Array, ""]
    compute_j: Float64[Array, ""]
    later_footprint_j: Float64[Array, ""]
    later_memory_j: Float64[Array, ""]
    later_compute_j: Float64[Array, ""]

    def log_columns(self) -> dict[str, Array]:
        """Columns of `LeapLog`."""
        return {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoEnergy:
    """Nothing is recorded."""

    def after(self, params: ClusterParams, turn: Turn) -> tuple[NoEnergy, NoSpent]:
        """The record once the turn's plan has been carried out, and the plan's energy."""
        return self, NoSpent()

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy of every rank so far, in joules, all of its devices together.

    Attributes:
        footprint_j, memory_j, compute_j: of the steps beyond standby.
        standby_j: of raised clocks beyond idle, from the start of the first step to the end of the latest one.
        ended_s: end of the latest step, infinity before the first one.
    """

    footprint_j: Float64[Array, " N"]
    memory_j: Float64[Array, " N"]
    compute_j: Float64[Array, " N"]
    standby_j: Float64[Array, " N"]
    ended_s: Float64[Array, " N"]

    def after(self, params: ClusterParams, turn: Turn) -> tuple[Energy, Spent]:
        """The record once the turn's plan has been carried out, and the plan's energy."""
        assert params.power is not None
        plan, i = turn.before.plan, turn.i
        mine: PowerParams = entry(params.power, i)
        ran = turn.due & (plan.steps > 0)
        spent = _spent(mine, plan, ran)
        pause_s = jnp.clip(plan.start_s - self.ended_s[i], 0.0, mine.standby_s)  # before the first step: -infinity, so none
        awake_s = jnp.where(ran, plan.end_s - plan.start_s + pause_s, 0.0)
        return Energy(
            self.footprint_j.at[i].add(spent.footprint_j + spent.later_footprint_j),
            self.memory_j.at[i].add(spent.memory_j + spent.later_memory_j),
            self.compute_j.at[i].add(spent.compute_j + spent.later_compute_j),
            self.standby_j.at[i].add(product(mine.standing_w, awake_s)),
            self.ended_s.at[i].set(jnp.where(ran, plan.end_s, self.ended_s[i])),
        ), spent

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}


def _spent(mine: PowerParams, plan: Plan, ran: Array) -> Spent:
    """The energy of the steps of a plan."""
    assert plan.work is not None
    work, watts = plan.work, Parts(mine.footprint_w, mine.memory_w, mine.compute_w)
    first = energy_j(watts, mine.limit_w, plan.first_s, work.busy_s, work.memory_s, work.compute_s)
    others = jnp.maximum(plan.steps - 1, 1).astype(jnp.float64)
    at = places(others)
    later = energy_j(
        watts,
        mine.limit_w,
        growing(plan.next_s, plan.slope_s, at),
        growing(work.next_busy_s, work.busy_slope_s, at),
        growing(work.next_memory_s, work.memory_slope_s, at),
        growing(work.next_compute_s, work.compute_slope_s, at),
    )
    leapt = ran & (plan.steps > 1)
    return Spent(*(jnp.where(ran, x, 0.0) for x in first), *(jnp.where(leapt, summed(x, others), 0.0) for x in later))


def initial_energy(shape: EngineShape) -> Energy | NoEnergy:
    """The record before the run."""
    if not shape.power:
        return NoEnergy()
    none = jnp.zeros((shape.ranks,), jnp.float64)
    return Energy(none, none, none, none, jnp.full((shape.ranks,), NEVER, jnp.float64))
