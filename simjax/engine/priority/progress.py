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

from simjax.engine.kv.held_blocks import HeldBlocks
from simjax.engine.rank import NEVER, Slots
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

COLUMNS = ("preemptions", "scheduled_s", "first_token_s", "token_s")
"""Fields of `Slots` that are kept as they are; the first column of the table is `num_tokens`, and with prefix caches the last one
`HeldBlocks.cached_tokens`."""


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
        row = jnp.array([0.0, 0.0, NEVER, NEVER, NEVER] + [0.0] * bool(shape.prefix_nodes), jnp.float64)
        return Progress(jnp.broadcast_to(row, (shape.requests + 1, row.shape[0])))

    def columns(self) -> dict[str, Array]:
        """The table by its columns."""
        names = ("num_tokens", *COLUMNS, "cached_tokens")
        return {name: self.table[:, c] for c, name in zip(range(self.table.shape[1]), names, strict=False)}

    def num_tokens(self, request: Int32[Array, " W"], prompt: Int32[Array, " W"]) -> Int32[Array, " W"]:
        """Tokens that requests of the queue have to compute: their prompts, and what they had generated when they were preempted."""
        return jnp.maximum(self.table[request, 0].astype(jnp.int32), prompt)

    def restored(self, slots: Slots, at: Int32[Array, ""], joined: Bool[Array, ""]) -> tuple[Slots, Bool[Array, ""]]:
        """The slots once the request that has joined at `at`, if it has, has back what it kept; and whether it had been preempted."""
        row = self.table[jnp.minimum(slots.request[at], self.table.shape[0] - 1)]
        back = joined & (row[0] > 0)
        kept = {name: getattr(slots, name) for name in COLUMNS}
        kept = {name: x.at[at].set(jnp.where(back, row[1 + c].astype(x.dtype), x[at])) for c, (name, x) in enumerate(kept.items())}
        if isinstance(held := slots.held, HeldBlocks):
            found = jnp.where(back, row[-1].astype(jnp.int32), held.cached_tokens[at])
            held = dataclasses.replace(held, cached_tokens=held.cached_tokens.at[at].set(found))
        return dataclasses.replace(slots, held=held, **kept), back


def kept_rows(slots: Slots) -> Float64[Array, "A F"]:
    """Rows of the table for the requests in the slots, once they are preempted."""
    columns = [getattr(slots, name).astype(jnp.float64) for name in COLUMNS]
    found = [slots.held.cached_tokens.astype(jnp.float64)] if isinstance(slots.held, HeldBlocks) else []
    return jnp.stack([slots.num_tokens.astype(jnp.float64), columns[0] + 1.0, *columns[1:], *found], axis=1)


def initial_progress(shape: EngineShape) -> Progress | NoProgress:
    """The record before the run."""
    return Progress.none(shape) if shape.priorities else NoProgress()
