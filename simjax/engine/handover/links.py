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
        flowing: whether a row's bytes are on their way.
        left_bytes, rate: bytes that are left, and bytes per second.
        on_link: number of transfers on each link.
        free_s: time at which each link is free, where transfers have it one after the other.
        end_s, ending: time at which the next transfer ends, infinity for none, and its row.
    """

    at_s: Float64[Array, ""]
    flowing: Bool[Array, " K"]
    left_bytes: Float64[Array, " K"]
    rate: Float64[Array, " K"]
    on_link: Int32[Array, " X"]
    free_s: Float64[Array, " X"]
    end_s: Float64[Array, ""]
    ending: Int32[Array, ""]

    @staticmethod
    def none_yet(rows: int, links: int) -> Flows:
        """Links without transfers."""
        zero, f64, f64_links = jnp.zeros((), jnp.float64), jnp.zeros((rows,), jnp.float64), jnp.zeros((links,), jnp.float64)
        never, first = jnp.full((), NEVER, jnp.float64), jnp.zeros((), jnp.int32)
        return Flows(zero, jnp.zeros((rows,), bool), f64, f64, jnp.zeros((links,), jnp.int32), f64_links, never, first)

    def changed(
        self,
        handover: HandoverParams,
        now_s: Float64[Array, ""],
        row: Int32[Array, ""],
        path: Int32[Array, " H"],
        pairs: tuple[Int32[Array, " K"], Int32[Array, " K"]],
        begins: Float64[Array, ""],
        wanted: Bool[Array, ""],
        end: bool,
    ) -> Flows:
        """The flows at now_s once the transfer of a row, over a path, has begun with `begins` bytes, or has ended, if that is wanted.

        `pairs` are the prefill and decode ranks of all rows, that one's included.
        """
        mine = wanted & (jnp.arange(self.left_bytes.shape[0], dtype=jnp.int32) == row)
        elapsed_s = now_s - self.at_s
        left = jnp.where(self.flowing, jnp.maximum(self.left_bytes - product(self.rate, elapsed_s), 0.0), 0.0)
        left = jnp.where(mine, 0.0 if end else begins, left)
        flowing = (self.flowing & ~mine) if end else (self.flowing | mine)
        on_link = self.on_link.at[path].add(jnp.where(wanted, -1 if end else 1, 0))
        share = handover.capacity / jnp.maximum(on_link, 1).astype(jnp.float64)
        rate = jnp.min(share[handover.path[pairs]], axis=-1)
        ends_s = jnp.where(flowing, now_s + left / rate, NEVER)
        ending = jnp.argmin(ends_s).astype(jnp.int32)
        new = Flows(now_s, flowing, left, rate, on_link, self.free_s, ends_s[ending], ending)
        return jax.tree.map(lambda x, y: jnp.where(wanted, x, y), new, self)

    def in_turn(
        self, handover: HandoverParams, now_s: Float64[Array, ""], path: Int32[Array, " H"], bytes_: Float64[Array, ""], wanted: Array
    ) -> tuple[Flows, Float64[Array, ""], Float64[Array, ""]]:
        """The flows with a transfer that has the links of its path to itself once all of them are free, and its begin and end."""
        begin_s = jnp.maximum(now_s, jnp.max(self.free_s[path]))
        end_s = begin_s + bytes_ / jnp.min(handover.capacity[path])
        fills = path == self.free_s.shape[0] - 1  # the link that fills short paths is always free
        free_s = self.free_s.at[path].set(jnp.where(wanted & ~fills, end_s, self.free_s[path]))
        return dataclasses.replace(self, free_s=free_s), begin_s, end_s
