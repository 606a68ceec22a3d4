"""Links that transfers share: all at once in equal parts, or one after the other.

A transfer's rate is the least, over the links of its path, of the link's capacity over the number of transfers on it. Rates change only
when a transfer begins or ends; in between what is left of each falls linearly, so the next end is a minimum.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.control.together import together
from simjax.engine.params import HandoverParams
from simjax.engine.rank import NEVER
from simjax.latency.rounding import product

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flows:
    """Transfers under way, rows of `Handovers`, and the links.

    Attributes:
        at_s: time to which the rows have been advanced.
        path: links of each.
        left_bytes, rate: bytes that are left, and bytes per second.
        ends_s: time at which each ends if no other begins or ends, infinity for rows whose bytes are not on their way.
        on_link: number of transfers on each link.
        free_s: time at which each link is free, where transfers have it one after the other.
        end_s, ending: time at which the next transfer ends, infinity for none, and its row.
    """

    at_s: Float64[Array, ""]
    path: Int32[Array, "K H"]
    left_bytes: Float64[Array, " K"]
    rate: Float64[Array, " K"]
    ends_s: Float64[Array, " K"]
    on_link: Int32[Array, " X"]
    free_s: Float64[Array, " X"]
    end_s: Float64[Array, ""]
    ending: Int32[Array, ""]

    @staticmethod
    def none_yet(rows: int, links: int, hops: int) -> Flows:
        """Links without transfers."""
        zero, f64, never = jnp.zeros((), jnp.float64), jnp.zeros((rows,), jnp.float64), jnp.full((rows,), NEVER, jnp.float64)
        free, first = jnp.zeros((links,), jnp.float64), jnp.zeros((), jnp.int32)
        path = jnp.full((rows, hops), links - 1, jnp.int32)
        return Flows(zero, path, f64, f64, never, jnp.zeros((links,), jnp.int32), free, never[0], first)

    def begun(
        self, handover: HandoverParams, now_s: Array, row: Array, pair: tuple[Array, Array], left_bytes: Array, wanted: Bool[Array, ""]
    ) -> tuple[Flows, Float64[Array, ""]]:
        """The flows once the transfer of a row has begun with `left_bytes`, if that is wanted; and the time at which it gets its links.

        `pair` is its prefill and decode rank.
        """
        path, fifo = handover.path[pair], handover.fifo
        begin_s = jnp.where(fifo, jnp.maximum(now_s, jnp.max(self.free_s[path])), now_s)
        end_s = begin_s + left_bytes / jnp.min(handover.capacity[path])  # with the links for itself
        fills = path == self.free_s.shape[0] - 1  # the link that fills short paths is always free
        free_s = self.free_s.at[path].set(jnp.where(wanted & fifo & ~fills, end_s, self.free_s[path]))
        mine = wanted & (jnp.arange(self.ends_s.shape[0], dtype=jnp.int32) == row)
        rows = dataclasses.replace(
            self._advanced(now_s),
            free_s=free_s,
            path=jnp.where(mine[:, None], path, self.path),
            ends_s=jnp.where(mine, end_s, self.ends_s),
            on_link=self.on_link.at[path].add(1),
        )
        rows = dataclasses.replace(rows, left_bytes=jnp.where(mine, left_bytes, rows.left_bytes))
        return select(wanted, rows._renewed(handover), self), begin_s

    def ended(self, handover: HandoverParams, wanted: Bool[Array, ""]) -> Flows:
        """The flows once the next transfer to end has ended, if that is wanted."""
        path = self.path[self.ending]
        mine = jnp.arange(self.ends_s.shape[0], dtype=jnp.int32) == self.ending
        rows = dataclasses.replace(
            self._advanced(self.end_s), ends_s=jnp.where(mine, NEVER, self.ends_s), on_link=self.on_link.at[path].add(-1)
        )
        return select(wanted, rows._renewed(handover), self)

    def _advanced(self, now_s: Array) -> Flows:
        """The flows with what is left of each at now_s."""
        left = jnp.maximum(self.left_bytes - product(self.rate, now_s - self.at_s), 0.0)
        return dataclasses.replace(self, at_s=now_s, left_bytes=jnp.where(jnp.isfinite(self.ends_s), left, 0.0))

    def _renewed(self, handover: HandoverParams) -> Flows:
        """The flows with the rates, and so the ends, that go with the transfers on the links."""
        share = together(handover.capacity / jnp.maximum(self.on_link, 1).astype(jnp.float64))
        rate = jnp.min(share.at[self.path].get(mode="promise_in_bounds"), axis=-1)
        ends_s = jnp.where(jnp.isfinite(self.ends_s) & ~handover.fifo, self.at_s + self.left_bytes / rate, self.ends_s)
        ending = jnp.argmin(ends_s).astype(jnp.int32)
        return dataclasses.replace(self, rate=rate, ends_s=ends_s, end_s=ends_s[ending], ending=ending)
