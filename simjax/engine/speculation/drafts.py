"""What a request and a rank keep of speculative decoding.

A step verifies the drafts of a request: some of them are accepted, from the left, and one token more comes out. An asynchronous scheduler
forms the next step before it knows how many. It takes all of them for accepted, so a step for a request that turns out to have its last
token may run for nothing.

Legend: S slots (A = S+W array entries), N ranks, W window.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoDrafts:
    """A decode computes one token, and gets one."""

    decoding: ClassVar[None] = None

    def admitted(self, taken: Bool[Array, " W"], blocks: Int32[Array, " W"]) -> NoDrafts:
        """The record of the window once those requests of it have joined, with so many blocks."""
        return self

    @staticmethod
    def in_prompt(new: Int32[Array, " A"]) -> Bool[Array, " A"]:
        """Requests that compute their prompt, of those with so many new tokens: a decode computes one."""
        return new > 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drafts:
    """Requests in the slots; arrays over S+W slots (a leading N axis in `ClusterState`).

    Attributes:
        decoding: the request has got a token since its admission, so it has drafts.
        emitted, rejected: tokens that it got in its latest step, and drafts that were not accepted there.
        blocks: KV blocks that it holds: those taken for rejected drafts and for the lookahead stay.
    """

    decoding: Bool[Array, "*N A"]
    emitted: Int32[Array, "*N A"]
    rejected: Int32[Array, "*N A"]
    blocks: Int32[Array, "*N A"]

    def admitted(self, taken: Bool[Array, " W"], blocks: Int32[Array, " W"]) -> Drafts:
        """The record of the window once those requests of it have joined, with so many blocks."""
        return dataclasses.replace(self.without(taken), blocks=jnp.where(taken, blocks, self.blocks))

    def without(self, out: Bool[Array, " B"]) -> Drafts:
        """The record once those requests hold nothing."""
        none = {name: jnp.where(out, 0, getattr(self, name)) for name in ("emitted", "rejected", "blocks")}
        return Drafts(decoding=self.decoding & ~out, **none)

    def in_prompt(self, new: Int32[Array, " A"]) -> Bool[Array, " A"]:
        """Requests that compute their prompt, of those with so many new tokens."""
        return (new > 1) & ~self.decoding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoDraftTotals:
    """Nothing is counted."""

    def columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DraftTotals:
    """Totals of a rank so far; scalars (a leading N axis in `ClusterState`).

    Attributes:
        drafts: times that a step verified drafts of a request (vLLM's `num_drafts`).
        draft_tokens, accepted_tokens: drafts that were verified and accepted.
    """

    drafts: Int64[Array, "*N"]
    draft_tokens: Int64[Array, "*N"]
    accepted_tokens: Int64[Array, "*N"]

    def columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`, with a leading axis N."""
        return {"drafts": self.drafts, "draft_tokens": self.draft_tokens, "accepted_tokens": self.accepted_tokens}


def initial_drafts(shape: EngineShape) -> Drafts | NoDrafts:
    """Slots without a request."""
    if not shape.speculation:
        return NoDrafts()
    none = jnp.zeros((shape.ranks, shape.seats), jnp.int32)
    return Drafts(none > 0, none, none, none)


def initial_totals(shape: EngineShape) -> DraftTotals | NoDraftTotals:
    """Ranks that have verified nothing."""
    if not shape.speculation:
        return NoDraftTotals()
    none = jnp.zeros((shape.ranks,), jnp.int64)
    return DraftTotals(none, none, none)
