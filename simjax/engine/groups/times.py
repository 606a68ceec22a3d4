"""Times that the plans of a group have in common: those of one member are those of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array

from simjax.engine.params import ClusterParams

if TYPE_CHECKING:
    from jaxtyping import Bool


def for_groups(params: ClusterParams, times: dict[str, Array], changed: Bool[Array, " N"]) -> tuple[dict[str, Array], Bool[Array, " N"]]:
    """Times of the plans, arrays over N, once those of the changed ranks hold for their groups, and the ranks whose plans have changed.

    Of a group one rank may have changed, or several that have the same times. Where ranks step by themselves nothing is to be done.
    """
    if params.groups is None:
        return times, changed
    of_rank = params.groups.of_rank
    source = (of_rank[:, None] == of_rank[None, :]) & changed[None, :]
    some, first = jnp.any(source, axis=1), jnp.argmax(source, axis=1)
    return {name: jnp.where(some, x[first], x) for name, x in times.items()}, some
