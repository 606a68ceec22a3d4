"""Groups of ranks that step together: the data-parallel ranks of a mixture of experts, vLLM's `DPEngineCoreProc`.

The ranks of a group take every forward together, for they exchange tokens in each layer. A rank that has nothing to run computes a dummy.
A counter of the forwards of a wave says when the ranks ask each other whether any has unfinished requests: after every `sync_interval`-th,
and by the release after the first. If none has, they sleep until a request comes to one of them, which starts a wave in all.

A forward is formed by all ranks at one instant, each by its own horizon of one time; a rank whose formation goes on in the next tick
(`Formation.continues`) keeps the others waiting, whose part is kept in their `Offers`. All plans of a group have the same times.

With asynchronous scheduling an idle rank has committed itself to a dummy as early as another rank has formed its step: when the forward
before began. The answer to a question is that of this moment: a request whose last token is on its way is unfinished. When a wave stops,
the next one sees what has come by the end of its last forward.

A rank whose queue cannot move (a prompt that may not be split and exceeds the budget) keeps nobody awake, as it would in vLLM.

Legend: N ranks, G groups, D ranks of the largest group.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32, Int64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoGroups:
    """Every rank steps by itself."""

    def awake(self) -> bool:
        """Whether a wave runs."""
        return False

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Offers:
    """What ranks have formed for the forward that comes, and remember of the last one; arrays over N, or over D in a turn.

    Attributes:
        formed: the formation of the forward that comes has ended in this rank, not yet in all.
        steps: most steps that it may take before anything but its contexts changes.
        next_queued_s: time at which its next request, not visible yet, was or will be queued; infinity when none is known.
        open: whether an arrival could join it before its plan ends.
        refused: a waiting request was visible and stayed out.
        waits: and it will join without further requests.
        capacity_bound: its last formation that could have admitted all left requests waiting (vLLM's `prefill_capacity_bound`).
    """

    formed: Bool[Array, "*N"]
    steps: Int32[Array, "*N"]
    next_queued_s: Float64[Array, "*N"]
    open: Bool[Array, "*N"]
    refused: Bool[Array, "*N"]
    waits: Bool[Array, "*N"]
    capacity_bound: Bool[Array, "*N"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Groups:
    """All groups.

    Attributes:
        running: a wave runs.
        counter: forwards of the wave that have ended.
        unfinished: some rank had unfinished requests when the forward under way was formed.
        offers: of all ranks.
        dummy_steps, dummy_s: dummies of every rank, and seconds that they took.
    """

    running: Bool[Array, " G"]
    counter: Int32[Array, " G"]
    unfinished: Bool[Array, " G"]
    offers: Offers
    dummy_steps: Int64[Array, " N"]
    dummy_s: Float64[Array, " N"]

    def awake(self) -> Bool[Array, ""]:
        """Whether a wave runs."""
        return jnp.any(self.running)

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog` on the host, with a leading axis N."""
        return {name: np.asarray(getattr(self, name)) for name in ("dummy_steps", "dummy_s")}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Wave:
    """The group whose turn it is, as its forward has ended; scalars but for `present` (bool[D]).

    Attributes:
        group: its number.
        present: which of the D members exist; the others repeat one of the cluster's ranks, and what they do is dropped.
        running: a wave runs still.
        counter: its forwards so far.
        stops: its last forward is still under way (`simjax.engine.groups.handovers`).
    """

    group: Int32[Array, ""] | int
    present: Bool[Array, " D"]
    running: Bool[Array, ""]
    counter: Int32[Array, ""]
    stops: Bool[Array, ""]


def initial_groups(shape: EngineShape) -> Groups | NoGroups:
    """Groups that sleep."""
    if not shape.groups:
        return NoGroups()
    N, off = shape.ranks, jnp.zeros((shape.groups,), bool)
    none, zero = jnp.zeros((N,), bool), jnp.zeros((N,), jnp.int32)
    never = jnp.full((N,), NEVER, jnp.float64)
    offers = Offers(formed=none, steps=zero, next_queued_s=never, open=none, refused=none, waits=none, capacity_bound=none)
    counter = jnp.zeros((shape.groups,), jnp.int32)
    return Groups(off, counter, off, offers, jnp.zeros((N,), jnp.int64), jnp.zeros((N,), jnp.float64))
