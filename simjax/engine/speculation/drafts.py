"""What a request and a rank keep of speculative decoding.

A step verifies the drafts of a request: some of them are accepted, from the left, and one token more comes out. An asynchronous scheduler
forms the next step before it knows how many. It takes all of them for accepted, so a step for a request that turns out to have its last
token may run for nothing.

Legend: S slots (A = S+W array entries), N ranks, W window, Y = 3 counts.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64

    from simjax.engine.turn import Turn

_BITS = 5  # of the tokens of a step: at most 16 drafts and one more
_COUNT = (1 << _BITS) - 1
_JOINED, _PADDED = 1 << 2 * _BITS, 2 << 2 * _BITS
_EARLIER = 2 * _BITS + 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoDrafts:
    """A decode computes one token, and gets one."""

    decoding: ClassVar[None] = None

    def admitted(self, taken: Bool[Array, " W"], blocks: Int32[Array, " W"], padded: Bool[Array, " W"]) -> NoDrafts:
        """The record of the window once those requests of it have joined, with so many blocks, some of them padded."""
        return self

    def loaded(self, blocks: Array) -> NoDrafts:
        """The record of a request that has come with its KV cache, in so many blocks."""
        return self

    def own_blocks(self, at: Array, blocks: Array) -> Array:
        """Blocks of the request in a slot, which has so many full or part-filled ones."""
        return blocks

    def blocks_at(self, at: Array) -> None:
        """Blocks of the request in a slot, where they do not follow from its computed tokens."""
        return None

    def back(self, token: Bool[Array, " A"], others: Bool[Array, " A"]) -> Int32[Array, " A"]:
        """Tokens of requests in the oldest batch that is in flight."""
        return token.astype(jnp.int32)

    @staticmethod
    def in_prompt(new: Int32[Array, " A"]) -> Bool[Array, " A"]:
        """Requests that compute their prompt, of those with so many new tokens: a decode computes one."""
        return new > 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Drafts:
    """Requests in the slots; arrays over S+W slots (a leading N axis in `ClusterState`).

    Attributes:
        latest: `emitted`, `rejected`, `joined`, `padded` and `earlier` in one number, for every array over the slots costs a tick several
            kernels.
        blocks: KV blocks that it holds: those taken for rejected drafts and for the lookahead stay.
    """

    latest: Int32[Array, "*N A"]
    blocks: Int32[Array, "*N A"]

    @property
    def emitted(self) -> Int32[Array, "*N A"]:
        """Tokens that each got in its latest step that gave it any, 0 for one that has got none since its admission."""
        return self.latest & _COUNT

    @property
    def rejected(self) -> Int32[Array, "*N A"]:
        """Drafts that were not accepted in that step."""
        return (self.latest >> _BITS) & _COUNT

    @property
    def decoding(self) -> Bool[Array, "*N A"]:
        """Requests that have drafts, because they have got a token since their admission."""
        return self.emitted > 0

    @property
    def joined(self) -> Bool[Array, "*N A"]:
        """Requests that were admitted to the step under formation."""
        return (self.latest & _JOINED) > 0

    @property
    def padded(self) -> Bool[Array, "*N A"]:
        """Those of them whose drafts are padding, and so never right."""
        return (self.latest & _PADDED) > 0

    @property
    def earlier(self) -> Int32[Array, "*N A"]:
        """Between pp stages, tokens of the batch before the latest, if that was in flight when the latest was sent."""
        return self.latest >> _EARLIER

    def in_flight(
        self,
        in_batch: Bool[Array, " A"],
        sampled: Bool[Array, " A"],
        emitted: Int32[Array, " A"],
        rejected: Int32[Array, " A"],
        earlier: Int32[Array, " A"],
    ) -> Drafts:
        """The record once a batch is on its way through the pp stages, of which some will get so many tokens."""
        latest = emitted + (rejected << _BITS) + (earlier << _EARLIER)
        of_chunk = jnp.where(in_batch & ~self.decoding, 0, self.latest)
        return dataclasses.replace(self, latest=jnp.where(sampled, latest, of_chunk))

    def back(self, token: Bool[Array, " A"], others: Bool[Array, " A"]) -> Int32[Array, " A"]:
        """Tokens of requests in the oldest batch that is in flight, some of which are in another one too."""
        return jnp.where(token, jnp.where(others, self.earlier, self.emitted), 0)

    def after(self, in_step: Bool[Array, " A"], emitted: Int32[Array, " A"], rejected: Int32[Array, " A"]) -> Drafts:
        """The record once those in a step have got so many tokens; a chunk of a prompt gives none."""
        return dataclasses.replace(self, latest=jnp.where(in_step, emitted + (rejected << _BITS), self.latest))

    def admitted(self, taken: Bool[Array, " W"], blocks: Int32[Array, " W"], padded: Bool[Array, " W"]) -> Drafts:
        """The record of the window once those requests of it have joined, with so many blocks, some of them padded."""
        latest = jnp.where(padded, _JOINED | _PADDED, _JOINED)
        return Drafts(jnp.where(taken, latest, self.latest), jnp.where(taken, blocks, self.blocks))

    def loaded(self, blocks: Array) -> Drafts:
        """The record of a request that has come with its KV cache, in so many blocks."""
        return Drafts(jnp.zeros((), jnp.int32), blocks)

    def own_blocks(self, at: Array, blocks: Array) -> Array:
        """Blocks of the request in a slot, which has so many full or part-filled ones."""
        return self.blocks[at]

    def blocks_at(self, at: Array) -> Int32[Array, ""]:
        """Blocks of the request in a slot."""
        return self.blocks[at]

    def without(self, out: Array, flying: Array) -> Drafts:
        """The record once those requests hold nothing; what is in flight of some has yet to come back."""
        return Drafts(jnp.where(out & ~flying, 0, self.latest), jnp.where(out, 0, self.blocks))

    def in_prompt(self, new: Int32[Array, " A"]) -> Bool[Array, " A"]:
        """Requests that compute their prompt, of those with so many new tokens."""
        return (new > 1) & ~self.decoding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoDraftTotals:
    """Nothing is counted."""

    def after(self, turn: Turn) -> NoDraftTotals:
        """The record once the turn's plan has been carried out."""
        return self

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog`."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DraftTotals:
    """Totals of every rank so far.

    Attributes:
        counts: times that a step verified drafts of a request (vLLM's `num_drafts`), drafts that were verified, and those accepted.
    """

    counts: Int64[Array, "N Y"]

    def after(self, turn: Turn) -> DraftTotals:
        """The record once the turn's plan has been carried out."""
        assert turn.emitted.drafts is not None
        return DraftTotals(self.counts.at[turn.i].add(jnp.where(turn.due, turn.emitted.drafts, 0).astype(jnp.int64)))

    def instance_columns(self) -> dict[str, Any]:
        """Columns of `InstanceLog` on the host, with a leading axis N."""
        return dict(zip(("drafts", "draft_tokens", "accepted_tokens"), np.asarray(self.counts).T, strict=True))


def initial_drafts(shape: EngineShape) -> Drafts | NoDrafts:
    """Slots without a request."""
    if not shape.speculation:
        return NoDrafts()
    none = jnp.zeros((shape.ranks, shape.seats), jnp.int32)
    return Drafts(none, none)


def initial_totals(shape: EngineShape) -> DraftTotals | NoDraftTotals:
    """Ranks that have verified nothing."""
    if not shape.speculation:
        return NoDraftTotals()
    return DraftTotals(jnp.zeros((shape.ranks, 3), jnp.int64))
