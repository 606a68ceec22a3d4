"""The log of leaps: a row for every plan that had steps, kept until the host collects them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.columns import in_order, recorded
from simjax.engine.host.result import LeapLog
from simjax.engine.params import ClusterParams
from simjax.engine.shape import EngineShape
from simjax.engine.turn import Turn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoLog:
    """No log."""

    def has_room(self) -> bool:
        """Whether another tick may be recorded."""
        return True

    def collected(self) -> list[np.ndarray]:
        """The rows on the host, in pieces."""
        return []

    def with_row(self, shape: EngineShape, turn: Turn) -> NoLog:
        """The log with the committed plan."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeapRows:
    """Leaps recorded since the host last looked.

    Attributes:
        rows: rows of the columns of `LeapLog`; the last one takes what does not count.
        count: rows that are filled.
    """

    rows: Float64[Array, "K F"]
    count: Int32[Array, ""]

    def has_room(self) -> Bool[Array, ""]:
        """Whether another tick may be recorded."""
        return self.count < self.rows.shape[0] - 1

    def collected(self) -> list[np.ndarray]:
        """The rows on the host, in pieces."""
        return [np.asarray(self.rows)[: int(self.count)]]

    def with_row(self, shape: EngineShape, turn: Turn) -> LeapRows:
        """The log with the committed plan, if it had steps."""
        plan, emitted = turn.before.plan, turn.emitted
        columns = {
            "instance": jnp.asarray(turn.i),
            "start_s": plan.start_s,
            "first_step_s": plan.first_s,
            "next_step_s": plan.next_s,
            "slope_s": plan.slope_s,
            "steps": plan.steps,
            "prompt_tokens": emitted.prompt_tokens,
            "first_outputs": emitted.first_outputs,
            "decodes": emitted.decodes,
            "outputs": emitted.outputs,
            "resumed": emitted.resumed,
            "resumed_gap_s": emitted.resumed_gap_s,
            "running": plan.running,
            "preempted": plan.preempted,
            "kv_blocks": plan.blocks,
            "kv_blocks_last": emitted.blocks_last,
            **turn.kv.log_columns(plan.cached_blocks),
        }
        values = jnp.stack([x.astype(jnp.float64) for x in in_order(LeapLog, shape, columns)])
        # The row is written in any case and counted only when there were steps: the next one overwrites it.
        return LeapRows(self.rows.at[self.count].set(values), self.count + (turn.due & (plan.steps > 0)).astype(jnp.int32))


def empty_log(shape: EngineShape) -> LeapRows | NoLog:
    """A log without rows."""
    if not shape.log_rows:
        return NoLog()
    return LeapRows(jnp.zeros((shape.log_rows + 1, len(recorded(LeapLog, shape))), jnp.float64), jnp.zeros((), jnp.int32))


def record(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Record the committed plan."""
    return dataclasses.replace(turn, log=turn.log.with_row(shape, turn))
