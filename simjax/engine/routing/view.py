"""The ranks as the router sees them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from simjax.engine.control.select import select
from simjax.engine.kv.lookup import Contents, copied_if
from simjax.engine.rank import NEVER
from simjax.engine.shape import EngineShape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterView:
    """The ranks as the router saw them at `seen_s`.

    Attributes:
        seen_s: time of that look.
        load, kv_load: measures of `simjax.engine.routing.scores`.
        contents: of the prefix caches, None without.
        waiting: waiting requests; None where no router compares them.
    """

    seen_s: Float64[Array, ""]
    load: Float64[Array, " N"]
    kv_load: Float64[Array, " N"]
    contents: Contents | None
    waiting: Int32[Array, " N"] | None = None

    @staticmethod
    def none_yet(shape: EngineShape, contents: Contents | None) -> RouterView:
        """A view that any look renews."""
        zero = jnp.zeros((shape.ranks,), jnp.float64)
        waiting = jnp.zeros((shape.ranks,), jnp.int32) if shape.router_books else None
        return RouterView(jnp.full((), -NEVER, jnp.float64), zero, zero, contents, waiting)

    def renewed(self, new: RouterView, staleness_s: Float64[Array, ""], looks: Bool[Array, ""]) -> RouterView:
        """The new view if the router looks and this one is `staleness_s` old."""
        looks = looks & (new.seen_s - self.seen_s >= staleness_s)
        contents = self.contents
        if contents is not None and new.contents is not None:
            contents = copied_if(looks, new.contents, contents)
        old, new = (dataclasses.replace(x, contents=None) for x in (self, new))
        return dataclasses.replace(select(looks, new, old), contents=contents)

    def kept(self, seen: RouterView) -> RouterView:
        """The view that the state keeps."""
        return seen


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FreshView:
    """No memory: the router always sees the ranks as they are."""

    def renewed(self, new: RouterView, staleness_s: Float64[Array, ""], looks: Bool[Array, ""]) -> RouterView:
        """The new view."""
        return new

    def kept(self, seen: RouterView) -> FreshView:
        """Nothing is kept."""
        return self
