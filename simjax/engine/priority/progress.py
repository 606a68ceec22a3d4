"""What preempted requests keep while they wait in the queue among the others.

Under vLLM's priority policy a preempted request goes back into the heap, and any number of more urgent ones may be admitted before it. So
it leaves the slots, and what it has got so far is kept by its index.

Legend: R requests, W window.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.rank import NEVER, Slots
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

COLUMNS = ("preemptions", "scheduled_s", "first_token_s", "token_s")
"""Fields of `Slots` that are kept as they are; the first column of the table is `num_tokens`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoProgress:
    """Preempted requests stay in the slots."""

    def num_tokens(self, request: Int32[Array, " W"], prompt: Int32[Array, " W"]) -> Int32[Array, " W"]:
        """Tokens that requests of the queue have to compute: their prompts."""
        return prompt


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Progress:
    """Preempted requests.

    Attributes:
        table: of each request its tokens when it was last preempted, 0 if it never was, and `COLUMNS`; row R takes what is not read.
    """

    table: Float64[Array, "R+1 F"]

    @staticmethod
    def none(shape: EngineShape) -> Progress:
        """Nobody was preempted yet."""
        row = jnp.array([0.0, 0.0, NEVER, NEVER, NEVER], jnp.float64)
        return Progress(jnp.broadcast_to(row, (shape.requests + 1, row.shape[0])))

    def columns(self) -> dict[str, Array]:
        """The table by its columns."""
        return {name: self.table[:, c] for c, name in enumerate(("num_tokens", *COLUMNS))}

    def num_tokens(self, request: Int32[Array, " W"], prompt: Int32[Array, " W"]) -> Int32[Array, " W"]:
        """Tokens that requests of the queue have to compute: their prompts, and what they had generated when they were preempted."""
        return jnp.maximum(self.table[request, 0].astype(jnp.int32), prompt)

    def restored(self, slots: Slots, at: Int32[Array, ""], joined: Bool[Array, ""]) -> tuple[Slots, Bool[Array, ""]]:
        """The slots once the request that has joined at `at`, if it has, has back what it kept; and whether it had been preempted."""
        row = self.table[jnp.minimum(slots.request[at], self.table.shape[0] - 1)]
        back = joined & (row[0] > 0)
        kept = {name: getattr(slots, name) for name in COLUMNS}
        kept = {name: x.at[at].set(jnp.where(back, row[1 + c].astype(x.dtype), x[at])) for c, (name, x) in enumerate(kept.items())}
        return dataclasses.replace(slots, **kept), back


def kept_rows(slots: Slots) -> Float64[Array, "A F"]:
    """Rows of the table for the requests in the slots, once they are preempted."""
    columns = [getattr(slots, name).astype(jnp.float64) for name in COLUMNS]
    return jnp.stack([slots.num_tokens.astype(jnp.float64), columns[0] + 1.0, *columns[1:]], axis=1)


def initial_progress(shape: EngineShape) -> Progress | NoProgress:
    """The record before the run."""
    return Progress.none(shape) if shape.priorities else NoProgress()
