"""Requests on their way from prefill to decode ranks: a table of K rows, from the end of a prefill to the end of both ranks' part in it."""

from __future__ import annotations

import dataclasses
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.columns import recorded
from simjax.engine.control.together import entry
from simjax.engine.handover.links import Flows
from simjax.engine.host.result import HandoverLog
from simjax.engine.kv.held_blocks import HeldBlocks, NoHeldBlocks
from simjax.engine.params import ClusterParams
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


class Role(IntEnum):
    """Phases of a request that a rank runs: values of `HandoverParams.role`."""

    BOTH = 0
    PREFILL = 1
    DECODE = 2


class Phase(IntEnum):
    """The decode rank's part in a row."""

    FREE = 0  # the row is not used
    AWAITED = 1  # the decode rank has not begun
    LOADING = 2  # it holds blocks, and the request does not run yet
    SEATED = 3  # it has done its part


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Handovers:
    """Rows of requests with two legs, arrays over K.

    A rank's blocks of a row are those that it does not share through the prefix cache.

    Attributes:
        request: index; R in a free row.
        prefill, decode: ranks of its legs.
        phase: the decode rank's part, `Phase`.
        order: number of the load, in the order in which loads began.
        leg_s: time at which the router gets the request for its second leg; infinity before and after.
        kept: whether the prefill rank keeps its blocks.
        finish_s: end of the prefill; infinity before.
        scheduled_s, preemptions, computed_tokens, last_tokens, prefill_blocks, prefill_held: what the prefill rank knows of it.
        decode_blocks, decode_held: blocks that the decode rank has reserved.
        moved_bytes, moved_blocks: size of its transfer.
        start_s, landed_s: start and end of the transfer.
        prefill_told_s, decode_told_s: times from which either rank knows of that end.
        flows: transfers and links.
        begun: loads so far.
        routed, decode_routed: requests for which the cluster's router, and the decode router, have picked a rank so far.
        decode_of: decode rank of a request with two legs, once it is known; -1 before.
        second_s: time at which a request reached the router for its second leg; infinity before.
        outcome: engine's columns of `HandoverLog`; row R takes what is not read.
    """

    request: Int32[Array, " K"]
    prefill: Int32[Array, " K"]
    decode: Int32[Array, " K"]
    phase: Int32[Array, " K"]
    order: Int32[Array, " K"]
    leg_s: Float64[Array, " K"]
    kept: Bool[Array, " K"]
    finish_s: Float64[Array, " K"]
    scheduled_s: Float64[Array, " K"]
    preemptions: Int32[Array, " K"]
    computed_tokens: Int32[Array, " K"]
    last_tokens: Int32[Array, " K"]
    prefill_blocks: Int32[Array, " K"]
    prefill_held: HeldBlocks | NoHeldBlocks
    decode_blocks: Int32[Array, " K"]
    decode_held: HeldBlocks | NoHeldBlocks
    moved_bytes: Float64[Array, " K"]
    moved_blocks: Int32[Array, " K"]
    start_s: Float64[Array, " K"]
    landed_s: Float64[Array, " K"]
    prefill_told_s: Float64[Array, " K"]
    decode_told_s: Float64[Array, " K"]
    flows: Flows
    begun: Int32[Array, ""]
    routed: Int32[Array, ""]
    decode_routed: Int32[Array, ""]
    decode_of: Int32[Array, " R"]
    second_s: Float64[Array, " R"]
    outcome: Float64[Array, "R+1 G"]

    @property
    def next_landing_s(self) -> Float64[Array, ""]:
        """Time at which the next transfer ends."""
        return self.flows.end_s

    @property
    def next_leg_s(self) -> Float64[Array, ""]:
        """Time at which the router gets the next request for its second leg."""
        return jnp.min(self.leg_s)

    def after(self, due: Bool[Array, ""], due_s: Float64[Array, ""]) -> Bool[Array, ""]:
        """Whether a rank that is due at due_s, if it is, has its turn before the next transfer and second leg."""
        return due & (due_s < self.next_landing_s) & (due_s < self.next_leg_s)

    def next_event_s(self, other_s: Float64[Array, ""]) -> Float64[Array, ""]:
        """Time of the next event, if that of ranks and clients is at other_s."""
        return jnp.minimum(jnp.minimum(self.next_leg_s, self.next_landing_s), other_s)

    def loading(self, i: Array | int) -> Bool[Array, " K"]:
        """Rows whose blocks rank i has reserved, as decode rank, for requests that do not run yet."""
        return (self.phase == Phase.LOADING) & (self.decode == i)

    def keeping(self, i: Array | int) -> Bool[Array, " K"]:
        """Rows whose blocks rank i keeps as prefill rank."""
        return self.kept & (self.prefill == i)

    def blocks(self, i: Array | int) -> Int32[Array, ""]:
        """Blocks of rank i that rows hold."""
        mine = jnp.where(self.loading(i), self.decode_blocks, 0) + jnp.where(self.keeping(i), self.prefill_blocks, 0)
        return jnp.sum(mine, dtype=jnp.int32)

    def num_waiting(self, i: Array | int) -> Int32[Array, ""]:
        """Loads of rank i that do not run yet."""
        return jnp.sum(self.loading(i), dtype=jnp.int32)

    def answers(self, params: ClusterParams, i: Array | int) -> Bool[Array, ""]:
        """Whether requests that finish in rank i are finished for their clients."""
        assert params.handover is not None
        return params.handover.role[i] != Role.PREFILL

    def log_columns(self) -> dict[str, Array]:
        """Columns of `HandoverLog` of all rows, arrays over K."""
        return {
            "prefill_instance": self.prefill,
            "prefill_scheduled_s": self.scheduled_s,
            "prefill_finish_s": self.finish_s,
            "transfer_start_s": self.start_s,
            "transfer_end_s": self.landed_s,
            "transfer_bytes": self.moved_bytes,
            "prefill_cached_tokens": self.prefill_held.outcome().get("cached_tokens", jnp.zeros_like(self.request)),
        }

    def num_loading(self, ranks: int) -> Int32[Array, " N"]:
        """Loads of each rank that do not run yet, which count as waiting."""
        number = jnp.arange(ranks, dtype=jnp.int32)[:, None]
        return jnp.sum((self.phase == Phase.LOADING)[None] & (self.decode[None] == number), axis=1, dtype=jnp.int32)

    def read(self, row: Int32[Array, ""], *names: str) -> tuple[Any, ...]:
        """Fields of one row, in the order of their names."""
        return entry(tuple(getattr(self, name) for name in names), row)

    def row_of(self, request: Int32[Array, ""]) -> tuple[Int32[Array, ""], Bool[Array, ""]]:
        """Row of a request, or a free one; and whether there is one, or none at all (bool[]: the table is not too small)."""
        mine, free = self.request == request, self.phase == Phase.FREE
        row = jnp.where(jnp.any(mine), jnp.argmax(mine), jnp.argmax(free)).astype(jnp.int32)
        return row, jnp.any(mine) | jnp.any(free)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoHandovers:
    """A cluster whose ranks run both phases."""

    def after(self, due: Bool[Array, ""], due_s: Float64[Array, ""]) -> Bool[Array, ""]:
        """Whether a rank that is due at due_s, if it is, has its turn before the next transfer and second leg."""
        return due

    def next_event_s(self, other_s: Float64[Array, ""]) -> Float64[Array, ""]:
        """Time of the next event, if that of ranks and clients is at other_s."""
        return other_s

    def blocks(self, i: Array | int) -> int:
        """Blocks of rank i that rows hold."""
        return 0

    def num_waiting(self, i: Array | int) -> int:
        """Loads of rank i that do not run yet."""
        return 0

    def answers(self, params: ClusterParams, i: Array | int) -> Bool[Array, ""]:
        """Whether requests that finish in rank i are finished for their clients."""
        return jnp.ones((), bool)

    def num_loading(self, ranks: int) -> int:
        """Loads that do not run yet."""
        return 0


