"""Activity of the ranks: seconds in which they were busy, tokens by phase, and the smallest and largest of their steps.

Accumulated in the state, so that runs without a leap log, such as those of a sweep, have it. A step's tokens are split as vLLM's step
times are: a request that computes one token decodes, one that computes more is in its prompt (or computes it again after a preemption).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.control.reduce import INT32_MAX
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32, Int64

    from simjax.engine.turn import Turn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoActivity:
    """Nothing is recorded."""

    def after(self, turn: Turn) -> NoActivity:
        """The record once the turn's plan has been carried out."""
        return self

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Activity:
    """Totals of every rank so far.

    Attributes:
        busy_s: seconds in which a step was under way.
        prefill_tokens, decode_tokens: tokens computed by requests with more than one token in a step, and by those with one.
        step_tokens_min, step_tokens_max: fewest and most scheduled tokens of a step.
        step_sequences_min, step_sequences_max: fewest and most requests of a step.
    """

    busy_s: Float64[Array, " N"]
    prefill_tokens: Int64[Array, " N"]
    decode_tokens: Int64[Array, " N"]
    step_tokens_min: Int32[Array, " N"]
    step_tokens_max: Int32[Array, " N"]
    step_sequences_min: Int32[Array, " N"]
    step_sequences_max: Int32[Array, " N"]

    def after(self, turn: Turn) -> Activity:
        """The record once the turn's plan has been carried out: its first step, and the decode steps that followed in one leap."""
        plan, i = turn.before.plan, turn.i
        ran, leapt = turn.due & (plan.steps > 0), turn.due & (plan.steps > 1)
        prefill, sequences = turn.before.pipeline.prefill_and_sequences(turn.before)
        decode = plan.tokens.astype(jnp.int64) - prefill + plan.running.astype(jnp.int64) * (plan.steps - 1).astype(jnp.int64)
        least = jnp.where(leapt, jnp.minimum(plan.tokens, plan.running), plan.tokens)
        return Activity(
            busy_s=self.busy_s.at[i].add(jnp.where(ran, plan.end_s - plan.start_s, 0.0)),
            prefill_tokens=self.prefill_tokens.at[i].add(jnp.where(ran, prefill, 0)),
            decode_tokens=self.decode_tokens.at[i].add(jnp.where(ran, decode, 0)),
            step_tokens_min=self.step_tokens_min.at[i].min(jnp.where(ran, least, INT32_MAX)),
            step_tokens_max=self.step_tokens_max.at[i].max(jnp.where(ran, plan.tokens, 0)),
            step_sequences_min=self.step_sequences_min.at[i].min(jnp.where(ran, sequences, INT32_MAX)),
            step_sequences_max=self.step_sequences_max.at[i].max(jnp.where(ran, sequences, 0)),
        )

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog` on the host, with a leading axis N; minima of a rank without a step are 0."""
        found = {x.name: np.asarray(getattr(self, x.name)) for x in dataclasses.fields(self)}
        return {name: np.where(found["step_tokens_max"] > 0, values, 0) for name, values in found.items()}


def initial_activity(shape: EngineShape) -> Activity | NoActivity:
    """The record before the run."""
    if not shape.activity:
        return NoActivity()
    i32, i64 = jnp.zeros((shape.ranks,), jnp.int32), jnp.zeros((shape.ranks,), jnp.int64)
    none = jnp.full((shape.ranks,), INT32_MAX, jnp.int32)
    return Activity(jnp.zeros((shape.ranks,), jnp.float64), i64, i64, none, i32, none, i32)


def account(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Add what the committed plan has done."""
    state = turn.state
    energy, spent = state.energy.after(params, turn)
    turn = turn.with_state(activity=state.activity.after(turn), drafts=state.drafts.after(turn), energy=energy)
    return dataclasses.replace(turn, spent=spent)
