"""What a request has in flight: the batches on their way through the pp stages that hold it.

Legend: S slots (A = S+W array entries), N ranks.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.shape import EngineShape
from simjax.engine.speculation.drafts import Drafts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32

    from simjax.engine.params import RankParams
    from simjax.engine.pipeline.line import Line, NoLine
    from simjax.engine.rank import Slots

NOT_SAMPLED = -float("inf")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoFlight:
    """Nothing is in flight when a step is formed, but for the step before."""

    @staticmethod
    def unseen(slots: Slots, horizon_s: Float64[Array, ""]) -> tuple[Bool[Array, " A"], Int32[Array, " A"]]:
        """With drafts, requests that got tokens of which the formation does not know, and the tokens of each that it knows of."""
        assert isinstance(slots.drafts, Drafts)
        some = (slots.drafts.emitted > 0) & (slots.token_s > horizon_s)
        return some, slots.num_tokens - slots.drafts.emitted

    @staticmethod
    def early(limits: RankParams, line: Line | NoLine) -> Bool[Array, ""]:
        """Requests that may not be decoded again yet."""
        return jnp.zeros((), bool)

    def flying(self) -> Bool[Array, ""]:
        """Requests of which anything is in flight."""
        return jnp.zeros((), bool)

    def admitted(self, fresh: Bool[Array, " W"]) -> NoFlight:
        """The record of the window once those requests of it have taken their slots."""
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flight:
    """Batches in flight that hold the request of a slot; arrays over S+W slots (a leading N axis in `ClusterState`).

    Attributes:
        batches: places in the ring of the batches that compute tokens of it, as bits.
        sampled: places of those that sample a token for it, as bits.
        eligible: first call of the scheduler that may decode it again.
        ready_s: time from which the first stage has its latest token; `NOT_SAMPLED` where none was sampled since its admission.
    """

    batches: Int32[Array, "*N A"]
    sampled: Int32[Array, "*N A"]
    eligible: Int32[Array, "*N A"]
    ready_s: Float64[Array, "*N A"]

    @staticmethod
    def unseen(slots: Slots, horizon_s: Float64[Array, ""]) -> tuple[Bool[Array, " A"], Int32[Array, " A"]]:
        """With drafts, requests with tokens in flight, and the tokens of each that have come back."""
        assert isinstance(slots.flight, Flight)
        return slots.flight.sampled != 0, slots.num_tokens

    def early(self, limits: RankParams, line: Line | NoLine) -> Bool[Array, " A"]:
        """Requests that may not be decoded again yet, because too few calls have passed."""
        return limits.async_scheduling & (line.call < self.eligible)

    def flying(self) -> Bool[Array, " A"]:
        """Requests of which anything is in flight."""
        return self.batches != 0

    def admitted(self, fresh: Bool[Array, " W"]) -> Flight:
        """The record of the window once those requests of it have taken their slots."""
        none = {name: jnp.where(fresh, 0, getattr(self, name)) for name in ("batches", "sampled", "eligible")}
        return Flight(**none, ready_s=jnp.where(fresh, NOT_SAMPLED, self.ready_s))

    @property
    def placeholders(self) -> Int32[Array, "*A"]:
        """Tokens in flight of each request, vLLM's `num_output_placeholders` where it runs."""
        return jax.lax.population_count(self.sampled)


def initial_flight(shape: EngineShape) -> Flight | NoFlight:
    """Slots of which nothing is in flight."""
    if not shape.pipeline_stages:
        return NoFlight()
    none = jnp.zeros((shape.ranks, shape.seats), jnp.int32)
    return Flight(none, none, none, jnp.full((shape.ranks, shape.seats), NOT_SAMPLED, jnp.float64))
