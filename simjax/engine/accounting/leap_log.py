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

    def with_rows(self, shape: EngineShape, turn: Turn) -> NoLog:
        """The log with the committed plans of the members of a group."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LeapRows:
    """Leaps recorded since the host last looked.

    Attributes:
        rows: rows of the columns of `LeapLog`; the last one takes what does not count.
        count: rows that are filled.
        most: most rows of a tick.
    """

    rows: Float64[Array, "K F"]
    count: Int32[Array, ""]
    most: int = dataclasses.field(default=1, metadata={"static": True})

    def has_room(self) -> Bool[Array, ""]:
        """Whether another tick may be recorded."""
        return self.count < self.rows.shape[0] - self.most

    def collected(self) -> list[np.ndarray]:
        """The rows on the host, in pieces."""
        return [np.asarray(self.rows)[: int(self.count)]]

    def with_row(self, shape: EngineShape, turn: Turn) -> LeapRows:
        """The log with the committed plan, if it had steps."""
        values = jnp.stack([x.astype(jnp.float64) for x in _columns(shape, turn)])
        # The row is written in any case and counted only when there were steps: the next one overwrites it.
        count = self.count + (turn.due & (turn.before.plan.steps > 0)).astype(jnp.int32)
        return dataclasses.replace(self, rows=self.rows.at[self.count].set(values), count=count)

    def with_rows(self, shape: EngineShape, turn: Turn) -> LeapRows:
        """The log with the committed plans of the members of a group, of those that had steps."""
        values = jnp.stack([x.astype(jnp.float64) for x in _columns(shape, turn)], axis=-1)
        counts = (turn.due & (turn.before.plan.steps > 0)).astype(jnp.int32)
        at = jnp.where(counts > 0, self.count + jnp.cumsum(counts) - 1, self.rows.shape[0])  # out of bounds: dropped
        return dataclasses.replace(
            self, rows=self.rows.at[at].set(values, mode="drop"), count=self.count + jnp.sum(counts, dtype=jnp.int32)
        )


def _columns(shape: EngineShape, turn: Turn) -> list[Array]:
    """Columns of the row of the committed plan, in order."""
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
        **turn.spent.log_columns(),
    }
    return in_order(LeapLog, shape, columns)


def empty_log(shape: EngineShape) -> LeapRows | NoLog:
    """A log without rows."""
    if not shape.log_rows:
        return NoLog()
    most = max(shape.group_ranks, 1)
    rows = jnp.zeros((shape.log_rows + most, len(recorded(LeapLog, shape))), jnp.float64)
    return LeapRows(rows, jnp.zeros((), jnp.int32), most)


def record(shape: EngineShape, params: ClusterParams, turn: Turn) -> Turn:
    """Record the committed plan."""
    return dataclasses.replace(turn, log=turn.log.with_row(shape, turn))