def initial_handovers(shape: EngineShape, params: ClusterParams, held: HeldBlocks | NoHeldBlocks) -> Handovers | NoHandovers:
    """The table before the run; `held` are holds of requests that hold nothing, of one rank or more."""
    K, R = shape.handovers, shape.requests
    if not K:
        return NoHandovers()
    assert params.handover is not None
    i32, f64, never, off = (
        jnp.zeros((K,), jnp.int32),
        jnp.zeros((K,), jnp.float64),
        jnp.full((K,), NEVER, jnp.float64),
        jnp.zeros((K,), bool),
    )
    nothing = jax.tree.map(lambda x: jnp.broadcast_to(x.reshape(-1)[0], (K,)), held)
    zero = jnp.zeros((), jnp.int32)
    return Handovers(
        request=jnp.full((K,), R, jnp.int32),
        prefill=i32,
        decode=i32,
        phase=i32,
        order=i32,
        leg_s=never,
        kept=off,
        finish_s=never,
        scheduled_s=never,
        preemptions=i32,
        computed_tokens=i32,
        last_tokens=i32,
        prefill_blocks=i32,
        prefill_held=nothing,
        decode_blocks=i32,
        decode_held=nothing,
        moved_bytes=f64,
        moved_blocks=i32,
        start_s=never,
        landed_s=never,
        prefill_told_s=never,
        decode_told_s=never,
        flows=Flows.none_yet(K, shape.links, params.handover.path.shape[-1]),
        begun=zero,
        routed=zero,
        decode_routed=zero,
        decode_of=jnp.full((R,), -1, jnp.int32),
        second_s=jnp.full((R,), NEVER, jnp.float64),
        outcome=jnp.full((R + 1, len(recorded(HandoverLog, shape))), NEVER, jnp.float64),
    )
