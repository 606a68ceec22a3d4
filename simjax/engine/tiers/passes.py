"""What a rank with KV tiers knows of copies, and its sleep while its requests can only wait for them.

Copies that have ended are seen at the launch of a step and known with the output of that step. A rank that has requests and can run none
sleeps `empty_pass_s` and tries again. One without requests is told at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.handover.passes import ROUNDING, NoPasses, pass_at
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER, Plan
from simjax.engine.scheduler.plan import cut_short
from simjax.engine.shape import EngineShape
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TierPasses(NoPasses):
    """A rank's place in its queue and its looks at copies, with turns as without any; scalars (a leading N axis in `ClusterState`).

    Attributes:
        loading: requests in the last slots that wait for their loads or for a seat.
        passed: waiting requests that the formation has passed over so far.
        looked_s: time up to which copies that had ended are known.
        formed_s: launch of the plan.
        polls: the rank has requests and runs none, so that it looks again in every pass.
    """

    loading: Int32[Array, "*N"]
    passed: Int32[Array, "*N"]
    looked_s: Float64[Array, "*N"]
    formed_s: Float64[Array, "*N"]
    polls: Bool[Array, "*N"]

    def joined(self, params: ClusterParams, plan: Plan, queued_s: Float64[Array, ""], async_scheduling: Bool[Array, ""]) -> Plan:
        """The plan after a request joined the rank's queue at queued_s; a rank that polls sees it at its next pass."""
        assert params.tiers is not None
        at_s = pass_at(plan, queued_s, params.tiers.empty_pass_s)
        return cut_short(plan, jnp.where((plan.steps == 0) & self.polls, at_s, queued_s), async_scheduling)

    def looked(self, plan: Plan, empty_pass_s: Float64[Array, ""]) -> Float64[Array, ""]:
        """Time up to which copies that had ended are known at the end of the plan.

        Of a step it is its launch. Of a sleep it is the last pass before its end: what that finds is known once it is over, and the next
        pass comes a sleep later.
        """
        span = jnp.where(jnp.isfinite(plan.end_s), plan.end_s - plan.start_s, 0.0) / jnp.where(empty_pass_s > 0, empty_pass_s, 1.0)
        last = jnp.maximum(jnp.ceil(span - ROUNDING) - 1.0, 0.0)
        slept_s = plan.start_s + product(last - ROUNDING, empty_pass_s)  # what ends just then is not found
        idle_s = jnp.where(self.polls, slept_s, plan.end_s)
        return jnp.maximum(self.looked_s, jnp.where(plan.steps > 0, self.formed_s, jnp.where(plan.open, idle_s, -NEVER)))


def initial_tier_passes(shape: EngineShape) -> TierPasses:
    """Of ranks that sleep."""
    N = shape.ranks
    zero, never = jnp.zeros((N,), jnp.int32), jnp.full((N,), -NEVER, jnp.float64)
    return TierPasses(zero, zero, never, never, jnp.zeros((N,), bool))
